"""Locks: one holder among processes, free the moment that its holder dies."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from myosotis.errors import ConfigurationError, Held, StorageError
from myosotis.locks import Lock, StudyLock, TrialLock

HOLD = """
import sys, time
from pathlib import Path
from myosotis.locks import TrialLock
lock = TrialLock(Path(sys.argv[1]), sys.argv[2])
print(lock.take(), flush=True)
time.sleep(60)
"""


def hold(study: Path, trial: str) -> tuple[subprocess.Popen[str], bool]:
    """Start a process that takes a trial's lock, and tell whether it got it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(study), trial], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip() == "True"


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def in_a_child(act: Callable[[], bool]) -> bool:
    """Give what a forked child finds."""
    child = os.fork()
    if child == 0:
        found = False
        with suppress(BaseException):
            found = act()
        os._exit(int(found))
    return os.waitpid(child, 0)[1] == 256


def kernel_has(path: Path) -> bool:
    """Ask the kernel itself whether a file is locked, without this project's code."""
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_two_processes_never_hold_one_lock(tmp_path: Path) -> None:
    holder, took = hold(tmp_path, "abc.2")
    try:
        assert took
        assert not TrialLock(tmp_path, "abc.2").take()
        assert kernel_has(tmp_path / ".locks" / "abc.2.lock")
        other, took = hold(tmp_path, "abc.2")
        end(other)
        assert not took
        for name in ("abc", "abc.1", "abc.20", "abc.2.lock"):
            with TrialLock(tmp_path, name):
                pass
    finally:
        end(holder)


def test_lock_of_a_killed_holder_is_free_at_once(tmp_path: Path) -> None:
    holder, took = hold(tmp_path, "abc")
    assert took
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock = TrialLock(tmp_path, "abc")
    assert lock.take()
    end(holder)
    lock.release()


def test_holder_says_who_it_is(tmp_path: Path) -> None:
    holder, _ = hold(tmp_path, "abc")
    try:
        lock = TrialLock(tmp_path, "abc")
        found = lock.holder()
        assert found is not None
        assert (found.pid, found.host) == (holder.pid, socket.gethostname())
        with (
            pytest.raises(Held, match=f"trial abc of study {tmp_path.name} .* process {holder.pid} on "),
            lock,
        ):
            pass
    finally:
        end(holder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "\x00"])
def test_unreadable_holder_is_nobody(tmp_path: Path, content: str) -> None:
    lock = TrialLock(tmp_path, "abc")
    lock.path.parent.mkdir()
    lock.path.write_text(content)
    assert lock.holder() is None
    assert lock.take()
    lock.release()


def test_lock_is_free_after_its_block_whatever_happened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mishap"), TrialLock(tmp_path, "abc"):
        raise ValueError("mishap")
    assert not kernel_has(tmp_path / ".locks" / "abc.lock")


def test_two_locks_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    with TrialLock(tmp_path, "abc"):
        assert not TrialLock(tmp_path, "abc").take()
    assert TrialLock(tmp_path, "abc").take()


def test_child_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    lock = TrialLock(tmp_path, "abc")
    assert lock.take()
    assert in_a_child(lambda: not lock.take())  # the parent has it
    assert in_a_child(lambda: lock.release() is None)
    assert kernel_has(lock.path)  # children that release and exit leave it
    lock.release()
    assert not kernel_has(lock.path)


def test_child_takes_with_what_it_inherited(tmp_path: Path) -> None:
    lock = TrialLock(tmp_path, "abc")
    assert lock.take()
    lock.release()
    assert in_a_child(lambda: lock.take() and kernel_has(lock.path))
    assert not kernel_has(lock.path)  # it died with it


def test_living_child_does_not_keep_a_dead_parents_lock(tmp_path: Path) -> None:
    script = """
import os, sys, time
from pathlib import Path
from myosotis.locks import TrialLock
lock = TrialLock(Path(sys.argv[1]), "abc")
assert lock.take()
if os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        os.kill(child, 0)  # it lives
        assert TrialLock(tmp_path, "abc").take()
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_study_lock_waits_for_its_turn(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from myosotis.locks import StudyLock
path = Path(sys.argv[1])
for _ in range(50):
    with StudyLock(path):
        number = int((path / "number").read_text())
        (path / "number").write_text(str(number + 1))
"""
    (tmp_path / "number").write_text("0")
    counters = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(4)]
    assert [counter.wait() for counter in counters] == [0, 0, 0, 0]
    assert (tmp_path / "number").read_text() == "200"


def test_study_lock_gives_up_with_a_name(tmp_path: Path) -> None:
    with StudyLock(tmp_path):
        waiting = StudyLock(tmp_path)
        waiting.patience = 0.2
        with pytest.raises(Held, match=f"process {os.getpid()} on"), waiting:
            pass


def test_waiter_goes_on_with_a_new_file_where_the_lock_was_removed(tmp_path: Path) -> None:
    waiter = """
import sys
from pathlib import Path
from myosotis.locks import Lock
with Lock(Path(sys.argv[1]), "it", patience=30) as lock:
    print(lock.path.is_file(), flush=True)
"""
    lock = Lock(tmp_path / "x.lock", "it", patience=0)
    assert lock.take()
    process = subprocess.Popen(
        [sys.executable, "-c", waiter, str(lock.path)], stdout=subprocess.PIPE, text=True
    )
    lock.remove()
    assert process.communicate(timeout=300)[0] == "True\n"
    assert process.returncode == 0


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(
        ConfigurationError, match=r"must lie on a file system that locks files.*studies=FOLDER"
    ):
        TrialLock(tmp_path, "abc").take()


def test_lock_that_cannot_be_made_says_where(tmp_path: Path) -> None:
    (tmp_path / "study").write_text("no folder")
    with pytest.raises(StorageError, match=r"study/\.locks/abc\.lock must be written, but Not a directory"):
        TrialLock(tmp_path / "study", "abc").take()


def test_holder_holds_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lock = TrialLock(tmp_path, "abc")
    monkeypatch.setattr(Path, "write_text", full)
    assert lock.take()
    assert kernel_has(lock.path)
    lock.release()
