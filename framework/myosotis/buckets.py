"""Rows of like length in one batch, so that little is filled up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

T = TypeVar("T")

WINDOW = 50
"""Batches whose rows are sorted together, at most."""


def bucketed(
    batches: Iterable[list[T]], count: int, length: Callable[[T], int], seed: int
) -> Iterator[list[T]]:
    """Sort the rows of each window of batches by their lengths into batches, and shuffle those.

    A window is 50 batches, or a quarter of all where that is less. It holds the rows that it would have held, and
    so the same shares of the tasks.

    Args:
        batches: rows, as many in each.
        count: how many batches there are.
        length: a row's.
        seed: what, with the window's number, decides the order of its batches.
    """
    window = max(1, min(WINDOW, count // 4))
    for number, drawn in enumerate(in_turn(batches, window)):
        rows = sorted(itertools.chain.from_iterable(drawn), key=length)
        sorted_batches = list(in_turn(rows, len(drawn[0])))
        for place in np.random.default_rng([seed, number]).permutation(len(sorted_batches)):
            yield sorted_batches[place]


def in_turn(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Give the items so many at a time; at the end, those that are left."""
    left = iter(items)
    return iter(lambda: list(itertools.islice(left, size)), [])
