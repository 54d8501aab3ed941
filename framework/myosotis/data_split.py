"""A split of a task as it is looked at before a study: its texts, lengths and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from myosotis.data_record import Bar, SplitRecord
from myosotis.interfaces import Model, Objective, Rows, Task
from myosotis.ledger import content_hash
from myosotis.rows import encoded, spread

BARS = 40
"""In the picture of a split's lengths."""
COUNTED_LABELS = 20
"""Labels whose rows are told, the most frequent ones."""


@dataclass(frozen=True)
class CheckedSplit:
    """A split of a task with what is compared.

    Attributes:
        name: the task's and the split's.
        trains: whether it is trained on.
        texts: each row that is looked at as one text; empty where rows are no text.
        tokens: how long each row is before it is cut; empty where rows are not cut one by one.
        lost: how many tokens of each are cut off.
        labels: those of the rows, where they have some.
        tagged: whether labels are of words, several a row.
        scored: the labels of the rows that are scored; None where that is not known, or they are no rows' labels.
        rows: how many the split has; None where all are looked at.
        numbers: the rows' numbers in the split, counted from 1; empty where all are looked at.
        room: by how many tokens the model could read longer rows; None where it has no limit.
    """

    name: str
    trains: bool
    texts: Sequence[str]
    tokens: Sequence[int] = ()
    lost: Sequence[int] = ()
    labels: Counter[str] = field(default_factory=Counter)
    tagged: bool = False
    scored: Counter[str] | None = None
    rows: int | None = None
    numbers: Sequence[int] = ()
    room: int | None = None

    @property
    def task(self) -> str:
        """The task's name."""
        return self.name.split(" ")[0]

    @cached_property
    def digests(self) -> Sequence[str]:
        """A hash of each text, whatever the case of its letters and its spaces."""
        return [content_hash(" ".join(text.lower().split())) for text in self.texts]

    def number(self, index: int) -> int:
        """Give the number in the split of a row that is looked at."""
        return self.numbers[index] if self.numbers else index + 1


def checked_split(
    task: Task,
    name: str,
    rows: Rows,
    trains: bool,
    model: Model,
    most: int | None = None,
    scored: Rows | None = None,
) -> CheckedSplit:
    """Read and encode a split.

    Args:
        task: the task.
        name: the split's.
        rows: all its rows.
        trains: whether it is trained on.
        model: what rows are encoded for; its outline is enough.
        most: rows that are looked at, evenly spread; all where not given.
        scored: those that are scored, where that is known.

    Raises:
        DataError: a row is not what its objective reads.
    """
    chosen = spread(rows, len(rows) if most is None else most)
    read = [chosen[index] for index in range(len(chosen))]
    texts = [list(texts_of(row)) for row in read]
    tokens, lost = _lengths(task, chosen, model)
    return CheckedSplit(
        f"{task.name} ({name})",
        trains,
        ["\n".join(each) for each in texts] if any(texts) else [],
        tokens,
        lost,
        Counter(label for row in read for label in _labels(row)),
        any("tags" in row for row in read),
        None if scored is None else _scored_labels(scored),
        len(rows),
        [index + 1 for index in chosen.indices],
        room(task.objective, model),
    )


def room(objective: Objective, model: Model) -> int | None:
    """Say how many more tokens than an objective's rows have at most a model could read; None where any number."""
    longest = objective.longest(model)
    return None if longest is None or model.positions is None else model.positions - longest


def texts_of(value: Any) -> Iterator[str]:
    """Give all texts of a row but its label."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key not in ("label", "tags", "role"):
                yield from texts_of(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from texts_of(each)


def _labels(row: Mapping[str, Any]) -> Sequence[str]:
    label = row.get("label")
    return [str(label)] if label is not None else [str(tag) for tag in row.get("tags", ())]


def _scored_labels(rows: Rows) -> Counter[str]:
    read = (rows[index] for index in range(len(rows)))
    return Counter(str(row["label"]) for row in read if row.get("label") is not None)


def _lengths(task: Task, rows: Rows, model: Model) -> tuple[list[int], list[int]]:
    free = task.objective.unlimited()
    if free is task.objective:
        return [], []
    whole = [free.tokens(each) for each in encoded(free, rows, model)]
    cut = [task.objective.tokens(each) for each in encoded(task.objective, rows, model)]
    return whole, [before - after for before, after in zip(whole, cut, strict=True)]


# For the report


def record(split: CheckedSplit) -> SplitRecord:
    """Give a split in numbers."""
    rows = len(split.texts) if split.rows is None else split.rows
    looked_at = max(len(split.texts), len(split.tokens)) or len(split.numbers) or rows
    labels = dict(split.labels.most_common(COUNTED_LABELS))
    if not split.tokens:
        return SplitRecord(
            split.name,
            rows,
            looked_at,
            labels=len(split.labels),
            counts=labels,
            lengths=_bars([len(text) for text in split.texts]),
            unit="characters",
        )
    return SplitRecord(
        split.name,
        rows,
        looked_at,
        tokens=sum(split.tokens),
        median=sorted(split.tokens)[len(split.tokens) // 2],
        longest=max(split.tokens),
        lost=sum(split.lost),
        labels=len(split.labels),
        counts=labels,
        lengths=_bars(split.tokens),
    )


def _bars(lengths: Sequence[int]) -> list[Bar]:
    if not lengths:
        return []
    most = max(1, *lengths)
    counts, edges = np.histogram(lengths, bins=min(BARS, most), range=(0, most))
    bars = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    return [Bar(*each) for each in bars if each[2]]


# For what is told


def counted(count: int, one: str, many: str) -> str:
    """Say how many, in words that agree: `1 row is`, `2 rows are`."""
    return f"{count:,} {one if count == 1 else many}"


def rows_of(split: CheckedSplit, count: int, one: str, many: str) -> str:
    """Say how many rows, what share of those that are looked at, and what of them: `1 row (0.5%) is`."""
    share = f"{count / len(split.texts):.1%}"
    return counted(count, f"row ({share}) {one}", f"rows ({share}) {many}")


def quoted(text: str, around: str | None = None) -> str:
    """Quote a text's beginning, or what is around a piece of it."""
    start = max(0, text.find(around) - 20) if around else 0
    short = " ".join(text[start : start + 60].split())
    return repr(short + ("…" if len(text) > start + 60 else ""))


def listed(split: CheckedSplit, indices: Sequence[int], most: int = 3) -> str:
    """Name rows by their numbers, the first of many."""
    numbers = ", ".join(str(split.number(index)) for index in indices[:most])
    return f"row{'s' if len(indices) > 1 else ''} {numbers}{', …' if len(indices) > most else ''}"
