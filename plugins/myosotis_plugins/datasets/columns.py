"""What a published data set's columns must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from myosotis.errors import DataError


@dataclass(frozen=True)
class Kind:
    """What a column holds, in words and as a check."""

    name: str
    holds: Callable[[Any], bool]


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(_is(each, kind) for each in values)


TEXT = Kind("text", lambda value: _is(value, str))
NUMBER = Kind("a whole number", lambda value: _is(value, int))
LABEL = Kind("a label or its number", lambda value: _is(value, int) or _is(value, str))
TEXTS = Kind("a list of texts", lambda value: _are(value, str))
NUMBERS = Kind("a list of whole numbers", lambda value: _are(value, int))
ANSWERS = Kind(
    "answers with their text", lambda value: isinstance(value, Mapping) and _are(value.get("text"), str)
)


@dataclass(frozen=True)
class Checked(Mapping[str, Any]):
    """A row that gives no value of another kind than its column has.

    Args:
        raw: the row as it was given.
        kinds: what columns hold; text, where none is named.
    """

    raw: Mapping[str, Any]
    kinds: Mapping[str, Kind]

    def __getitem__(self, column: str) -> Any:
        """Give a value.

        Raises:
            KeyError: there is no such column.
            DataError: it holds something else.
        """
        value, kind = self.raw[column], self.kinds.get(column, TEXT)
        if not kind.holds(value):
            raise DataError(
                f"column {column!r} must be {kind.name}, but is {type(value).__name__}: {value!r}"
            )
        return value

    def __contains__(self, column: object) -> bool:
        return column in self.raw

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)
