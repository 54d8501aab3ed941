"""Published data sets: from a folder of JSON lines, or from the Hub."""

from __future__ import annotations

import random
from abc import abstractmethod
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from myosotis.errors import ConfigurationError, DataError, first_line, located
from myosotis.interfaces import Row, Rows, Split, TaskDataset, file_hash
from myosotis.rows import Chosen, place_of
from myosotis_plugins.datasets.columns import Checked, Kind
from myosotis_plugins.datasets.file import LARGE_BYTES, FileRows, InMemory, stored
from myosotis_plugins.datasets.hub import TableRows
from myosotis_plugins.datasets.hub_commit import commit
from myosotis_plugins.datasets.readers import check_file, json_rows


class Benchmark(TaskDataset):
    """Rows of a published data set. Without a folder they come from the Hub, by Hugging Face's `datasets`.

    Args:
        path: a folder with the files that the class names.
        length: the most tokens of a row.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        train_rows: how many rows are trained on, drawn once for all: fewer are among more; all where not given.
        streaming: whether rows and what they are encoded to stay on disk, with the same numbers; where not given,
            data of more than 256 MB do.
    """

    hub: ClassVar[str]
    """The id on the Hub."""
    hub_name: ClassVar[str | None] = None
    """Which of several data sets of that id."""
    hub_revision: ClassVar[str | None] = None
    """A branch of it; for those that come with code, the one where the Hub keeps their rows."""
    hub_splits: ClassVar[Mapping[Split, str]] = {"train": "train", "validation": "validation", "test": "test"}
    files: ClassVar[Mapping[Split, str]] = {
        "train": "train.jsonl",
        "validation": "dev.jsonl",
        "test": "test.jsonl",
    }
    kinds: ClassVar[Mapping[str, Kind]] = {}
    """What columns hold that are no text."""
    locations = frozenset({"path", "streaming"})

    def __init__(
        self,
        path: str | None = None,
        length: int = 128,
        metrics: list[str] | None = None,
        train_rows: int | None = None,
        streaming: bool | None = None,
    ) -> None:
        if length < 2:
            raise ConfigurationError(f"length must be at least 2 tokens, but got {length}")
        if train_rows is not None and train_rows < 1:
            raise ConfigurationError(f"train_rows must be at least 1, but got {train_rows}")
        self.folder = None if path is None else Path(path)
        self.length = length
        self.chosen_metrics = tuple(metrics or ())
        self.train_rows = train_rows
        self.streaming = streaming
        self._tables: dict[str, Any] = {}

    @abstractmethod
    def row(self, raw: Mapping[str, Any]) -> Row:
        """Make a row for the objective of one of the files, or of the Hub, which may name its columns otherwise."""

    def keeps(self, raw: Mapping[str, Any]) -> bool:
        """Tell whether a row is one of the task's."""
        return True

    def metrics(self) -> tuple[str, ...]:
        """Name the chosen metrics."""
        return self.chosen_metrics

    @property
    def streams(self) -> bool:
        """Whether rows, and what they are encoded to, stay on disk."""
        if self.streaming is not None:
            return self.streaming
        if self.folder is None:
            size = sum(self._table(each).data.nbytes for each in set(self.hub_splits.values()))
        else:
            paths = {self.folder / name for name in self.files.values()}
            size = sum(path.stat().st_size for path in paths if path.is_file())
        return bool(size > LARGE_BYTES)

    def split(self, name: Split) -> Rows | None:
        """Read a split.

        Raises:
            DataError: the folder or the Hub does not have it, a row is not what it must be, or there are too few.
        """
        rows = self._split(name)
        if rows is None or name != "train" or self.train_rows is None:
            return rows
        if len(rows) < self.train_rows:
            raise DataError(
                f"train_rows must be at most {len(rows)}, for there are no more, but is {self.train_rows}"
            )
        return Chosen(rows, random.Random(0).sample(range(len(rows)), len(rows))[: self.train_rows])

    def _split(self, name: Split) -> Rows | None:
        if self.folder is None:
            return None if name not in self.hub_splits else self._made(self._from_hub(name))
        if name not in self.files or (
            name == "validation" and not (self.folder / self.files[name]).is_file()
        ):
            return None
        path = self.folder / self.files[name]
        check_file(path)
        lines = json_rows(path)
        kept = stored([file_hash([path]), path.suffix], lines) if self.streams else InMemory(list(lines))
        return self._made(FileRows(path, kept))

    def _made(self, raw: Rows) -> Rows:
        """Give the task's rows, each made when it is asked for, after all have been looked at once."""
        rows, kept = MadeRows(raw, self._row), array("Q")
        for index in range(len(raw)):
            each = raw[index]
            if self.keeps(each):
                with located(rows.place(index)):
                    self._row(each)
                kept.append(index)
        return rows if len(kept) == len(raw) else Chosen(rows, kept)

    def _row(self, raw: Mapping[str, Any]) -> Row:
        try:
            return self.row(Checked(raw, self.kinds))
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(
                f"a row of {type(self).__name__} must have other columns ({error}), but has "
                f"{', '.join(map(str, raw))}"
            ) from error

    def _from_hub(self, name: Split) -> TableRows:
        called = self.hub_splits[name]
        return TableRows(self._table(called), lambda place, row: row, f"{self.hub}, split {called}")

    def _table(self, called: str) -> Any:
        from datasets import load_dataset

        if called in self._tables:
            return self._tables[called]
        try:
            self._tables[called] = load_dataset(
                self.hub, self.hub_name, split=called, revision=self.hub_revision
            )
        # The client's errors of the network share no base, and change with its versions.
        except Exception as error:
            raise self._absent(f"the Hub must give {self.hub}, but does not: {first_line(error)}") from error
        return self._tables[called]

    def _absent(self, reason: str) -> DataError:
        files = ", ".join(self.files.values())
        return DataError(
            f"path must be a folder with {files}, or {reason}. Without a network, give path=FOLDER, or set "
            "HF_HUB_OFFLINE=1 if it was loaded here before"
        )

    def fingerprint(self) -> str:
        """Hash the files, or name the commit of the Hub."""
        if self.folder is None:
            try:
                return commit(self.hub, self.hub_revision)
            except DataError as error:
                raise self._absent(str(error)) from error
        paths = [self.folder / name for name in self.files.values()]
        for path in paths[:1]:
            check_file(path)
        return file_hash([path for path in paths if path.is_file()])


