"""Classification: which package of the standard library a docstring belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from myosotis import hookimpl
from myosotis.interfaces import Rows, Split, TaskDataset
from myosotis_plugins.datasets import standard_library

MYOSOTIS_API = 1


class PyModule(TaskDataset):
    """Tell from a docstring's beginning which package of Python's standard library it belongs to.

    Every Python installation holds it. Splits are disjoint by module from each other and from what `nano`
    was trained on.

    Args:
        length: the most tokens of a docstring with its label.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
    """

    def __init__(self, length: int = 128, metrics: list[str] | None = None) -> None:
        self.length = length
        self.chosen_metrics = tuple(metrics or ())

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose classification by the labels' likelihood."""
        return "classification", {
            "labels": standard_library.PACKAGES,
            "length": self.length,
            "template": "{text}\nPackage:",
        }

    def metrics(self) -> tuple[str, ...]:
        """Name the chosen metrics."""
        return self.chosen_metrics

    def split(self, name: Split) -> Rows:
        """Give the rows of the split's modules, in no order."""
        return standard_library.shuffled(standard_library.modules(name))

    def fingerprint(self) -> str:
        """Hash the standard library."""
        return standard_library.fingerprint()


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"pymodule": PyModule}
