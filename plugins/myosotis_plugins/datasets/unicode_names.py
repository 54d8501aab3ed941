"""Formal text far from prose and from code: the names of Unicode's characters."""

from __future__ import annotations

import functools
import hashlib
import sys
import unicodedata
from collections.abc import Iterator, Mapping

from myosotis import hookimpl
from myosotis.interfaces import Split, TaskDataset
from myosotis_plugins.datasets import standard_library
from myosotis_plugins.datasets.library_text import LibraryText

MYOSOTIS_API = 1

COLUMN = 16
"""A row is a column of the code charts: sixteen code points that differ in the last digit."""
COUNTED = (
    *("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH", "TANGUT IDEOGRAPH", "HANGUL SYLLABLE"),
    *("KHITAN SMALL SCRIPT CHARACTER", "NUSHU CHARACTER"),
)
"""How the names begin that a program makes from the number of the character."""
ENDS: Mapping[Split, int] = {"test": 17, "validation": 22, "train": 100}
"""A split's upper end on the scale of 0..99 of a column's hash."""


class UnicodeNames(LibraryText):
    """Model the list of Unicode's characters: `00E0 LATIN SMALL LETTER A WITH GRAVE`, sixteen lines a row.

    Every Python installation holds it. Characters that are numbered instead of named are left out. Splits are
    disjoint by columns of the code charts.

    Args:
        length: tokens a block.
        packing: `joined` or `isolated`, as the objective `language_modeling` says.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
    """

    def rows(self, part: Split) -> tuple[standard_library.Row, ...]:
        """Give the columns of a split."""
        return columns(part)

    def fingerprint(self) -> str:
        """Give the version of Unicode."""
        return f"unicode {unicodedata.unidata_version}"


@functools.cache
def columns(part: Split) -> tuple[standard_library.Row, ...]:
    """Give the columns of the code charts that belong to a split, as text."""
    texts = ("\n".join(_lines(first)) for first in range(0, sys.maxunicode, COLUMN) if _split(first) == part)
    return tuple(standard_library.Row(text=text, module="unicodedata") for text in texts if text)


def _lines(first: int) -> Iterator[str]:
    for code in range(first, first + COLUMN):
        name = unicodedata.name(chr(code), "")
        if name and not name.startswith(COUNTED):
            yield f"{code:04X} {name}"


def _split(first: int) -> Split:
    position = hashlib.sha256(f"{first:04X}".encode()).digest()[0] * 100 // 256
    return next(split for split, end in ENDS.items() if position < end)


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"unicode_names": UnicodeNames}
