"""Showing how far a study has come; here, by a line a trial."""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TextIO, final

from myosotis.course import Course, TrialCourse
from myosotis.events import Event


class Progress(ABC):
    """Shows how far a study has come."""

    @abstractmethod
    def add(self, trials: Mapping[str, TrialCourse], unknown: int) -> None:
        """Take further trials in, and how many more will come."""

    @abstractmethod
    def shown(self) -> AbstractContextManager[None]:
        """Show it until the context ends."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Say something about the study as a whole."""

    @abstractmethod
    def take(self, event: Event) -> None:
        """Follow what befalls a trial."""


@final
class PlainLines(Progress):
    """Prints a line as each trial begins and ends, with the time left: what a pipe or a file can hold.

    Args:
        course: the study's.
        stream: where to print.
    """

    def __init__(self, course: Course, stream: TextIO | None = None) -> None:
        self.course = course
        self.stream = stream

    def add(self, trials: Mapping[str, TrialCourse], unknown: int) -> None:
        """Take further trials in, and how many more will come."""
        self.course.add(trials, unknown)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Say which study runs, and how much of it is done already."""
        left = self.course.to_run
        total = len(self.course.trials) + self.course.unknown
        self.note(f"study {self.course.study}: {total} trials, {total - left} finished, {left} to run")
        yield

    def note(self, text: str) -> None:
        """Print a line."""
        stream = self.stream or sys.stderr
        if stream is not None:  # it was closed before this process began
            with suppress(OSError, ValueError):  # nobody may be listening
                print(text, file=stream, flush=True)

    def take(self, event: Event) -> None:
        """Print what is worth a line."""
        self.course.take(event)
        if event.kind == "begins":
            self.note(f"{where(self.course, event.trial)}: begins, {left(self.course)}")
        elif event.kind in {"finished", "pruned", "failed", "stopped"}:
            self.note(ending(self.course, event))


def ending(course: Course, event: Event) -> str:
    """Say how a trial has ended."""
    begun = course.trials[event.trial].begun
    if event.kind == "failed":
        how = f"failed, {event.error}"
    elif event.kind == "stopped":
        how = "stopped and saved"
    elif event.kind == "pruned":
        how = f"pruned, {left(course)}"
    elif begun is None:
        how = f"done by another command, {left(course)}"
    else:
        how = f"done in {time.monotonic() - begun:.1f} s, {left(course)}"
    return f"{where(course, event.trial)}: {how}"


def where(course: Course, trial: str) -> str:
    """Name a trial, and say which it is of those that were to run."""
    return f"[{course.numbers[trial]}/{course.to_run}] {course.trials[trial].name}"


def left(course: Course) -> str:
    """Say how long a study still takes."""
    if course.over:
        return "none left"
    seconds = course.seconds_left()
    return "time left not known yet" if math.isnan(seconds) else f"about {duration(seconds)} left"


def duration(seconds: float) -> str:
    """Write a duration as a person says it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
