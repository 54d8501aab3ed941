"""Quotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from myosotis import hookimpl
from myosotis.interfaces import Row, Rows, Split, TaskDataset
from myosotis_plugins.datasets.benchmark import TextBenchmark, held_out

MYOSOTIS_API = 1

HELD_OUT = 10
"""Every so many quotations is scored."""


class Quotes(TextBenchmark):
    """Predict English quotations, as the first tutorials on LoRA do.

    Args:
        path: a folder with `english_quotes.jsonl`, rows of `quote`.
        length: the most tokens of a block.
        packing: `joined` or `isolated`, as of the objective `language_modeling`.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        streaming: whether rows and what they are encoded to stay on disk, with the same numbers; where not given,
            data of more than 256 MB do.
    """

    hub = "Abirate/english_quotes"
    hub_splits: ClassVar[Mapping[Split, str]] = {"train": "train", "test": "train"}
    files: ClassVar[Mapping[Split, str]] = {"train": "english_quotes.jsonl", "test": "english_quotes.jsonl"}

    def split(self, name: Split) -> Rows | None:
        """Hold out every tenth quotation."""
        return held_out(super().split(name), name, HELD_OUT)

    def row(self, raw: Mapping[str, Any]) -> Row:
        """Take the quotation."""
        return {"text": raw["quote"]}


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"quotes": Quotes}
