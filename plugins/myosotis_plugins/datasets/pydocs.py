"""English prose: the docstrings of the standard library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from myosotis import hookimpl
from myosotis.interfaces import Rows, Split, TaskDataset
from myosotis_plugins.datasets import standard_library

MYOSOTIS_API = 1


class PyDocs(TaskDataset):
    """Model the English of the docstrings of Python's standard library.

    Every Python installation holds it. Splits are disjoint by module from each other and from what `nano`
    was trained on.

    Args:
        length: tokens a block.
        packing: `joined` or `isolated`, as the objective `language_modeling` says.
    """

    def __init__(self, length: int = 128, packing: Literal["joined", "isolated"] = "joined") -> None:
        self.length = length
        self.packing = packing

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose language modelling."""
        return "language_modeling", {"length": self.length, "packing": self.packing}

    def split(self, name: Split) -> Rows:
        """Give the rows of the split's modules, in no order."""
        return standard_library.shuffled(standard_library.docs(name))

    def fingerprint(self) -> str:
        """Hash the standard library."""
        return standard_library.fingerprint()


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"pydocs": PyDocs}
