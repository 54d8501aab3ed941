"""Reading rows from files of every kind, one after another, with the line where something is wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from myosotis.errors import DataError, first_line, unknown_name


def check_file(path: Path) -> None:
    """Refuse a file that is not there, with those that are, or an empty one.

    Raises:
        DataError: it is one of these.
    """
    if not path.is_file():
        near = [each.name for each in path.parent.glob("*") if each.is_file()] if path.parent.is_dir() else []
        raise DataError(f"in {path.parent}: " + unknown_name("file", path.name, near[:20]))
    if path.stat().st_size == 0:
        raise DataError(f"{path} must have at least one row, but is empty")


def lines(path: Path, newline: str = "\n") -> Iterator[str]:
    """Give a text's lines, with their ends.

    Args:
        path: the file.
        newline: what ends a line; where empty, all that Python knows.

    Raises:
        DataError: it is not UTF-8; names the line.
    """
    with path.open(encoding="utf-8-sig", newline=newline) as file:
        try:
            yield from file
        except UnicodeDecodeError as error:
            raise _not_utf8(path) from error


def _not_utf8(path: Path) -> DataError:
    with path.open("rb") as file:
        before = 0
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return DataError(
                    f"{path}:{number}: must be UTF-8, but byte {before + error.start} is "
                    f"{line[error.start]:#04x}; convert it, for example with iconv -f latin1 -t utf-8"
                )
            before += len(line)
    return DataError(f"{path} must be UTF-8, but is not")


def json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Give the objects of JSON lines, each with its line.

    Raises:
        DataError: a line is none.
    """
    for number, line in enumerate(lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}:{number}: must be one JSON object a line, but: {error.msg}: {line.strip()[:60]!r}"
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: must be a JSON object, but is {line.strip()[:60]!r}")
        yield number, row


def csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Give the rows of a table with a header, each with its line.

    Raises:
        DataError: a row has more or fewer fields than the header.
    """
    reader = csv.reader(lines(path, ""), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
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


def parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Give the rows of a table, each with its number.

    Raises:
        DataError: the file is none.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = (row for batch in file.iter_batches(1_000) for row in batch.to_pylist())
            yield from enumerate(batches, 1)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} must be Parquet, but: {first_line(error)}") from error


def conll_rows(path: Path) -> Iterator[tuple[int, list[str], list[str]]]:
    """Give sentences with their tags, each with the line that it begins at.

    Raises:
        DataError: a line has no tag.
    """
    words: list[list[str]] = []
    begin = 1
    for number, line in enumerate(_and_an_end(lines(path)), 1):
        if line.strip() and not line.startswith("-DOCSTART-"):
            columns = line.split("\t") if "\t" in line else line.split()
            if len(columns) < 2:
                raise DataError(
                    f"{path}:{number}: must have a word and, last, its tag, but has {line.strip()!r}"
                )
            words.append([columns[0].strip(), columns[-1].strip()])
        elif words:
            yield begin, [word for word, _ in words], [tag for _, tag in words]
            words = []
        if not words:
            begin = number + 1


def passages(path: Path) -> list[str]:
    """Give a file's passages: the `text` of each of its JSON lines, or the paragraphs of plain text.

    Raises:
        DataError: there is no such file, or a row has no `text`.
    """
    check_file(path)
    if path.suffix not in (".jsonl", ".json"):
        return [text for _, text in documents(path, "paragraph")]
    found = []
    for line, row in json_rows(path):
        if not isinstance(row.get("text"), str):
            raise DataError(f"{path}:{line}: a passage must have a text, but has {', '.join(map(str, row))}")
        found.append(row["text"])
    return found


def _and_an_end(lines: Iterable[str]) -> Iterator[str]:
    yield from lines
    yield ""


def documents(path: Path, unit: str) -> Iterator[tuple[int, str]]:
    """Cut a text into documents, without empty ones, each with the line that it begins at."""
    document: list[str] = []
    begin = 1
    for number, line in enumerate(lines(path), 1):
        document.append(line.replace("\r\n", "\n"))
        if unit == "line" or (unit == "paragraph" and not line.strip("\r\n")):
            yield from _document(begin, document, unit)
            document, begin = [], number + 1
    yield from _document(begin, document, unit)


def _document(begin: int, written: Sequence[str], unit: str) -> Iterator[tuple[int, str]]:
    text = "".join(written)
    if text.strip():
        yield begin, text if unit == "file" else text.strip()
