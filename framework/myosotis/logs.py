"""Each trial's own log, `log.txt` in its run folder: what was logged and warned while it ran."""

from __future__ import annotations

import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

NAME = "log.txt"
LIMIT = 1_000_000
"""Bytes after which a log takes only what the core writes, so that a library cannot fill the disk."""

CORE = logging.getLogger("myosotis")


class TrialLog(logging.LoggerAdapter[logging.Logger]):
    """The core's logger for one trial: what it writes goes to that trial's log alone."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Name the trial in the record."""
        return msg, {**kwargs, "extra": {**(kwargs.get("extra") or {}), **(self.extra or {})}}


def trial_log(trial: str) -> TrialLog:
    """Give the logger that writes to one trial's log alone, whichever others train beside it.

    Args:
        trial: the name under which `trial_logs` has the trial; "" writes to all.
    """
    return TrialLog(logging.getLogger("myosotis.trial"), {"trial": trial} if trial else {})


def warn(text: str, trial: str = "") -> None:
    """Write a warning to a trial's log and to the terminal."""
    if CORE.hasHandlers():  # logging would print it by itself
        trial_log(trial).warning("%s", text)
    with suppress(OSError, ValueError):  # nobody may be listening
        print(f"warning: {text}", file=sys.stderr, flush=True)


@contextmanager
def trial_logs(folders: Mapping[str, Path]) -> Iterator[None]:
    """Write what is logged and warned meanwhile to the logs of the trials that train in this process.

    The core's records are written from INFO on, all others from WARNING on. A record with the attribute
    `trial` goes to that trial's log alone. A log that cannot be written never ends a trial.

    Args:
        folders: each trial's run folder, by the trial's name.
    """
    with ExitStack() as stack:
        for trial, folder in folders.items():
            handler = _TrialHandler(trial, folder / NAME)
            for logger in _heard():
                logger.addHandler(handler)
                stack.callback(logger.removeHandler, handler)
            stack.callback(handler.close)
            handler.separate()
        stack.callback(CORE.setLevel, CORE.level)
        CORE.setLevel(logging.INFO)
        stack.enter_context(_warnings_logged())
        yield


def _heard() -> list[logging.Logger]:
    """List the loggers that reach all others: the root, and those that keep their records from it."""
    known = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    return [logging.root, *[each for each in known if not each.propagate]]


@contextmanager
def _warnings_logged() -> Iterator[None]:
    """Log warnings, which are shown as before all the same."""
    before = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        logging.getLogger("py.warnings").warning("%s", text.rstrip())
        before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        if warnings.showwarning is show:
            warnings.showwarning = before


class _TrialHandler(logging.Handler):
    """Appends records to a trial's log; the file is open only while a line is written."""

    def __init__(self, trial: str, path: Path) -> None:
        super().__init__()
        self.trial = trial
        self.path = path
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is this trial's."""
        core = record.name == CORE.name or record.name.startswith(f"{CORE.name}.")
        wanted = core or (record.levelno >= logging.WARNING and self._length() < LIMIT)
        return wanted and getattr(record, "trial", self.trial) == self.trial

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record; training goes on where that cannot be done."""
        with suppress(Exception):
            self._append(f"{self.format(record)}\n")

    def separate(self) -> None:
        """Begin a part of the log: a process that begins with the trial, or goes on with it."""
        goes_on = self._length() > 0
        record = logging.LogRecord(
            "myosotis.trial",
            logging.INFO,
            __file__,
            0,
            "%s, in process %d on %s",
            ("the trial goes on" if goes_on else "the trial begins", os.getpid(), socket.gethostname()),
            None,
        )
        with suppress(Exception):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # What was killed may have left half a line.
            self._append(("\n" + "-" * 80 + "\n" if goes_on else "") + self.format(record) + "\n")

    def _append(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)

    def _length(self) -> int:
        with suppress(OSError):
            return self.path.stat().st_size
        return 0
