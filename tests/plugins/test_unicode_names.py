"""The list of Unicode's characters as text: every name is its character's, no column is in two splits."""

from __future__ import annotations

import unicodedata

from myosotis.interfaces import TaskDataset
from myosotis.testing import TaskDatasetTestSuite
from myosotis_plugins.datasets.unicode_names import UnicodeNames, columns


class TestUnicodeNames(TaskDatasetTestSuite):
    def make(self) -> TaskDataset:
        return UnicodeNames(length=64)


def lines() -> dict[str, list[tuple[str, str]]]:
    """Give each split's code points and names."""
    return {
        split: [tuple(line.split(" ", 1)) for row in columns(split) for line in row["text"].split("\n")]  # type: ignore[misc,arg-type]
        for split in ("train", "validation", "test")
    }


def test_a_name_is_its_characters() -> None:
    for found in lines().values():
        for code, name in found:
            assert f"{ord(unicodedata.lookup(name)):04X}" == code


def test_columns_are_in_one_split_each() -> None:
    first_digits = [{code[:-1] for code, _ in found} for found in lines().values()]
    assert sum(map(len, first_digits)) == len(set.union(*first_digits))


def test_the_latin_letters_are_there_and_numbered_characters_are_not() -> None:
    found = dict(line for split in lines().values() for line in split)
    assert found["00E0"] == "LATIN SMALL LETTER A WITH GRAVE"
    assert found["2F00"] == "KANGXI RADICAL ONE"
    assert "4E00" not in found  # CJK UNIFIED IDEOGRAPH-4E00
    assert "AC00" not in found  # HANGUL SYLLABLE GA


def test_the_test_split_is_its_share_of_the_columns() -> None:
    counts = {split: len(columns(split)) for split in ("train", "validation", "test")}  # type: ignore[arg-type]
    assert 0.14 < counts["test"] / sum(counts.values()) < 0.20
    assert counts["train"] > 1_000
