"""One's own files: JSON lines, CSV, TSV or plain text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, DataError, located, unknown_name
from myosotis.interfaces import Rows, Split, TaskDataset, file_hash
from myosotis_plugins.objectives.turns import checked_messages

MYOSOTIS_API = 1

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "language_modeling": ("text",),
    "instruction": ("prompt", "response"),
    "classification": ("text", "label"),
}
CONVERSATION = "messages"
"""Where a row of instructions may have a whole conversation in place of a prompt and a response."""
LENGTHS: Mapping[str, int] = {"language_modeling": 128, "instruction": 256, "classification": 128}
HELD_OUT = 10
"""Every tenth row, or the last tenth of running text, is the test split where no file is named for it."""


class File(TaskDataset):
    """Rows of files: `.jsonl` or `.json` (one object a line), `.csv`, `.tsv`, anything else as plain text.

    Without a file for `test`, a tenth of the training rows is held out for it: the end of running text,
    every tenth row otherwise.

    Args:
        train: the file to train on.
        validation: the file for the split of that name.
        test: the file to be scored on.
        objective: what is done with the rows.
        columns: where the objective's columns stand under other names, such as `{text: body}`. Instructions may
            have whole conversations under `messages`, each a role and a content.
        labels: classification: the labels; those of the rows, sorted, where not given.
        length: the most tokens of a block or a row; 128, for instructions 256, where not given.
        packing: language modelling: `joined` or `isolated`.
        template: instruction and classification: the objective's own where not given.
        unit: plain text: what is a document.
    """

    locations = frozenset({"train", "validation", "test"})

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        objective: Literal["language_modeling", "instruction", "classification"] = "language_modeling",
        columns: dict[str, str] | None = None,
        labels: list[str] | None = None,
        length: int | None = None,
        packing: Literal["joined", "isolated"] = "joined",
        template: str | None = None,
        unit: Literal["line", "paragraph", "file"] = "line",
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

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Give the chosen objective with its parameters."""
        parameters: dict[str, Any] = {"length": self.length}
        if self.chosen == "language_modeling":
            return self.chosen, {**parameters, "packing": self.packing}
        if self.template is not None:
            parameters["template"] = self.template
        if self.chosen == "classification":
            parameters["labels"] = self.labels or sorted({row["label"] for row in self._first_rows})
        return self.chosen, parameters

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
            _check_file(path)
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
        _check_file(path)
        text = _decoded(path)
        readers = {".jsonl": _json_rows, ".json": _json_rows, ".csv": _csv_rows, ".tsv": _csv_rows}
        if path.suffix in readers:
            rows = [self._row(path, line, row) for line, row in readers[path.suffix](path, text)]
        elif self.chosen != "language_modeling":
            raise DataError(
                f"{path} must be .jsonl, .csv or .tsv for {self.chosen}, which has several columns"
            )
        else:
            rows = [{"text": document} for document in _documents(text, self.unit)]
        if not rows:
            raise DataError(f"{path} must have at least one row, but has none")
        return rows

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
            value = row[column]
            if role == "label" and isinstance(value, int):
                value = str(value)
            if not isinstance(value, str):
                kind = type(value).__name__
                raise DataError(f"{path}:{line}: column {column!r} must be text, but is {kind}: {value!r}")
            chosen[role] = value
        if self.labels is not None and "label" in chosen and chosen["label"] not in self.labels:
            raise DataError(f"{path}:{line}: " + unknown_name("label", chosen["label"], self.labels))
        return chosen


def _check_file(path: Path) -> None:
    if not path.is_file():
        near = [each.name for each in path.parent.glob("*") if each.is_file()] if path.parent.is_dir() else []
        raise DataError(f"in {path.parent}: " + unknown_name("file", path.name, near[:20]))
    if path.stat().st_size == 0:
        raise DataError(f"{path} must have at least one row, but is empty")


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}:{line}: must be UTF-8, but byte {error.start} is {content[error.start]:#04x}; convert it, "
            "for example with iconv -f latin1 -t utf-8"
        ) from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}:{number}: must be one JSON object a line, but: {error.msg}: {line[:60]!r}"
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: must be a JSON object, but is {line[:60]!r}")
        yield number, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True
    )
    try:
        header: Sequence[str] = next(reader, [])
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{path}:{reader.line_num}: must have {len(header)} fields as the header, but has {len(row)}"
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: must be CSV, but: {error}") from error


def _documents(text: str, unit: str) -> list[str]:
    text = text.replace("\r\n", "\n")
    if unit == "file":
        return [text] if text.strip() else []
    parts = text.split("\n\n") if unit == "paragraph" else text.split("\n")
    return [part.strip() for part in parts if part.strip()]


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"file": File}
