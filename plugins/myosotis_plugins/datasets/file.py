"""One's own files: JSON lines, CSV, TSV, Parquet, CoNLL or plain text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, DataError, unknown_name
from myosotis.interfaces import Rows, Split, TaskDataset, cache_folder, content_hash, file_hash
from myosotis.records import Records, write_records
from myosotis.rows import place_of
from myosotis_plugins.datasets.readers import (
    check_file,
    conll_rows,
    csv_rows,
    documents,
    json_rows,
    parquet_rows,
)
from myosotis_plugins.datasets.table import ObjectiveName, TableDataset

MYOSOTIS_API = 1

LARGE_BYTES = 256_000_000
"""Files that are larger together are not held in memory."""
FORMAT = 1
"""Of rows on disk; bumped when they are written otherwise."""


class File(TableDataset):
    """Rows of files: JSON lines (`.jsonl`, `.json`), `.csv`, `.tsv`, `.parquet`, anything else as plain text.

    For tags, text is CoNLL's: a word a line, its tag in the last column, an empty line between sentences.

    Without a file for `test`, a tenth of the training rows is held out for it: the end of running text,
    every tenth row otherwise.

    Args:
        train: the file to train on, a list of files, or a pattern such as `data/*.jsonl`.
        validation: those for the split of that name.
        test: those to be scored on.
        objective: what is done with the rows.
        columns: where the objective's columns stand under other names, such as `{text: body}`. Instructions may
            have whole conversations under `messages`, each a role and a content.
        labels: classification and tags: the labels; those of the training rows, sorted, where not given.
        length: the most tokens of a block or a row; 128, for instructions 256, where not given.
        packing: language modelling: `joined` or `isolated`.
        template: instruction and classification: the objective's own where not given.
        unit: plain text: what is a document.
        options: further parameters of the objective, such as `{by: head}`; `myosotis plugins show OBJECTIVE`.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        streaming: whether rows and what they are encoded to stay on disk, in the cache's folder, and are read
            as they are needed, with the same numbers; where not given, files of more than 256 MB do.
    """

    locations = frozenset({"train", "validation", "test", "streaming"})

    def __init__(
        self,
        train: str | list[str] | None = None,
        validation: str | list[str] | None = None,
        test: str | list[str] | None = None,
        objective: ObjectiveName = "language_modeling",
        columns: dict[str, str] | None = None,
        labels: list[str] | None = None,
        length: int | None = None,
        packing: Literal["joined", "isolated"] = "joined",
        template: str | None = None,
        unit: Literal["line", "paragraph", "file"] = "line",
        options: dict[str, Any] | None = None,
        metrics: list[str] | None = None,
        streaming: bool | None = None,
    ) -> None:
        super().__init__(objective, columns, labels, length, packing, template, options, metrics)
        given = {"train": train, "validation": validation, "test": test}
        self.paths = {split: _paths(split, each) for split, each in given.items() if each is not None}
        if not self.paths:
            raise ConfigurationError("a file dataset must have a file; name one as train or test")
        self.unit = unit
        self.streaming = streaming

    @property
    def streams(self) -> bool:
        """Whether rows stay on disk."""
        if self.streaming is not None:
            return self.streaming
        files = [path for paths in self.paths.values() for path in paths]
        return sum(path.stat().st_size for path in files if path.is_file()) > LARGE_BYTES

    def given(self, name: Split) -> Rows | None:
        """Read a split's files.

        Raises:
            DataError: a file is missing, empty, not UTF-8, or holds a malformed row.
        """
        if name not in self.paths:
            return None
        read = [self._read(path) for path in self.paths[name]]
        return read[0] if len(read) == 1 else Joined(read)

    def fingerprint(self) -> str:
        """Hash the files."""
        for paths in self.paths.values():
            for path in paths:
                check_file(path)
        return ":".join(f"{split}={file_hash(paths)}" for split, paths in self.paths.items())

    def _read(self, path: Path) -> FileRows:
        check_file(path)
        rows = self._stored(path) if self.streams else InMemory(list(self._lines(path)))
        if not len(rows):
            raise DataError(f"{path} must have at least one row, but has none")
        return FileRows(path, rows)

    def _stored(self, path: Path) -> OnDisk:
        key = [file_hash([path]), path.suffix, self.chosen, self.columns, self.conversation, self.unit]
        return stored(key, self._lines(path))

    def _lines(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        return ((line, self.row(f"{path}:{line}", row)) for line, row in self._raw(path))

    def _raw(self, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Give the rows as the file has them, each with its line."""
        readers = {
            ".jsonl": json_rows,
            ".json": json_rows,
            ".csv": csv_rows,
            ".tsv": csv_rows,
            ".parquet": parquet_rows,
        }
        if path.suffix in readers:
            yield from readers[path.suffix](path)
        elif self.chosen == "token_classification":
            for line, words, tags in conll_rows(path):
                yield line, {self.columns["tokens"]: words, self.columns["tags"]: tags}
        elif self.chosen == "language_modeling":
            for line, text in documents(path, self.unit):
                yield line, {self.columns["text"]: text}
        else:
            raise DataError(
                f"{path} must be .jsonl, .csv, .tsv or .parquet for {self.chosen}, which has several columns"
            )


def _paths(split: str, given: str | Sequence[str]) -> list[Path]:
    """List the files that are named, those of a pattern by their names."""
    paths: list[Path] = []
    for each in [given] if isinstance(given, str) else given:
        path = Path(each)
        pattern = any(mark in each for mark in "*?[") and not path.exists()
        found = sorted(path.parent.glob(path.name)) if pattern else [path]
        if not found:
            near = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
            raise DataError(f"{split}: in {path.parent}: " + unknown_name("file", path.name, near[:20]))
        paths += found
    if not paths:
        raise ConfigurationError(f"{split} must name a file, but names none")
    return paths


@dataclass(frozen=True)
class InMemory:
    """Lines with their rows."""

    lines: Sequence[tuple[int, Mapping[str, Any]]]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> tuple[int, Mapping[str, Any]]:
        return self.lines[index]


@dataclass(frozen=True)
class OnDisk:
    """Lines with their rows, each read when it is asked for."""

    records: Records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[int, dict[str, Any]]:
        line, row = json.loads(self.records[index])
        return line, row


def stored(key: Sequence[Any], lines: Iterator[tuple[int, Mapping[str, Any]]]) -> OnDisk:
    """Keep lines with their rows in the cache's folder, read but once.

    Args:
        key: what they follow from.
        lines: plain values.
    """
    path = cache_folder() / "rows" / content_hash([FORMAT, *key], size=16)
    if not path.is_file():
        write_records(path, (json.dumps(each).encode() for each in lines))
    return OnDisk(Records(path))


@dataclass(frozen=True)
class FileRows:
    """The rows of a file."""

    path: Path
    lines: InMemory | OnDisk

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.lines[index][1]

    def place(self, index: int) -> str:
        """Name the file and the line."""
        return f"{self.path}:{self.lines[index][0]}"


@dataclass(frozen=True)
class Joined:
    """The rows of several files, one after another."""

    parts: Sequence[FileRows]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: int) -> Any:
        part, own = self._find(index)
        return part[own]

    def place(self, index: int) -> str:
        """Name the file and the line."""
        part, own = self._find(index)
        return place_of(part, own)

    def _find(self, index: int) -> tuple[FileRows, int]:
        own = range(len(self))[index]
        for part in self.parts:
            if own < len(part):
                return part, own
            own -= len(part)
        raise IndexError(index)


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"file": File}
