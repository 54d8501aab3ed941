"""One's own files: JSON lines, CSV, TSV, Parquet, CoNLL or plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, DataError, located, unknown_name
from myosotis.interfaces import Rows, Split, TaskDataset, file_hash
from myosotis_plugins.datasets.readers import (
    check_file,
    conll_rows,
    csv_rows,
    decoded,
    documents,
    json_rows,
    parquet_rows,
)
from myosotis_plugins.objectives.turns import checked_messages

MYOSOTIS_API = 1

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "language_modeling": ("text",),
    "instruction": ("prompt", "response"),
    "classification": ("text", "label"),
    "token_classification": ("tokens", "tags"),
    "sequence_to_sequence": ("source", "target"),
}
LISTS = frozenset({"tokens", "tags"})
"""Columns that hold lists of words."""
CONVERSATION = "messages"
"""Where a row of instructions may have a whole conversation in place of a prompt and a response."""
LENGTHS: Mapping[str, int] = {**dict.fromkeys(COLUMNS, 128), "instruction": 256}
HELD_OUT = 10
"""Every tenth row, or the last tenth of running text, is the test split where no file is named for it."""


class File(TaskDataset):
    """Rows of files: JSON lines (`.jsonl`, `.json`), `.csv`, `.tsv`, `.parquet`, anything else as plain text.

    For tags, text is CoNLL's: a word a line, its tag in the last column, an empty line between sentences.

    Without a file for `test`, a tenth of the training rows is held out for it: the end of running text,
    every tenth row otherwise.

    Args:
        train: the file to train on.
        validation: the file for the split of that name.
        test: the file to be scored on.
        objective: what is done with the rows.
        columns: where the objective's columns stand under other names, such as `{text: body}`. Instructions may
            have whole conversations under `messages`, each a role and a content.
        labels: classification and tags: the labels; those of the rows, sorted, where not given.
        length: the most tokens of a block or a row; 128, for instructions 256, where not given.
        packing: language modelling: `joined` or `isolated`.
        template: instruction and classification: the objective's own where not given.
        unit: plain text: what is a document.
        options: further parameters of the objective, such as `{by: head}`; `myosotis plugins show OBJECTIVE`.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
    """

    locations = frozenset({"train", "validation", "test"})

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        objective: Literal[
            "language_modeling",
            "instruction",
            "classification",
            "token_classification",
            "sequence_to_sequence",
        ] = "language_modeling",
        columns: dict[str, str] | None = None,
        labels: list[str] | None = None,
        length: int | None = None,
        packing: Literal["joined", "isolated"] = "joined",
        template: str | None = None,
        unit: Literal["line", "paragraph", "file"] = "line",
        options: dict[str, Any] | None = None,
        metrics: list[str] | None = None,
    ) -> None:
        given = {"train": train, "validation": validation, "test": test}
        self.paths = {split: Path(path) for split, path in given.items() if path is not None}
        if not self.paths:
            raise ConfigurationError("a file dataset must have a file; name one as train or test")
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
        self.unit = unit
        self.options = options or {}
        self.chosen_metrics = tuple(metrics or ())

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Give the chosen objective with its parameters."""
        parameters: dict[str, Any] = {"length": self.length}
        if self.chosen == "language_modeling":
            parameters["packing"] = self.packing
        if self.template is not None:
            parameters["template"] = self.template
        if self.chosen == "classification":
            parameters["labels"] = self.labels or sorted({row["label"] for row in self._first_rows})
        if self.chosen == "token_classification":
            parameters["tags"] = self.labels or sorted(
                {tag for row in self._first_rows for tag in row["tags"]}
            )
        return self.chosen, {**parameters, **self.options}

    def metrics(self) -> tuple[str, ...]:
        """Name the chosen metrics."""
        return self.chosen_metrics

    def split(self, name: Split) -> Rows | None:
        """Read a split's file.

        Raises:
            DataError: the file is missing, empty, not UTF-8, or holds a malformed row.
        """
        if "test" not in self.paths and name in ("train", "test"):
            train, test = self._held_out
            return train if name == "train" else test
        return self._read(self.paths[name]) if name in self.paths else None

    def fingerprint(self) -> str:
        """Hash the files."""
        for path in self.paths.values():
            check_file(path)
        return ":".join(f"{split}={file_hash([path])}" for split, path in self.paths.items())

    @cached_property
    def _first_rows(self) -> list[dict[str, Any]]:
        return self._read(next(iter(self.paths.values())))

    @cached_property
    def _held_out(self) -> tuple[Rows | None, Rows | None]:
        if "train" not in self.paths:
            return None, None
        rows = self._read(self.paths["train"])
        count = max(1, len(rows) // HELD_OUT)
        if self.chosen == "language_modeling":
            return rows[:-count], rows[-count:]
        test = set(range(HELD_OUT - 1, len(rows), HELD_OUT)) or {len(rows) - 1}
        split = (
            ([], [])
            if not rows
            else (
                [row for index, row in enumerate(rows) if index not in test],
                [row for index, row in enumerate(rows) if index in test],
            )
        )
        return split

    def _read(self, path: Path) -> list[dict[str, Any]]:
        check_file(path)
        rows = [self._row(path, line, row) for line, row in self._raw(path)]
        if not rows:
            raise DataError(f"{path} must have at least one row, but has none")
        return rows

    def _raw(self, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Give the rows as the file has them, each with its line."""
        readers = {".jsonl": json_rows, ".json": json_rows, ".csv": csv_rows, ".tsv": csv_rows}
        if path.suffix == ".parquet":
            yield from parquet_rows(path)
        elif path.suffix in readers:
            yield from readers[path.suffix](path, decoded(path))
        elif self.chosen == "token_classification":
            for line, words, tags in conll_rows(path, decoded(path)):
                yield line, {self.columns["tokens"]: words, self.columns["tags"]: tags}
        elif self.chosen == "language_modeling":
            texts = documents(decoded(path), self.unit)
            yield from ((number, {self.columns["text"]: text}) for number, text in enumerate(texts, 1))
        else:
            raise DataError(
                f"{path} must be .jsonl, .csv, .tsv or .parquet for {self.chosen}, which has several columns"
            )

    def _row(self, path: Path, line: int, row: Mapping[str, Any]) -> dict[str, Any]:
        if self.chosen == "instruction" and self.conversation in row:
            with located(f"{path}:{line}"):
                return {CONVERSATION: checked_messages({CONVERSATION: row[self.conversation]})}
        chosen = {}
        for role, column in self.columns.items():
            if column not in row:
                has = ", ".join(str(each) for each in row)
                raise DataError(
                    f"{path}:{line}: must have a column {column!r}, but has: {has}; see columns={{…}}"
                )
            chosen[role] = _checked(f"{path}:{line}", role, column, row[column])
        used = [chosen["label"]] if "label" in chosen else chosen.get("tags", [])
        if self.labels is not None and not set(used) <= set(self.labels):
            odd = next(each for each in used if each not in self.labels)
            raise DataError(f"{path}:{line}: " + unknown_name("label", odd, self.labels))
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


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"file": File}
