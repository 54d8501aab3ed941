"""Which of a task's rows are scored: as many as give a score worth having, and no more."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from myosotis.config import EvaluationConfig
from myosotis.interfaces import Example, Model, Rows
from myosotis.testing import make_task
from myosotis.workspace import evaluated_count, evaluated_examples
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
