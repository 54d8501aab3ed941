"""What is wrong with a study's data, found before anything trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from myosotis import data_labels
from myosotis.data_characters import characters
from myosotis.data_copies import Compared, duplicates, near_duplicates, overlap
from myosotis.data_record import Finding
from myosotis.data_split import CheckedSplit, counted, rows_of

FEW_ROWS = 50


def findings(splits: Sequence[CheckedSplit]) -> Iterator[Finding]:
    """Look at every two splits of which one is trained on, and at every split; near copies within one come last."""
    compared = [Compared(split) for split in splits]
    for train in (each for each in compared if each.split.trains):
        for other in (each for each in compared if not each.split.trains):
            yield from overlap(train, other)
            if train.split.task == other.split.task:
                yield from data_labels.between(train.split, other.split)
    for each in compared:
        yield from data_labels.of_scored(each.split)
        yield from _empty(each.split)
        yield from duplicates(each)
        yield from _cut(each.split)
        yield from data_labels.within(each.split)
        yield from characters(each.split)
    for each in compared:
        yield from near_duplicates(each)


def _empty(split: CheckedSplit) -> Iterator[Finding]:
    empty = [index for index, text in enumerate(split.texts) if not text.strip()]
    if empty and len(empty) == len(split.texts):
        yield Finding(
            split.name, "every row is empty", "look whether columns names the right one", stops=True
        )
    elif empty:
        yield Finding(
            split.name,
            f"{counted(len(empty), 'row is', 'rows are')} empty, such as row {split.number(empty[0])}",
            "take them out of the file",
        )
    rows = len(split.texts) if split.rows is None else split.rows
    if rows < FEW_ROWS:
        yield Finding(
            split.name,
            f"it has only {counted(rows, 'row', 'rows')}",
            "scores of so few have wide intervals, and a model learns them by heart; look at the intervals",
        )


def _cut(split: CheckedSplit) -> Iterator[Finding]:
    cut = [number for number, lost in enumerate(split.lost) if lost]
    if cut:
        lost, all_tokens = sum(split.lost), sum(split.tokens)
        yield Finding(
            split.name,
            f"{rows_of(split, len(cut), 'is longer than length and loses', 'are longer than length and lose')} "
            f"{counted(lost, 'token', 'tokens')}, {lost / all_tokens:.1%} of all; the longest has "
            f"{max(split.tokens):,}",
            _raised(split.room),
        )


def _raised(room: int | None) -> str:
    """Advise what to do about rows that are cut, where a model could read so many more tokens of each."""
    if room is None:
        return "raise length, if the model and the memory allow it, or shorten the rows"
    if room <= 0:
        return (
            "the model reads no longer ones: shorten the rows or split them, or take a model that reads more"
        )
    return f"raise length, by {room:,} at most for the model has no more places, or shorten the rows"
