"""One line a trial, with the time left, from the first second."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

from myosotis.events import Event


class Progress:
    """Prints how far a study has come: a line that rewrites itself on a terminal, plain lines elsewhere.

    Args:
        names: what the trials that are to run are called, by their ids.
        stream: where to print.
    """

    def __init__(self, names: Mapping[str, str], stream: TextIO | None = None) -> None:
        self.names = names
        self.stream = stream or sys.stderr
        self.numbers = {trial: number for number, trial in enumerate(names, 1)}
        self.running: dict[str, float] = {}
        self.begun: dict[str, float] = {}
        self.ended = 0
        self.started = time.monotonic()

    def study(self, name: str, total: int, finished: int) -> None:
        """Say which study runs, and how much of it is done already."""
        self._line(f"study {name}: {total} trials, {finished} finished, {total - finished} to run")

    def note(self, text: str) -> None:
        """Say something about the study as a whole."""
        self._line(text)

    def take(self, event: Event) -> None:
        """Follow what befalls a trial."""
        if event.kind == "begins":
            self.begun.setdefault(event.trial, time.monotonic())
            self.running[event.trial] = 0.0
            self._line(f"{self._where(event.trial)}: begins, {self._left()}", rewritten=True)
        elif event.kind == "step":
            self.running[event.trial] = event.done / max(1, event.total)
            if self.stream.isatty():
                self._line(self._running(event), rewritten=True)
        else:
            self.running.pop(event.trial, None)
            self.ended += event.kind != "stopped"
            self._line(f"{self._where(event.trial)}: {self._end(event)}")

    def _running(self, event: Event) -> str:
        if len(self.running) == 1:
            return f"{self._where(event.trial)}: step {event.done}/{event.total}, {self._left()}"
        done = sum(self.running.values()) / len(self.running)
        return f"{len(self.running)} trials run, {done:.0%} of their steps done, {self._left()}"

    def _end(self, event: Event) -> str:
        if event.kind == "failed":
            return f"failed, {event.error}"
        if event.kind == "stopped":
            return "stopped and saved"
        if event.trial not in self.begun:
            return f"done by another command, {self._left()}"
        return f"done in {time.monotonic() - self.begun[event.trial]:.1f} s, {self._left()}"

    def _where(self, trial: str) -> str:
        return f"[{self.numbers[trial]}/{len(self.names)}] {self.names[trial]}"

    def _left(self) -> str:
        done = self.ended + sum(self.running.values())
        if done <= 0:
            return "time left not known yet"
        if self.ended == len(self.names):
            return "none left"
        seconds = (time.monotonic() - self.started) / done * (len(self.names) - done)
        return f"about {duration(seconds)} left"

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
