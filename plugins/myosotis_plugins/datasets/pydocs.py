"""English prose: the docstrings of the standard library."""

from __future__ import annotations

from collections.abc import Mapping

from myosotis import hookimpl
from myosotis.interfaces import Split, TaskDataset
from myosotis_plugins.datasets import standard_library
from myosotis_plugins.datasets.library_text import LibraryText

MYOSOTIS_API = 1


class PyDocs(LibraryText):
    """Model the English of the docstrings of Python's standard library.

    Every Python installation holds it. Splits are disjoint by module from each other and from what `nano`
    was trained on.

    Args:
        length: tokens a block.
        packing: `joined` or `isolated`, as the objective `language_modeling` says.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
    """

    def rows(self, part: Split) -> tuple[standard_library.Row, ...]:
        """Give the texts of a part's modules."""
        return standard_library.docs(part)


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"pydocs": PyDocs}
