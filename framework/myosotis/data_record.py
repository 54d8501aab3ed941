"""What was found in a study's data before it ran: what is printed, and kept for the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from myosotis.errors import StorageError
from myosotis.ledger import read_json, write_json

FILE = "data.json"
"""Its name in a study's folder."""


@dataclass(frozen=True)
class Finding:
    """Something about the data that the user should know.

    Attributes:
        where: the tasks and splits.
        what: what was found, with numbers and an example.
        advice: what to do about it.
        stops: whether nothing should be trained on such data.
    """

    where: str
    what: str
    advice: str
    stops: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.advice}"


@dataclass(frozen=True)
class Bar:
    """How many rows are so long: at least `start`, and less than `end`; the last bar holds its end, too."""

    start: float
    end: float
    rows: int


@dataclass(frozen=True)
class SplitRecord:
    """A split in numbers; the tokens are those before rows are cut, None where rows are not cut one by one.

    Attributes:
        name: the task's and the split's.
        rows: how many it has.
        looked_at: how many of them were looked at, evenly spread.
        lost: tokens that are cut off.
        labels: how many different ones; 0 where rows have none.
        lengths: the rows by their length.
        counts: how often each label is there, the most frequent first; where there are many, these alone.
        unit: what lengths count: tokens, or characters where rows are not cut one by one.
    """

    name: str
    rows: int
    looked_at: int
    tokens: int | None = None
    median: int | None = None
    longest: int | None = None
    lost: int | None = None
    labels: int = 0
    lengths: Sequence[Bar] = ()
    unit: str = "tokens"
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DataRecord:
    """What was found in the data that trials train on and are scored on."""

    splits: Sequence[SplitRecord] = ()
    findings: Sequence[Finding] = ()


def write_data(path: Path, records: Mapping[str, DataRecord]) -> None:
    """Write what was found, by the hash over what it depends on; atomically."""
    write_json(path, {key: asdict(each) for key, each in records.items()})


def read_data(path: Path) -> dict[str, DataRecord]:
    """Read what was found; nothing where there is no file.

    Raises:
        StorageError: it holds something else.
    """
    if not path.is_file():
        return {}
    try:
        return {key: _record(each) for key, each in read_json(path).items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise StorageError(f"{path} must hold what was found in data, but {error}; remove it") from error


def _record(value: Mapping[str, Any]) -> DataRecord:
    splits = [
        SplitRecord(**{**each, "lengths": [Bar(**bar) for bar in each["lengths"]]})
        for each in value["splits"]
    ]
    return DataRecord(splits, [Finding(**each) for each in value["findings"]])


def keep(path: Path, records: Mapping[str, DataRecord]) -> None:
    """Add what was found to what is in a file."""
    known = read_data(path)
    if not records.keys() <= known.keys():
        write_data(path, {**known, **records})


def joined(records: Iterable[DataRecord]) -> DataRecord:
    """Put what was found in several trials' data together, each thing once."""
    read = list(records)
    return DataRecord(
        _once(split for each in read for split in each.splits),
        _once(finding for each in read for finding in each.findings),
    )


def _once(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for each in values:
        if each not in found:
            found.append(each)
    return found
