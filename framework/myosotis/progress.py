"""One line a trial, with the time left, from the first second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


class Progress:
    """Prints how far a study has come: a line that rewrites itself on a terminal, plain lines elsewhere.

    Args:
        trials: how many trials are to run.
        stream: where to print.
    """

    def __init__(self, trials: int, stream: TextIO | None = None) -> None:
        self.trials = trials
        self.stream = stream or sys.stderr
        self.begun = 0
        self.started = time.monotonic()

    def study(self, name: str, total: int, finished: int) -> None:
        """Say which study runs, and how much of it is done already."""
        self._line(f"study {name}: {total} trials, {finished} finished, {total - finished} to run")

    @contextmanager
    def trial(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Announce a trial, follow its steps, and say how it ended."""
        self.begun += 1
        where = f"[{self.begun}/{self.trials}] {name}"
        self._line(f"{where}: begins, {self._left(self.begun - 1)}", rewritten=True)
        started = time.monotonic()

        def step(done: int, total: int) -> None:
            if self.stream.isatty():
                left = self._left(self.begun - 1 + done / max(1, total))
                self._line(f"{where}: step {done}/{total}, {left}", rewritten=True)

        try:
            yield step
        except BaseException as error:
            self._line(
                f"{where}: failed, {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
            raise
        self._line(f"{where}: done in {time.monotonic() - started:.1f} s, {self._left(self.begun)}")

    def _left(self, done: float) -> str:
        if done <= 0:
            return "time left not known yet"
        seconds = (time.monotonic() - self.started) / done * (self.trials - done)
        return f"about {duration(seconds)} left" if self.trials > done else "none left"

    def _line(self, text: str, rewritten: bool = False) -> None:
        terminal = self.stream.isatty()
        start, end = ("\r\x1b[K", "" if rewritten else "\n") if terminal else ("", "\n")
        print(f"{start}{text}", end=end, file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """Write a duration as a person says it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
