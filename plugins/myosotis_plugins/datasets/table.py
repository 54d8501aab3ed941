"""Rows under whatever names they have, made what an objective reads: what datasets of one's own share."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from myosotis.errors import ConfigurationError, DataError, located, unknown_name
from myosotis.interfaces import Rows, Split, TaskDataset
from myosotis.rows import Chosen, place_of
from myosotis_plugins.objectives.turns import checked_messages

ObjectiveName = Literal[
    "language_modeling", "instruction", "classification", "token_classification", "sequence_to_sequence"
]
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "language_modeling": ("text",),
    "instruction": ("prompt", "response"),
    "classification": ("text", "label"),
    "token_classification": ("tokens", "tags"),
    "sequence_to_sequence": ("source", "target"),
}
LISTS = frozenset({"tokens", "tags"})
"""Columns that hold lists of words."""
LABELS: Mapping[str, str] = {"classification": "label", "token_classification": "tags"}
"""The column of labels, and the parameter of the objective that names them."""
CONVERSATION = "messages"
"""Where a row of instructions may have a whole conversation in place of a prompt and a response."""
LENGTHS: Mapping[str, int] = {**dict.fromkeys(COLUMNS, 128), "instruction": 256}
HELD_OUT = 10
"""Every tenth row, or the last tenth of running text, is the test split where there is none."""


class TableDataset(TaskDataset):
    """Rows whose columns may stand under other names.

    Args:
        objective: what is done with the rows.
        columns: where the objective's columns stand under other names.
        labels: classification and tags: the labels; those of the rows, sorted, where not given.
        length: the most tokens of a block or a row; the objective's own where not given.
        packing: language modelling: `joined` or `isolated`.
        template: instruction and classification: the objective's own where not given.
        options: further parameters of the objective.
        metrics: what the rows are scored by; the objective's own where not given.
    """

    def __init__(
        self,
        objective: str,
        columns: Mapping[str, str] | None,
        labels: list[str] | None,
        length: int | None,
        packing: str,
        template: str | None,
        options: Mapping[str, Any] | None,
        metrics: list[str] | None,
    ) -> None:
        if objective not in COLUMNS:
            raise ConfigurationError("objective: " + unknown_name("objective", str(objective), COLUMNS))
        known = [*COLUMNS[objective], *([CONVERSATION] if objective == "instruction" else [])]
        unknown = set(columns or {}) - set(known)
        if unknown:
            raise ConfigurationError(
                f"columns must name those of {objective} ({', '.join(known)}), but names "
                f"{', '.join(sorted(unknown))}"
            )
        if length is not None and length < 1:
            raise ConfigurationError(f"length must be at least 1 token, but got {length}")
        self.chosen = objective
        self.columns = {role: (columns or {}).get(role, role) for role in COLUMNS[objective]}
        self.conversation = (columns or {}).get(CONVERSATION, CONVERSATION)
        self.labels = labels
        self.length = length or LENGTHS[objective]
        self.packing = packing
        self.template = template
        self.options = options or {}
        self.chosen_metrics = tuple(metrics or ())

    @abstractmethod
    def given(self, name: Split) -> Rows | None:
        """Give a split's rows as the objective reads them; None where there is no such split.

        Raises:
            DataError: there is none that was asked for, or a row is not what it must be.
        """

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Give the chosen objective with its parameters."""
        parameters: dict[str, Any] = {"length": self.length}
        if self.chosen == "language_modeling":
            parameters["packing"] = self.packing
        if self.template is not None:
            parameters["template"] = self.template
        if self.chosen in LABELS:
            name = "labels" if self.chosen == "classification" else "tags"
            parameters[name] = self.labels or self.named_labels() or self._labels[0]
        return self.chosen, {**parameters, **self.options}

    def metrics(self) -> tuple[str, ...]:
        """Name the chosen metrics."""
        return self.chosen_metrics

    def split(self, name: Split) -> Rows | None:
        """Give a split's rows; without one for `test`, a tenth of the training rows.

        Raises:
            DataError: it is missing, or a row is not what it must be.
        """
        if name == "validation" or self._test is not None:
            rows = self._test if name == "test" else self.given(name)
            return rows if rows is None else self._with_known_labels(name, rows)
        train, test = self._held_out
        return train if name == "train" else test

    @cached_property
    def _test(self) -> Rows | None:
        return self.given("test")

    @cached_property
    def _held_out(self) -> tuple[Rows | None, Rows | None]:
        rows = self.given("train")
        if rows is None:
            return None, None
        size = len(rows)
        if self.chosen == "language_modeling":
            kept = size - max(1, size // HELD_OUT)
            return Chosen(rows, range(kept)), Chosen(rows, range(kept, size))
        test = range(HELD_OUT - 1, size, HELD_OUT) or range(size - 1, size)
        train = array("Q", (index for index in range(size) if index not in test))
        return Chosen(rows, train), Chosen(rows, test)

    # Labels

    def named_labels(self) -> list[str] | None:
        """Give the labels where the source of the rows names them."""
        return None

    @cached_property
    def _labels(self) -> tuple[list[str], Split]:
        """The labels of the training rows, else of those that are scored; and which they are of."""
        for name in ("train", "test", "validation"):
            if (rows := self.given(name)) is not None:
                return sorted(
                    {label for index in range(len(rows)) for label in self._used(rows[index])}
                ), name
        raise DataError("a dataset must have a split, but has none")

    def _used(self, row: Mapping[str, Any]) -> list[str]:
        value = row[LABELS[self.chosen]]
        return value if isinstance(value, list) else [value]

    def _with_known_labels(self, name: Split, rows: Rows) -> Rows:
        """Refuse labels that the training rows do not have, where none are given."""
        given = self.labels is not None or self.chosen not in LABELS or self.named_labels() is not None
        if given or self._labels[1] == name:
            return rows
        known, other = self._labels
        for index in range(len(rows)):
            for label in self._used(rows[index]):
                if label not in known:
                    raise DataError(
                        f"{place_of(rows, index)}: the {name} split must have the labels of the {other} split, "
                        f"but: {unknown_name('label', label, known)}; labels=[…] names those of both"
                    )
        return rows

    # A row

    def row(self, place: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Make what the objective reads of a row as it was given.

        Raises:
            DataError: it lacks a column, or has a value of another type; begins with its place.
        """
        if self.chosen == "instruction" and row.get(self.conversation) is not None:
            with located(place):
                return {CONVERSATION: checked_messages({CONVERSATION: row[self.conversation]})}
        chosen = {}
        for role, column in self.columns.items():
            if column not in row:
                has = ", ".join(str(each) for each in row)
                raise DataError(f"{place}: must have a column {column!r}, but has: {has}; see columns={{…}}")
            chosen[role] = _checked(place, role, column, row[column])
        if "tags" in chosen and len(chosen["tags"]) != len(chosen["tokens"]):
            raise DataError(
                f"{place}: every word must have a tag, but there are {len(chosen['tokens'])} words and "
                f"{len(chosen['tags'])} tags"
            )
        if self.labels is not None and self.chosen in LABELS:
            odd = next((each for each in self._used(chosen) if each not in self.labels), None)
            if odd is not None:
                raise DataError(f"{place}: " + unknown_name("label", odd, self.labels))
        return chosen


def _checked(place: str, role: str, column: str, value: Any) -> Any:
    """Refuse a value of another type than its column has; numbers may stand for labels."""
    if role == "label" and isinstance(value, int):
        return str(value)
    if role in LISTS and isinstance(value, str):
        return value.split()
    if role in LISTS and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    if role in LISTS or not isinstance(value, str):
        kind, wanted = type(value).__name__, "a list of words" if role in LISTS else "text"
        raise DataError(f"{place}: column {column!r} must be {wanted}, but is {kind}: {value!r}")
    return value
