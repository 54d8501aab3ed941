"""Quotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from myosotis import hookimpl
from myosotis.interfaces import Row, Rows, Split, TaskDataset
from myosotis_plugins.datasets.benchmark import Benchmark

MYOSOTIS_API = 1

TEST = 10
"""Every so many quotations is held out: there is one file."""


class Quotes(Benchmark):
    """Predict English quotations, as the first tutorials on LoRA do.

    Args:
        path: a folder with `english_quotes.jsonl`, rows of `quote`.
        length: the most tokens of a block.
        packing: `joined` or `isolated`, as of the objective `language_modeling`.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
    """

    hub = "Abirate/english_quotes"
    hub_splits: ClassVar[Mapping[Split, str]] = {"train": "train", "test": "train"}
    files: ClassVar[Mapping[Split, str]] = {"train": "english_quotes.jsonl", "test": "english_quotes.jsonl"}

    def __init__(
        self,
        path: str | None = None,
        length: int = 128,
        packing: str = "joined",
        metrics: list[str] | None = None,
    ) -> None:
        super().__init__(path, length, metrics)
        self.packing = packing

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose language modelling."""
        return "language_modeling", {"length": self.length, "packing": self.packing}

    def split(self, name: Split) -> Rows | None:
        """Hold out every tenth quotation."""
        rows = super().split(name)
        if rows is None:
            return None
        return [rows[index] for index in range(len(rows)) if (index % TEST == TEST - 1) == (name == "test")]

    def row(self, raw: Mapping[str, Any]) -> Row:
        """Take the quotation."""
        return {"text": raw["quote"]}


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"quotes": Quotes}
