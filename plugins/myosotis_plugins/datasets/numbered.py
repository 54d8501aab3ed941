"""Labels that a data set gives as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from myosotis.errors import DataError


def named(number: Any, names: Sequence[str]) -> str:
    """Name a label by its number, from 0; where a split has no labels, data sets often number them -1.

    Raises:
        DataError: no label has that number.
    """
    if not isinstance(number, int) or not 0 <= number < len(names):
        raise DataError(
            f"a label must be a number from 0 to {len(names) - 1}, but is {number!r}; a split without labels "
            "cannot be scored: take another, such as validation"
        )
    return names[number]
