"""Kept rows: a uniform sample, drawn fairly, and the same after a checkpoint."""

from __future__ import annotations

import io
import math
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy import stats

from myosotis.interfaces import Share, Stage
from myosotis_plugins.methods.memory import Reservoir, draw, plain, restored, stage_rows
from tests.plugins import linear

OFFERED = 7
SIZE = 3
SAMPLES = 7000


def sample(seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    reservoir = Reservoir[int](SIZE)
    for item in range(OFFERED):
        reservoir.offer(item, generator)
    return reservoir.items


def test_every_subset_is_as_likely_as_every_other() -> None:
    counts = Counter(frozenset(sample(seed)) for seed in range(SAMPLES))
    subsets = [frozenset(each) for each in combinations(range(OFFERED), SIZE)]
    assert set(counts) == set(subsets)
    assert len(subsets) == math.comb(OFFERED, SIZE)
    assert stats.chisquare([counts[each] for each in subsets]).pvalue > 1e-3


def test_all_are_kept_while_there_is_room() -> None:
    reservoir = Reservoir[str](5)
    for item in "abc":
        reservoir.offer(item, torch.Generator())
    assert reservoir.items == ["a", "b", "c"]
    assert reservoir.offered == 3


def test_what_is_not_kept_has_no_place() -> None:
    generator = torch.Generator().manual_seed(0)
    reservoir = Reservoir[int](1)
    reservoir.offer(1, generator)
    places = [reservoir.place(generator) for _ in range(2000)]
    kept = [number for number, place in enumerate(places, 2) if place is not None]
    assert {place for place in places if place is not None} == {0}
    # The n-th is kept with probability 1 / n: that many in all, give or take four deviations.
    expected = sum(1 / number for number in range(2, 2002))
    assert abs(len(kept) - expected) < 4 * math.sqrt(expected)


def test_drawing_takes_each_at_most_once_and_all_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [draw("abcde", 2, generator) for _ in range(5000)]
    assert all(len(set(each)) == 2 for each in drawn)
    counts = Counter(frozenset(each) for each in drawn)
    assert len(counts) == 10
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
    assert sorted(draw("abc", 9, generator)) == ["a", "b", "c"]


def test_stage_rows_are_the_stages_own_once() -> None:
    context = linear.context(torch.nn.Linear(4, 3), mixed=["second"])
    rows = list(stage_rows(context))
    features, labels = linear.points(context.tasks["first"])
    assert [task for task, _ in rows] == ["first"] * len(features)
    np.testing.assert_array_equal([example["features"] for _, example in rows], features)
    np.testing.assert_array_equal([example["label"] for _, example in rows], labels.argmax(axis=1))


def test_stage_rows_of_a_mixture_are_of_all_its_tasks() -> None:
    both = Stage(1, {"first": Share(0.5, 0.5), "second": Share(0.5, 0.5)})
    rows = list(stage_rows(linear.context(torch.nn.Linear(4, 3), both)))
    assert Counter(task for task, _ in rows) == {"first": 24, "second": 24}


def through_a_checkpoint(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(plain(value), file)
    file.seek(0)
    return restored(torch.load(file, weights_only=True))


def test_rows_are_the_same_after_a_checkpoint() -> None:
    row = {
        "ids": np.arange(5),
        "weights": np.array([[0.1, 0.2]], dtype=np.float32),
        "scalar": np.float64(0.1),
        "image": torch.tensor([0.5, 0.25], dtype=torch.bfloat16),
        "options": [[1, 2], [3]],
        "pair": ("a", 1.5),
        "nested": {"none": None, "flag": True},
    }
    found = through_a_checkpoint(row)
    assert list(found) == list(row)
    for name in ("ids", "weights"):
        assert isinstance(found[name], np.ndarray)
        assert found[name].dtype == row[name].dtype  # type: ignore[union-attr]
        np.testing.assert_array_equal(found[name], row[name])  # type: ignore[arg-type]
    assert type(found["scalar"]) is np.float64
    assert found["scalar"] == 0.1
    assert found["image"].dtype == torch.bfloat16
    assert torch.equal(found["image"], row["image"])  # type: ignore[arg-type]
    for name in ("options", "pair", "nested"):
        assert found[name] == row[name]


def test_a_part_of_an_array_does_not_take_the_whole_along() -> None:
    for whole in (np.zeros(100_000), torch.zeros(100_000)):
        file = io.BytesIO()
        torch.save(plain({"part": whole[:4]}), file)
        assert file.tell() < 10_000
