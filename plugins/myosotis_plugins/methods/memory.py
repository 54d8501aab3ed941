"""Rows that a method keeps: a uniform sample of those that come by, in a form that checkpoints hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from myosotis.interfaces import Context, TrainingRow

Item = TypeVar("Item")
ARRAY = "numpy array"
AT_ONCE = 64
"""Rows that are collated together where only the rows are asked for."""


class Reservoir(Generic[Item]):
    """A uniform sample of what has come by, of a fixed size (Vitter 1985, Algorithm R, doi:10.1145/3147.3165).

    Args:
        size: the most items that are kept.

    Attributes:
        items: those kept.
        offered: how many have come by.
    """

    def __init__(self, size: int, items: Iterable[Item] = (), offered: int = 0) -> None:
        self.size = size
        self.items = list(items)
        self.offered = offered

    def place(self, generator: torch.Generator) -> int | None:
        """Let one more come by: give the place where it is to be put, None where it is not kept."""
        self.offered += 1
        if len(self.items) < self.size:
            return len(self.items)
        drawn = int(torch.randint(self.offered, (1,), generator=generator))
        return drawn if drawn < self.size else None

    def put(self, place: int, item: Item) -> None:
        """Keep an item in its place, instead of the one that is there."""
        self.items[place : place + 1] = [item]

    def offer(self, item: Item, generator: torch.Generator) -> None:
        """Let an item come by."""
        place = self.place(generator)
        if place is not None:
            self.put(place, item)


def draw(items: Sequence[Item], count: int, generator: torch.Generator) -> list[Item]:
    """Draw items at random, each at most once; all where there are no more than asked for."""
    chosen = torch.randperm(len(items), generator=generator)[:count]
    return [items[index] for index in chosen.tolist()]


def stage_rows(context: Context) -> Iterator[TrainingRow]:
    """Give the rows of the stage's own tasks once, in order; not what methods have mixed in."""
    for batch in context.training_batches(AT_ONCE):
        for group in batch.groups:
            yield from (row for row in group.rows if row[0] in context.stage.tasks)


def plain(value: Any) -> Any:
    """Turn a row into tensors and plain values: arrays become marked copies, so that no larger one is saved."""
    if isinstance(value, np.ndarray | np.generic):
        return {ARRAY: torch.from_numpy(np.array(value))}
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(each) for each in value)
    return value


def restored(value: Any) -> Any:
    """Turn back what `plain` made."""
    if isinstance(value, dict):
        if ARRAY in value:
            return value[ARRAY].numpy()[()]
        return {key: restored(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(restored(each) for each in value)
    return value
