"""Sentiment of sentences of film reviews."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, unknown_name
from myosotis.interfaces import Row, Split, TaskDataset
from myosotis_plugins.datasets.benchmark import Benchmark
from myosotis_plugins.datasets.columns import NUMBER, Kind
from myosotis_plugins.datasets.numbered import named
from myosotis_plugins.objectives import classification

MYOSOTIS_API = 1

LABELS = ("negative", "positive")
INSTRUCTION = "instruction"
WAYS = (*classification.WAYS, INSTRUCTION)
QUESTION = "Is this sentence of a film review positive or negative?"
ANSWER_TOKENS = 8
"""The most tokens of a label's word that is written."""


class SST2(Benchmark):
    """Tell whether a sentence of a film review is positive.

    The Hub keeps the labels of its test split to itself: from there the validation split is scored.

    Args:
        path: a folder with `train.jsonl`, `dev.jsonl` and `test.jsonl`, rows of `text` and `label`, 0 or 1.
        length: the most tokens of a sentence with its label.
        by: `likelihood` of the labels' words, a `head` of labels, or `instruction`: the model is asked, and writes
            the label's word; `auto` takes likelihood with a decoder, else a head.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        train_rows: how many rows are trained on, drawn once for all: fewer are among more; all where not given.
        streaming: whether rows and what they are encoded to stay on disk, with the same numbers; where not given,
            data of more than 256 MB do.
    """

    paper = (
        "Socher et al. 2013, Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank"
    )
    hub = "stanfordnlp/sst2"
    hub_splits: ClassVar[Mapping[Split, str]] = {"train": "train", "test": "validation"}
    kinds: ClassVar[Mapping[str, Kind]] = {"label": NUMBER}

    def __init__(
        self,
        path: str | None = None,
        length: int = 128,
        by: str = "auto",
        metrics: list[str] | None = None,
        train_rows: int | None = None,
        streaming: bool | None = None,
    ) -> None:
        super().__init__(path, length, metrics, train_rows, streaming)
        if by not in WAYS:
            raise ConfigurationError(unknown_name("way to classify (by)", by, WAYS))
        self.by = by

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose classification, or instructions."""
        if self.by == INSTRUCTION:
            return "instruction", {"length": self.length, "max_new_tokens": ANSWER_TOKENS}
        return "classification", {
            "labels": LABELS,
            "length": self.length,
            "template": "{text}\nSentiment:",
            "by": self.by,
        }

    def row(self, raw: Mapping[str, Any]) -> Row:
        """Name the label, or ask for it."""
        text, label = raw["text"] if "text" in raw else raw["sentence"], named(raw["label"], LABELS)
        if self.by == INSTRUCTION:
            return {"prompt": f"{QUESTION}\n{text}", "response": label}
        return {"text": text, "label": label}


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"sst2": SST2}
