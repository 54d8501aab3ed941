"""English prose that no task trains on: the standard library's comments."""

from __future__ import annotations

from collections.abc import Mapping

from myosotis import hookimpl
from myosotis.interfaces import Split, TaskDataset
from myosotis_plugins.datasets import standard_library
from myosotis_plugins.datasets.library_text import LibraryText

MYOSOTIS_API = 1


class PyComments(LibraryText):
    """Model the English of the comments in Python's standard library.

    Made to be a probe: neither the docstrings of `pydocs` nor the code of `pycode` has them.

    Every Python installation holds it. Splits are disjoint by module from each other and from what `nano`
    was trained on.

    Args:
        length: tokens a block.
        packing: `joined` or `isolated`, as the objective `language_modeling` says.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
    """

    def rows(self, part: Split) -> tuple[standard_library.Row, ...]:
        """Give the texts of a part's modules."""
        return standard_library.comments(part)


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"pycomments": PyComments}
