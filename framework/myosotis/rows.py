"""Rows of a dataset: some of them, and where each stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

from myosotis.errors import DataError, RowError
from myosotis.interfaces import Example, Model, Objective, Row, Rows

AT_ONCE = 1_000
"""Rows that are encoded at once where not all are."""
GOLDEN = (5**0.5 - 1) / 2
"""Its multiples' fractions fill the unit interval evenly, and keep to no rhythm."""


@runtime_checkable
class Placed(Protocol):
    """Rows that know where they stand, such as in a line of a file."""

    def place(self, index: int) -> str:
        """Say where a row stands."""


@dataclass(frozen=True)
class Chosen:
    """Some of the rows, in the order of their indices."""

    rows: Rows
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.rows[self.indices[index]]

    def place(self, index: int) -> str:
        """Say where a row stands."""
        return place_of(self.rows, self.indices[index])


def first(rows: Rows, count: int) -> Chosen:
    """Give the first rows."""
    return Chosen(rows, range(min(count, len(rows))))


def spread(rows: Rows, most: int) -> Chosen:
    """Give at most so many rows, evenly spread: one of each of as many equal parts, the same ones always.

    At a changing place in its part: of rows whose labels alternate, every tenth would have the same one.
    """
    count = min(most, len(rows))
    parts = pairwise(part * len(rows) // count for part in range(count + 1))
    return Chosen(rows, [start + int(n * GOLDEN % 1 * (end - start)) for n, (start, end) in enumerate(parts)])


def parts(rows: Rows, size: int) -> Iterator[Chosen]:
    """Give all rows, so many at a time."""
    for start in range(0, len(rows), size):
        yield Chosen(rows, range(start, min(start + size, len(rows))))


def place_of(rows: Rows, index: int) -> str:
    """Say where a row stands: what the rows know, else its number."""
    return rows.place(index) if isinstance(rows, Placed) else f"row {index + 1}"


def encoded(objective: Objective, rows: Rows, model: Model, shots: Sequence[Row] = ()) -> Sequence[Example]:
    """Encode rows for a model, with the shots in their prompts where there are some.

    Raises:
        DataError: a row is not what the objective reads; names its place.
    """
    try:
        return objective.encode_with_shots(rows, shots, model) if shots else objective.encode(rows, model)
    except RowError as error:
        if error.row is None:
            raise
        raise DataError(f"{place_of(rows, error.row - 1)}: {error.problem}") from error


def streamed(objective: Objective, rows: Rows, model: Model) -> Iterator[Example]:
    """Encode rows for a model, few at a time.

    Raises:
        DataError: as `encoded`.
    """
    if not objective.row_by_row:
        yield from objective.stream(rows, model)
        return
    for part in parts(rows, AT_ONCE):
        yield from encoded(objective, part, model)
