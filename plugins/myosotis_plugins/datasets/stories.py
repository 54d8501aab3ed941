"""Stories for children."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from myosotis import hookimpl
from myosotis.interfaces import Row, Split, TaskDataset
from myosotis_plugins.datasets.benchmark import TextBenchmark

MYOSOTIS_API = 1


class Stories(TextBenchmark):
    """Predict stories of a small vocabulary, written by larger models.

    Args:
        path: a folder with `train.jsonl` and `heldout.jsonl`, rows of `text`.
        length: the most tokens of a block.
        packing: `joined` or `isolated`, as of the objective `language_modeling`.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        streaming: whether rows and what they are encoded to stay on disk, with the same numbers; where not given,
            data of more than 256 MB do.
    """

    paper = (
        "Eldan and Li 2023, TinyStories: How Small Can Language Models Be and Still Speak Coherent English?"
    )
    hub = "roneneldan/TinyStories"
    hub_splits: ClassVar[Mapping[Split, str]] = {"train": "train", "test": "validation"}
    files: ClassVar[Mapping[Split, str]] = {"train": "train.jsonl", "test": "heldout.jsonl"}

    def row(self, raw: Mapping[str, Any]) -> Row:
        """Take the story."""
        return {"text": raw["text"]}


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"stories": Stories}
