"""Which rows of datasets are kept where only so many may be."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import torch

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Row, Rows

Balance: TypeAlias = Literal["none", "task", "class"]
Place: TypeAlias = tuple[str, int]
"""A row: its task, and its index there."""


class RowBuffer:
    """A sample of the rows of tasks that come one after another.

    Every row draws a number once; of each group, those with the lowest are kept. So a row is kept for good or
    given up, as if all had passed by once, and within a group every row is as likely as every other: what a
    reservoir does (Vitter 1985), with rows that may be asked for again. Where a group has fewer rows than its
    part, the others have more.

    Args:
        size: how many rows in all; None keeps all.
        balance: the groups that have equal parts: all rows together, tasks, or labels of a task.

    Attributes:
        numbers: those of the kept rows, by task and index; nothing where all are kept.
    """

    def __init__(self, size: int | None, balance: Balance) -> None:
        self.size = size
        self.balance = balance
        self.numbers: dict[str, dict[int, float]] = {}

    def kept(self, tasks: Mapping[str, Rows], generator: torch.Generator) -> list[list[Place]]:
        """Take in the tasks that are new; give the rows that are kept, in their groups and in their order.

        Raises:
            ConfigurationError: labels are to be balanced, and there are none.
        """
        if self.size is None:
            return self._groups(tasks, {task: range(len(rows)) for task, rows in tasks.items()})
        numbers = dict(self.numbers)
        for task, rows in tasks.items():
            if task not in numbers:
                drawn = torch.rand(len(rows), generator=generator, dtype=torch.float64)
                numbers[task] = dict(enumerate(drawn.tolist()))
        groups = self._groups(tasks, numbers)
        parts = evenly(self.size, [len(group) for group in groups])
        kept = [
            sorted(sorted(group, key=lambda place: numbers[place[0]][place[1]])[:part])
            for group, part in zip(groups, parts, strict=True)
        ]
        self.numbers = {task: {} for task in numbers}
        for task, index in (place for group in kept for place in group):
            self.numbers[task][index] = numbers[task][index]
        return [group for group in kept if group]

    def _groups(self, tasks: Mapping[str, Rows], indices: Mapping[str, Iterable[int]]) -> list[list[Place]]:
        groups: dict[Hashable, list[Place]] = {}
        for task, own in indices.items():
            for index in own:
                groups.setdefault(self._group(task, tasks[task], index), []).append((task, index))
        return list(groups.values())

    def _group(self, task: str, rows: Rows, index: int) -> Hashable:
        if self.balance == "class":
            return task, label_of(task, rows[index])
        return task if self.balance == "task" else None


def label_of(task: str, row: Row) -> Hashable:
    """Give a row's label.

    Raises:
        ConfigurationError: it has none.
    """
    if "label" not in row:
        raise ConfigurationError(
            f"balance=class must have rows with a label, but those of {task} have {', '.join(row)}; "
            "take balance=task"
        )
    label: Hashable = row["label"]
    return label


def evenly(total: int, sizes: Sequence[int]) -> list[int]:
    """Divide a total into parts as equal as they can be, none larger than its size."""
    parts = [0] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda number: sizes[number])
    for done, number in enumerate(order):
        parts[number] = min(sizes[number], (total - sum(parts)) // (len(sizes) - done))
    return parts
