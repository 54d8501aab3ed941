"""Any data set of the Hub, or a folder of its kind, by Hugging Face's `datasets`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, DataError, first_line, located, unknown_name
from myosotis.interfaces import Rows, Split, TaskDataset, file_hash
from myosotis_plugins.datasets.file import LARGE_BYTES
from myosotis_plugins.datasets.hub_commit import commit
from myosotis_plugins.datasets.numbered import named
from myosotis_plugins.datasets.table import LABELS, ObjectiveName, TableDataset

MYOSOTIS_API = 1

ADVICE = (
    "without a network, download it elsewhere (hf download --repo-type dataset ID --local-dir FOLDER) and give "
    "path=FOLDER, read its files by the dataset file, or set HF_HUB_OFFLINE=1 if it was loaded here before"
)


class Hub(TableDataset):
    """Rows of a data set of the Hub, of a folder that was downloaded from it, or of one that `datasets` saved.

    Rows stay on disk, and are read as they are needed. Labels that are numbered by the data set get their names.

    Without a test split, a tenth of the training rows is held out for it: the end of running text, every tenth
    row otherwise. No code of a data set is run.

    Args:
        path: the id on the Hub, such as `stanfordnlp/imdb`, or a folder.
        name: which of several data sets of that id.
        revision: a branch, tag or commit of it.
        train: what its training split is called; `train` where not given.
        validation: what its validation split is called; `validation`, where there is such a one, if not given.
        test: what its test split is called; `test`, where there is such a one, if not given.
        objective: what is done with the rows.
        columns: where the objective's columns stand under other names, such as `{text: body}`.
        labels: classification and tags: the labels; those of the data set where not given.
        length: the most tokens of a block or a row; 128, for instructions 256, where not given.
        packing: language modelling: `joined` or `isolated`.
        template: instruction and classification: the objective's own where not given.
        options: further parameters of the objective, such as `{by: head}`; `myosotis plugins show OBJECTIVE`.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        streaming: whether what rows are encoded to stays on disk, too, in the cache's folder, with the same
            numbers; where not given, that of more than 256 MB does.
    """

    locations = frozenset({"path", "revision", "streaming"})

    def __init__(
        self,
        path: str,
        name: str | None = None,
        revision: str | None = None,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        objective: ObjectiveName = "language_modeling",
        columns: dict[str, str] | None = None,
        labels: list[str] | None = None,
        length: int | None = None,
        packing: Literal["joined", "isolated"] = "joined",
        template: str | None = None,
        options: dict[str, Any] | None = None,
        metrics: list[str] | None = None,
        streaming: bool | None = None,
    ) -> None:
        super().__init__(objective, columns, labels, length, packing, template, options, metrics)
        self.path = path
        self.name = name
        self.revision = revision
        self.streaming = streaming
        self.names: Mapping[Split, str | None] = {"train": train, "validation": validation, "test": test}
        if revision is not None and Path(path).is_dir():
            raise ConfigurationError(
                f"revision must be of a data set of the Hub, but path is the folder {path}"
            )

    @property
    def streams(self) -> bool:
        """Whether what its rows are encoded to stays on disk."""
        if self.streaming is not None:
            return self.streaming
        return bool(sum(table.data.nbytes for table in self._tables.values()) > LARGE_BYTES)

    def given(self, name: Split) -> Rows | None:
        """Give a split's rows.

        Raises:
            DataError: the Hub or the folder does not have it, or a value is missing.
        """
        called = self.names[name] or name
        if called not in self._tables:
            if self.names[name] is None:
                return None
            raise DataError(f"{name}: {self.path}: " + unknown_name("split", called, self._tables))
        table = self._tables[called]
        rows = TableRows(table, self._row, f"{self.path}, split {called}")
        for index in [0, *self._missing(table)] if len(rows) else []:
            rows[index]  # the others have the same columns and types
        return rows

    def _missing(self, table: Any) -> Iterator[int]:
        """Find the first row without a value, in each column that is read."""
        for name in set(self.columns.values()) & set(table.column_names):
            column = table.data.column(name)
            if column.null_count:
                yield column.is_null().index(True).as_py()

    def fingerprint(self) -> str:
        """Hash the files of a folder, or name the commit of the Hub."""
        folder = Path(self.path)
        if not folder.is_dir():
            return self._commit()
        files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        # What a download notes beside the files is hidden, and differs from one to the next.
        seen = [path for path in files if not any(part.startswith(".") for part in path.parts)]
        return file_hash(folder / path for path in sorted(seen))

    def _commit(self) -> str:
        try:
            return commit(self.path, self.revision)
        except DataError as error:
            raise DataError(f"path must be a folder, or {error}; {ADVICE}") from error

    @cached_property
    def _tables(self) -> Mapping[str, Any]:
        import datasets

        folder = Path(self.path)
        if not folder.is_dir():
            self._commit()  # asks once, where loading would ask for half a minute
        saved = [folder / name for name in ("dataset_dict.json", "state.json")]
        try:
            if any(each.is_file() for each in saved):
                found = datasets.load_from_disk(self.path)
            else:
                found = datasets.load_dataset(self.path, self.name, revision=self.revision)
        except Exception as error:  # its errors share no base, and change with its versions
            raise DataError(f"{self.path} must be what datasets loads, but: {first_line(error)}") from error
        return found if isinstance(found, Mapping) else {"train": found}

    def _row(self, place: str, row: Mapping[str, Any]) -> dict[str, Any]:
        names = self.named_labels()
        if names is None:
            return self.row(place, row)
        column = self.columns[LABELS[self.chosen]]
        value = row[column]
        with located(f"{place}: column {column!r}"):
            labels = (
                [named(each, names) for each in value] if isinstance(value, list) else named(value, names)
            )
        return self.row(place, {**row, column: labels})

    def named_labels(self) -> list[str] | None:
        """Give the labels that the data set numbers."""
        return self._label_names.get(self.columns[LABELS[self.chosen]]) if self.chosen in LABELS else None

    @cached_property
    def _label_names(self) -> Mapping[str, list[str]]:
        from datasets import ClassLabel, LargeList, List

        found = {}
        for name, feature in next(iter(self._tables.values())).features.items():
            inner = feature.feature if isinstance(feature, List | LargeList) else feature
            if isinstance(inner, ClassLabel):
                found[name] = list(inner.names)
        return found


@dataclass(frozen=True)
class TableRows:
    """Rows of a table on disk, each read when it is asked for."""

    table: Any
    made: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
    name: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.made(self.place(index), self.table[index])

    def place(self, index: int) -> str:
        """Name the split and the row."""
        return f"{self.name}, row {index + 1}"


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"hub": Hub}
