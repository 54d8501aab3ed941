"""Which of a task's rows are scored: as many as give a score worth having, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import pytest

from myosotis.interfaces import Example, Model, Rows
from myosotis.resolve import numbers
from myosotis.schema import EvaluationConfig
from myosotis.testing import make_task
from myosotis.workspace import evaluated_count, evaluated_examples, evaluated_rows
from tests import toy


class Counted(toy.PointObjective):
    """Rows are numbers of tokens."""

    in_order = True

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        self.encoded = max(self.encoded, len(rows))
        return [{"tokens": rows[index]} for index in range(len(rows))]

    def tokens(self, example: Example) -> int:
        return int(example["tokens"])


def taken(rows: Sequence[int], limit: int | str | None) -> tuple[int, int]:
    """Give how many rows are scored, and how many were encoded for that."""
    objective = Counted()
    task = make_task("counted", toy.Points(), objective, {"hits": toy.Hits()})
    model = toy.ToyModel().load([])
    examples = evaluated_examples(task, rows, model, EvaluationConfig(limit=limit))
    assert [example["tokens"] for example in examples] == list(rows[: len(examples)])
    return len(examples), objective.encoded


@pytest.mark.parametrize(
    ("rows", "limit", "expected"),
    [
        ([128] * 5000, "auto", (64, 256)),  # 64 blocks of 128 tokens are 8,192
        ([1000] * 5000, "auto", (9, 64)),
        ([40] * 5000, "auto", (200, 256)),
        ([41] * 5000, "auto", (200, 256)),  # 199 rows have 8,159 tokens
        ([42] * 5000, "auto", (196, 256)),  # 195 rows have 8,190
        ([1] * 5000, "auto", (200, 256)),
        ([1] * 30, "auto", (30, 30)),
        ([128] * 5000, 500, (500, 2000)),
        ([128] * 700, None, (700, 700)),
    ],
)
def test_auto_takes_200_examples_or_8192_tokens(
    rows: list[int], limit: int | str | None, expected: tuple[int, int]
) -> None:
    assert taken(rows, limit) == expected


def test_a_long_row_counts_whole() -> None:
    assert evaluated_count(Counted(), [{"tokens": each} for each in (100, 9000, 5)], "auto") == 2


# Spread rows


class OneEach(Counted):
    """Each row gives its example."""

    row_by_row = True


def spread_over(rows: Sequence[int], limit: int | str | None, objective: Counted) -> list[int]:
    task = make_task("counted", toy.Points(), objective, {"hits": toy.Hits()})
    evaluation = EvaluationConfig(limit=limit, rows="spread")
    examples = evaluated_examples(task, rows, toy.ToyModel().load([]), evaluation)
    return [int(example["tokens"]) for example in examples]


@pytest.mark.parametrize("limit", [10, 99, "auto"])
def test_spread_rows_are_one_of_each_of_as_many_equal_parts(limit: int | str) -> None:
    count = 200 if limit == "auto" else int(limit)
    one_each, whole = OneEach(), Counted()
    found = (
        spread_over(range(2000), limit, one_each)
        if limit != "auto"
        else spread_over([1] * 2000, limit, one_each)
    )
    assert len(found) == count
    assert one_each.encoded == count  # no more than that
    if limit != "auto":
        assert all(n * 2000 // count <= row < (n + 1) * 2000 // count for n, row in enumerate(found))
        assert spread_over(range(2000), limit, whole) == found  # where an example may be of several rows
        assert whole.encoded == 2000


def test_spread_rows_keep_to_no_rhythm() -> None:
    """Of rows whose labels alternate, every tenth would have one label."""
    for rhythm in (2, 3, 5):
        found = spread_over([number % rhythm for number in range(2000)], 200, OneEach())
        counts = [found.count(label) for label in range(rhythm)]
        assert min(counts) > 0.9 * 200 / rhythm


def test_spread_rows_have_8192_tokens_too() -> None:
    assert len(spread_over([128] * 5000, "auto", OneEach())) == 64
    assert spread_over([1, 2, 3], "auto", OneEach()) == spread_over([1, 2, 3], None, OneEach()) == [1, 2, 3]
    rows = list(range(1000, 1400))
    found = spread_over(rows, "auto", OneEach())
    assert (len(found), found[0] < 1060, found[-1] > 1340) == (7, True, True)  # of 1,200 on average


class WithChoices(OneEach):
    """What is read to score a row is four times its own tokens."""

    def scored_tokens(self, example: Example) -> int:
        return 4 * self.tokens(example)


@pytest.mark.parametrize("way", ["first", "spread"])
def test_what_choices_add_to_a_row_counts(way: Literal["first", "spread"]) -> None:
    task = make_task("counted", toy.Points(), WithChoices(), {"hits": toy.Hits()})
    model = toy.ToyModel().load([])
    examples = evaluated_examples(task, [128] * 5000, model, EvaluationConfig(rows=way))
    assert len(examples) == 16  # of 512 tokens each, 8,192 in all


def test_the_labels_that_are_scored_are_those_of_the_rows_that_are() -> None:
    rows = list(range(1000, 1400))
    for way in ("first", "spread"):
        evaluation = EvaluationConfig(rows=way)
        task = make_task("counted", toy.Points(), OneEach(), {"hits": toy.Hits()})
        examples = evaluated_examples(task, rows, toy.ToyModel().load([]), evaluation)
        chosen = evaluated_rows(rows, len(examples), evaluation)
        assert [chosen[index] for index in range(len(chosen))] == [each["tokens"] for each in examples]


def test_the_first_rows_are_what_a_trial_was_named_by_before() -> None:
    written = asdict(EvaluationConfig(limit=None))
    assert written.pop("rows") == "first"
    assert numbers(EvaluationConfig(limit=None)) == written
    assert numbers(EvaluationConfig(rows="spread"))["rows"] == "spread"
