"""What the datasets of running text from Python's standard library share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from myosotis.interfaces import Rows, Split, TaskDataset
from myosotis_plugins.datasets import standard_library


class LibraryText(TaskDataset):
    """Running text of the standard library, which every Python installation holds.

    Splits are disjoint by module from each other and from what `nano` was trained on.

    Args:
        length: tokens a block.
        packing: `joined` or `isolated`, as the objective `language_modeling` says.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
    """

    def __init__(
        self,
        length: int = 128,
        packing: Literal["joined", "isolated"] = "joined",
        metrics: list[str] | None = None,
    ) -> None:
        self.length = length
        self.packing = packing
        self.chosen_metrics = tuple(metrics or ())

    @abstractmethod
    def rows(self, part: Split) -> tuple[standard_library.Row, ...]:
        """Give the texts of a part's modules."""

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose language modelling."""
        return "language_modeling", {"length": self.length, "packing": self.packing}

    def metrics(self) -> tuple[str, ...]:
        """Name the chosen metrics."""
        return self.chosen_metrics

    def split(self, name: Split) -> Rows:
        """Give the rows of the split's modules, in no order."""
        return standard_library.shuffled(self.rows(name))

    def fingerprint(self) -> str:
        """Hash the standard library."""
        return standard_library.fingerprint()
