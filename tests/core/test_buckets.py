"""Batches of rows of like length: what is filled up, which rows they hold, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from myosotis.batches import BatchLoader, EncodedPart
from myosotis.buckets import bucketed, in_turn
from myosotis.curriculum import MixtureSampler, Part, Place
from myosotis.interfaces import Model, Share, Task
from tests.core.walks import PADDED, WalkObjective, Walks
from tests.toy import MLP

SIZES = (96, 64)
LENGTHS = [np.random.default_rng(part).geometric(0.05, size=size) for part, size in enumerate(SIZES)]


def length(place: Place) -> int:
    part, index = place
    return int(LENGTHS[part][index])


def sampler(shares: Sequence[float], batches: int, buckets: bool, seed: int = 3) -> MixtureSampler:
    parts = [
        Part(task, size, Share(share, share)) for task, size, share in zip("ab", SIZES, shares, strict=True)
    ]
    return MixtureSampler(parts, 8, batches, seed, length_of=length if buckets else None)


def windows(batches: Sequence[list[Place]], size: int) -> list[Counter[Place]]:
    """Count the rows of every so many batches."""
    return [Counter(row for batch in window for row in batch) for window in in_turn(batches, size)]


def filled_up(batches: Sequence[list[Place]]) -> int:
    """Count what is added to make each batch a rectangle."""
    return sum(max(map(length, batch)) * len(batch) - sum(map(length, batch)) for batch in batches)


def test_less_is_filled_up() -> None:
    plain, ours = (list(sampler((0.6, 0.4), 48, buckets)) for buckets in (False, True))
    assert 0 < filled_up(ours) < filled_up(plain) / 4


@pytest.mark.parametrize(("batches", "window"), [(48, 12), (3, 1), (7, 1), (400, 50), (230, 50)])
def test_a_window_holds_the_rows_and_shares_that_it_would_have_held(batches: int, window: int) -> None:
    plain, ours = (list(sampler((0.6, 0.4), batches, buckets)) for buckets in (False, True))
    assert len(ours) == batches
    assert all(len(batch) == 8 for batch in ours)
    assert windows(ours, window) == windows(plain, window)


def test_every_pass_is_whole() -> None:
    rows = [index for batch in sampler((1, 0), 48, buckets=True) for _, index in batch]
    assert [sorted(each) for each in in_turn(rows, 96)] == [list(range(96))] * 4
    assert rows[:96] != rows[96:192]


def test_batches_of_a_window_are_shuffled() -> None:
    longest = [max(map(length, batch)) for batch in sampler((0.6, 0.4), 200, buckets=True)]
    assert all(each not in (sorted(each), sorted(each)[::-1]) for each in in_turn(longest, 50))
    places = [np.argsort(each, kind="stable").tolist() for each in in_turn(longest, 50)]
    assert len({tuple(each) for each in places}) == 4


def test_order_comes_from_the_seed() -> None:
    rows = [[number] for number in range(40)]
    first, again, other = (list(bucketed(rows, 40, lambda row: 1, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == rows
    assert [sorted(each) for each in in_turn(first, 10)] == list(in_turn(rows, 10))


def test_batches_after_some_are_those_that_were_left() -> None:
    rows = Walks(rows=96, longest=40).split("train")
    objective, model = WalkObjective(), Model(MLP(4))
    assert rows is not None
    part = EncodedPart(Task("walk", "task", Walks(), objective, {}), objective.encode(rows, model))
    parts = [Part("walk", 96, Share(1, 1))]
    loader = BatchLoader(
        [part], MixtureSampler(parts, 8, 24, 5, length_of=lambda place: part.length(place[1])), model
    )
    whole = [batch.rows for batch in loader]
    for done in (1, 5, 6, 23):
        assert [batch.rows for batch in loader.after(done)] == whole[done:]
    labels = [batch.groups[0].batch["labels"] for batch in loader]
    assert sum(int((each != PADDED).sum()) for each in labels) == 2 * sum(len(row["walk"]) for row in rows)  # type: ignore[attr-defined]
