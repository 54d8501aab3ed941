"""The conformance suite, and that nothing of the manual is lost or there twice."""

from __future__ import annotations

from pydoc_data.topics import topics

from myosotis_reference_manual import ReferenceManual

from myosotis.interfaces import Split
from myosotis.testing import TaskDatasetTestSuite

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class TestReferenceManual(TaskDatasetTestSuite):
    def make(self) -> ReferenceManual:
        return ReferenceManual(length=32)


def test_every_paragraph_of_the_manual_is_in_the_splits_once() -> None:
    rows = [row["text"] for name in SPLITS for row in ReferenceManual().split(name) or []]
    wanted = {part.strip() for text in topics.values() for part in text.split("\n\n")} - {""}
    assert len(rows) == len(wanted) > 1_000
    assert set(rows) == wanted


def test_the_for_statement_is_told() -> None:
    rows = [row["text"] for name in SPLITS for row in ReferenceManual().split(name) or []]
    assert any(text.startswith('The "for" statement is used to iterate') for text in rows)
