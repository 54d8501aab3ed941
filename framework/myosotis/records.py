"""Records in a file, read one at a time.

Pages of a mapped file would count as memory of the process that reads them; what is read this way does not stay.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from myosotis.storage import replacing

PLACE = array("Q").itemsize
"""Bytes of a number in the file."""


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Write records one after another, then where each ends, then how many there are; all of it or nothing.

    Raises:
        StorageError: the disk is full, the folder read-only …
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        ends = array("Q")
        for record in records:
            file.write(record)
            ends.append(file.tell())
        ends.append(len(ends))
        ends.tofile(file)


class Records(Sequence[bytes]):
    """The records of a file that `write_records` wrote."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        size = os.fstat(self._file.fileno()).st_size
        [self._count] = self._numbers(size - PLACE, 1)
        self._ends = size - (self._count + 1) * PLACE

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(self._count))

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self._count))]
        place = range(self._count)[index]
        if place == 0:
            start, [end] = 0, self._numbers(self._ends, 1)
        else:
            start, end = self._numbers(self._ends + (place - 1) * PLACE, 2)
        return os.pread(self._file.fileno(), end - start, start)

    def _numbers(self, offset: int, count: int) -> list[int]:
        return array("Q", os.pread(self._file.fileno(), count * PLACE, offset)).tolist()
