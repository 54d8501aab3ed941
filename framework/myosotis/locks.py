"""Locks between the processes of a study: one writer a trial, one reader-and-writer of `study.json`.

The kernel holds them, and lets go of them when their holder dies: a dead holder's lock is free at once.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from myosotis.errors import ConfigurationError, Held
from myosotis.storage import stored

FOLDER = ".locks"
"""Where a study's locks lie; a lock's file stays when nobody holds it."""

CANNOT_LOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        since: local time, ISO 8601.
    """

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class Lock:
    """A lock that at most one process holds; a child that is forked meanwhile holds nothing of it.

    Args:
        path: its file.
        what: what it keeps to one process, for messages.
        patience: seconds that entering it waits for another process; -1 is without end.
    """

    def __init__(self, path: Path, what: str, patience: float) -> None:
        self.path = path
        self.what = what
        self.patience = patience
        self._lock: FileLock | None = None
        self._process = 0

    def take(self, patience: float = 0) -> bool:
        """Take the lock, or tell that another process still holds it after so many seconds.

        Raises:
            ConfigurationError: the file system cannot lock.
            StorageError: the lock's file cannot be made.
        """
        with stored(self.path):
            try:
                self._own().acquire(timeout=patience)
            except Timeout:
                return False
            except OSError as error:
                if error.errno in CANNOT_LOCK:
                    raise ConfigurationError(
                        f"studies must lie on a file system that locks files, but {self.path.parent} does not "
                        f"({error.strerror}); give another folder as studies=FOLDER"
                    ) from error
                raise
        self._sign()
        return True

    def release(self) -> None:
        """Let go of the lock, where this process holds it."""
        if self._lock is not None and self._process == os.getpid():
            self._lock.release(force=True)

    def remove(self) -> None:
        """Let go of the lock and take its file away; who waits for it goes on with a new file."""
        self.path.unlink(missing_ok=True)
        self.release()

    def holder(self) -> Holder | None:
        """Tell who took the lock last; None where that cannot be read."""
        try:
            return Holder(**json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def __enter__(self) -> Self:
        if not self.take(self.patience):
            who = self.holder() or "another process"
            raise Held(
                f"{self.what} must be in one process's hands, but {who} has it; wait for it or stop it, and run "
                "the same command again"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _own(self) -> FileLock:
        # What a fork inherits is its parent's.
        if self._lock is None or self._process != os.getpid():
            self._lock = FileLock(self.path, thread_local=False, fallback_to_soft=False)
            self._process = os.getpid()
        return self._lock

    def _sign(self) -> None:
        holder = Holder(
            os.getpid(), socket.gethostname(), datetime.now().astimezone().isoformat("T", "seconds")
        )
        with suppress(OSError):  # on a full disk the lock holds without a signature
            self.path.write_text(json.dumps(asdict(holder)), encoding="utf-8")


class TrialLock(Lock):
    """The right to write a trial's run folder; entering it does not wait.

    Args:
        study: the study's folder.
        trial: the name of the run folder.
    """

    def __init__(self, study: Path, trial: str) -> None:
        super().__init__(study / FOLDER / f"{trial}.lock", f"trial {trial} of study {study.name}", patience=0)


class StudyLock(Lock):
    """The right to read `study.json` and write it anew; entering it waits a minute at most.

    Args:
        study: the study's folder.
    """

    def __init__(self, study: Path) -> None:
        super().__init__(study / FOLDER / "study.lock", f"study {study.name}", patience=60)