@dataclass(frozen=True)
class MadeRows:
    """Rows that are made of others when they are asked for."""

    raw: Rows
    made: Callable[[Mapping[str, Any]], Row]

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: int) -> Row:
        return self.made(self.raw[index])

    def place(self, index: int) -> str:
        """Name where the row comes from."""
        return place_of(self.raw, index)


class TextBenchmark(Benchmark):
    """Running text.

    Args:
        path: a folder with the files that the class names.
        length: the most tokens of a block.
        packing: `joined` or `isolated`, as of the objective `language_modeling`.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        streaming: whether rows and what they are encoded to stay on disk, with the same numbers; where not given,
            data of more than 256 MB do.
    """

    def __init__(
        self,
        path: str | None = None,
        length: int = 128,
        packing: str = "joined",
        metrics: list[str] | None = None,
        streaming: bool | None = None,
    ) -> None:
        super().__init__(path, length, metrics, streaming=streaming)
        self.packing = packing

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose language modelling."""
        return "language_modeling", {"length": self.length, "packing": self.packing}


class AnswerBenchmark(Benchmark):
    """Questions with their answers.

    Args:
        path: a folder with the files that the class names.
        length: the most tokens of a question with its answer; a longer answer is refused.
        template: how a question is put, as of the objective `instruction`.
        max_new_tokens: the most tokens of an answer that the model writes.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        streaming: whether rows and what they are encoded to stay on disk, with the same numbers; where not given,
            data of more than 256 MB do.
        options: further parameters of the objective, such as `{num_beams: 4}`; `myosotis plugins show OBJECTIVE`.
    """

    def __init__(
        self,
        path: str | None = None,
        length: int = 512,
        template: str = "question",
        max_new_tokens: int = 64,
        metrics: list[str] | None = None,
        streaming: bool | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(path, length, metrics, streaming=streaming)
        self.template = template
        self.max_new_tokens = max_new_tokens
        self.options = options or {}

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose instructions."""
        return "instruction", {
            "length": self.length,
            "template": self.template,
            "max_new_tokens": self.max_new_tokens,
            **self.options,
        }


def held_out(rows: Rows | None, name: Split, every: int) -> Rows | None:
    """Hold every so many rows out for the test split, where a data set has one file."""
    if rows is None:
        return None
    return Chosen(
        rows, [index for index in range(len(rows)) if (index % every == every - 1) == (name == "test")]
    )
