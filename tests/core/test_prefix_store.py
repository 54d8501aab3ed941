"""What the store gives back after other processes, kills, full disks and removals."""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from myosotis.prefix_store import ENTRY, PrefixStore

SIZE = 1000
LIMIT = 1 << 30

WRITER = """
import sys
from pathlib import Path
from myosotis.prefix_store import PrefixStore
from tests.core.test_prefix_store import item
store = PrefixStore(Path(sys.argv[1]), 1 << 30)
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    while store.read([item(number)[0]])[0] is None:
        store.keep([item(number)])
"""


def item(number: int) -> tuple[bytes, np.ndarray]:
    """Make bytes that are known from their digest."""
    name = hashlib.blake2b(str(number).encode(), digest_size=16).digest()
    return name, np.random.default_rng(number).integers(256, size=SIZE, dtype=np.uint8)


def holds(store: PrefixStore, *numbers: int) -> list[bool]:
    """Tell which items the store holds, and that they are what was kept."""
    found = store.read([item(number)[0] for number in numbers])
    for number, read in zip(numbers, found, strict=True):
        assert read is None or np.array_equal(read, item(number)[1])
    return [read is not None for read in found]


def writer(folder: Path, first: int, last: int) -> subprocess.Popen[bytes]:
    """Start a process that keeps items."""
    command = [sys.executable, "-c", WRITER, str(folder), str(first), str(last)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


def test_keeps_items_for_itself_and_for_others(tmp_path: Path) -> None:
    one, other = PrefixStore(tmp_path, LIMIT), PrefixStore(tmp_path, LIMIT)
    assert holds(other, 0) == [False]
    one.keep([item(0), item(1)])
    assert holds(one, 0, 1, 2) == [True, True, False]
    other.keep([item(1), item(2)])
    assert holds(other, 0, 1, 2) == [True, True, True]
    assert holds(one, 2, 0) == [True, True]
    assert len(one) == 3
    assert (tmp_path / "data").stat().st_size == 3 * SIZE


def test_the_first_come_stay_within_the_bound(tmp_path: Path) -> None:
    limit = 2 * (SIZE + ENTRY.size)
    store = PrefixStore(tmp_path, limit)
    store.keep([item(0)])
    store.keep([item(1), item(2)])
    store.keep([item(3)])
    assert holds(store, 0, 1, 2, 3) == [True, True, False, False]
    assert holds(PrefixStore(tmp_path, limit), 0, 1, 2, 3) == [True, True, False, False]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit
    larger = PrefixStore(tmp_path, LIMIT)
    larger.keep([item(2)])
    assert holds(larger, 0, 1, 2) == [True, True, True]


def test_half_an_entry_and_data_without_one_are_written_over(tmp_path: Path) -> None:
    PrefixStore(tmp_path, LIMIT).keep([item(0)])
    with (tmp_path / "data").open("ab") as data, (tmp_path / "index").open("ab") as index:
        data.write(b"x" * (SIZE // 2))
        index.write(item(1)[0] + b"half")
    store = PrefixStore(tmp_path, LIMIT)
    assert holds(store, 0, 1) == [True, False]
    store.keep([item(1), item(2)])
    assert holds(PrefixStore(tmp_path, LIMIT), 0, 1, 2) == [True, True, True]


def test_an_entry_whose_bytes_are_lost_is_kept_again(tmp_path: Path) -> None:
    PrefixStore(tmp_path, LIMIT).keep([item(0), item(1)])
    with (tmp_path / "data").open("r+b") as data:
        data.seek(SIZE // 2)
        data.write(b"\0" * 8)
    store = PrefixStore(tmp_path, LIMIT)
    assert holds(store, 0, 1) == [False, True]
    store.keep([item(0)])
    assert holds(PrefixStore(tmp_path, LIMIT), 0, 1) == [True, True]


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    both = [writer(tmp_path, 0, 60), writer(tmp_path, 30, 90)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    store = PrefixStore(tmp_path, LIMIT)
    assert all(holds(store, *range(90)))
    assert len(store) == 90
    assert (tmp_path / "data").stat().st_size == 90 * SIZE


def test_a_killed_writer_leaves_nothing_wrong(tmp_path: Path) -> None:
    killed = writer(tmp_path, 0, 1_000_000)
    while len(PrefixStore(tmp_path, LIMIT)) < 50:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    store = PrefixStore(tmp_path, LIMIT)
    count = len(store)
    assert holds(store, *range(count + 1)) == [True] * count + [False]
    store.keep([item(count)])  # the kernel has taken the lock from the dead
    assert holds(PrefixStore(tmp_path, LIMIT), count) == [True]


def test_a_writer_that_would_wait_goes_on(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path, LIMIT)
    store.keep([item(0)])
    script = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'ab'); fcntl.flock(file, fcntl.LOCK_EX);"
        "print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, tmp_path / "index"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"locked\n"
    store.keep([item(1)])
    assert holds(store, 0, 1) == [True, False]
    holder.kill()
    holder.wait()
    holder.stdout.close()
    store.keep([item(1)])
    assert holds(store, 1) == [True]


def test_what_the_disk_refuses_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    store = PrefixStore(tmp_path / "file" / "folder", LIMIT)
    with caplog.at_level(logging.WARNING):
        store.keep([item(0)])
        store.keep([item(1)])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is written no further" in caplog.text
    assert holds(store, 0, 1) == [False, False]


def test_a_full_disk_loses_nothing_that_was_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = PrefixStore(tmp_path, LIMIT)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 * SIZE // 2, before[1]))
    try:
        for number in range(4):
            store.keep([item(number)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "is written no further" in caplog.text
    assert holds(store, 0, 1, 2, 3) == [True, True, False, False]
    other = PrefixStore(tmp_path, LIMIT)
    other.keep([item(2)])
    assert holds(other, 0, 1, 2) == [True, True, True]


def test_the_folder_may_go_while_it_is_in_use(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = PrefixStore(folder, LIMIT)
    store.keep([item(0), item(1), item(2)])
    assert holds(store, 0, 1, 2) == [True, True, True]
    shutil.rmtree(folder)
    assert holds(store, 3) == [False]
    store.keep([item(2)])
    PrefixStore(folder, LIMIT).keep([item(4)])
    assert holds(store, 0, 2, 4) == [False, True, True]
