"""Bytes by their digests, in a file that grows up to a bound and that processes share."""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

logger = logging.getLogger(__name__)

DIGEST_SIZE = 16
ENTRY = struct.Struct(f"<{DIGEST_SIZE}sQII")
"""An entry of the index: a digest, where its bytes begin, how many they are, and their CRC-32."""


class Place(NamedTuple):
    """Where an item lies in the data."""

    start: int
    size: int
    checksum: int


class PrefixStore:
    """Items of bytes, read through a memory map; what is kept first stays, and nothing is replaced.

    Several processes may write at once. An item's bytes are written before its entry in the index, so that
    a killed writer leaves at most bytes that the next one writes over. The folder may be removed at any
    time: it holds nothing that cannot be computed again.

    Args:
        folder: where the files lie; made when the first item is kept.
        limit_bytes: the most that they may take together.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._index = folder / "index"
        self._data = folder / "data"
        self._writable = True
        self._forget()

    def __len__(self) -> int:
        self._refresh()
        return len(self._places)

    def read(self, digests: Sequence[bytes]) -> list[np.ndarray | None]:
        """Give the bytes under each digest, None where there are none."""
        if any(digest not in self._places for digest in digests):
            self._refresh()
        return [self._item(digest) for digest in digests]

    def keep(self, items: Sequence[tuple[bytes, np.ndarray]]) -> None:
        """Keep items under their digests, as long as there is room and no other process is writing.

        Where the disk refuses, this process keeps nothing from then on, and says so once.
        """
        if not self._writable:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._index) as index:
                self._refresh()
                self._append(index, [each for each in items if each[0] not in self._places])
        except BlockingIOError:
            return
        except OSError as error:
            self._writable = False
            logger.warning("%s is written no further, and what it lacks is computed: %s", self._data, error)

    def _append(self, index: int, items: Sequence[tuple[bytes, np.ndarray]]) -> None:
        entries: list[bytes] = []
        end = self._end
        with _opened(self._data) as data:
            for digest, item in items:
                if end + item.nbytes + (self._entries + len(entries) + 1) * ENTRY.size > self.limit_bytes:
                    self._writable = False
                    break
                _write(data, item.tobytes(), end)
                entries.append(ENTRY.pack(digest, end, item.nbytes, zlib.crc32(item.data)))
                end += item.nbytes
        # Over the part of an entry that a killed writer may have left.
        _write(index, b"".join(entries), self._entries * ENTRY.size)

    def _forget(self) -> None:
        self._places: dict[bytes, Place] = {}
        self._checked: set[bytes] = set()
        self._entries = 0
        self._end = 0
        self._file = 0
        self._map = np.empty(0, np.uint8)

    def _refresh(self) -> None:
        """Read the entries that have come since the last time."""
        try:
            with self._index.open("rb") as file:
                if os.fstat(file.fileno()).st_ino != self._file:  # the first time, or the folder is another
                    self._forget()
                    self._file = os.fstat(file.fileno()).st_ino
                file.seek(self._entries * ENTRY.size)
                found = file.read()
        except OSError:  # not yet there, or taken away
            self._forget()
            return
        whole = len(found) - len(found) % ENTRY.size
        for digest, *place in ENTRY.iter_unpack(found[:whole]):
            self._places[digest] = Place(*place)
            self._end = max(self._end, self._places[digest].start + self._places[digest].size)
        self._entries += whole // ENTRY.size

    def _item(self, digest: bytes) -> np.ndarray | None:
        place = self._places.get(digest)
        if place is None:
            return None
        if place.start + place.size > len(self._map):
            self._map, self._checked = _mapped(self._data), set()
        item = self._map[place.start : place.start + place.size]
        if digest not in self._checked:
            # A crash of the whole machine may keep an entry and lose its bytes.
            if len(item) != place.size or zlib.crc32(item.data) != place.checksum:
                del self._places[digest]
                return None
            self._checked.add(digest)
        return item


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.memmap(path, np.uint8, "r")
    except (OSError, ValueError):  # taken away, or empty
        return np.empty(0, np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open a file that nobody else has locked; the kernel unlocks it when it is closed, or its holder dies."""
    # Opened each time: a fork would share the lock of what it inherits.
    with _opened(path) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield handle


def _write(handle: int, content: bytes, start: int) -> None:
    while content:
        written = os.pwrite(handle, content, start)
        content, start = content[written:], start + written
