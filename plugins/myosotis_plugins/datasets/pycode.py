"""Python code: the standard library's source."""

from __future__ import annotations

from collections.abc import Mapping

from myosotis import hookimpl
from myosotis.interfaces import Split, TaskDataset
from myosotis_plugins.datasets import standard_library
from myosotis_plugins.datasets.library_text import LibraryText

MYOSOTIS_API = 1


class PyCode(LibraryText):
    """Model the source code of Python's standard library, without docstrings and comments.

    Every Python installation holds it. Splits are disjoint by module from each other and from what `nano`
    was trained on.

    Args:
        length: tokens a block.
        packing: `joined` or `isolated`, as the objective `language_modeling` says.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
    """

    def rows(self, part: Split) -> tuple[standard_library.Row, ...]:
        """Give the texts of a part's modules."""
        return standard_library.code(part)


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"pycode": PyCode}
