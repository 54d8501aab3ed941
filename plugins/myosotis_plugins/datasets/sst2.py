"""Sentiment of sentences of film reviews."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from myosotis import hookimpl
from myosotis.interfaces import Row, Split, TaskDataset
from myosotis_plugins.datasets.benchmark import Benchmark

MYOSOTIS_API = 1

LABELS = ("negative", "positive")


class SST2(Benchmark):
    """Tell whether a sentence of a film review is positive.

    The Hub keeps the labels of its test split to itself: from there the validation split is scored.

    Args:
        path: a folder with `train.jsonl`, `dev.jsonl` and `test.jsonl`, rows of `text` and `label`, 0 or 1.
        length: the most tokens of a sentence with its label.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
    """

    paper = (
        "Socher et al. 2013, Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank"
    )
    hub = "stanfordnlp/sst2"
    hub_splits: ClassVar[Mapping[Split, str]] = {"train": "train", "test": "validation"}

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose classification."""
        return "classification", {
            "labels": LABELS,
            "length": self.length,
            "template": "{text}\nSentiment:",
        }

    def row(self, raw: Mapping[str, Any]) -> Row:
        """Name the label."""
        return {"text": raw["text"] if "text" in raw else raw["sentence"], "label": LABELS[raw["label"]]}


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"sst2": SST2}
