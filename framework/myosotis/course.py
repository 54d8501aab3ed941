"""How far a study has come, by what befalls its trials."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from myosotis.events import Event

State = Literal["failed", "running", "elsewhere", "stopped", "waiting", "finished", "pruned", "reused"]

STATES: Mapping[str, State] = {
    "begins": "running",
    "finished": "finished",
    "pruned": "pruned",
    "failed": "failed",
    "stopped": "stopped",
    "locked": "elsewhere",
    "waits": "waiting",
}
"""The state in which events leave a trial."""


@dataclass
class TrialCourse:
    """How far a trial has come.

    Attributes:
        name: what it is called.
        state: `elsewhere` where another command runs it, `reused` where another study had finished it.
        stages: how many it has.
        stage: the one that trains.
        done: optimizer steps taken.
        total: optimizer steps that it takes.
        values: the latest of what was told: `loss` and the headline so far.
        begun: when it was first begun; None where that is still to come.
    """

    name: str
    state: State = "waiting"
    stages: int = 1
    stage: int = 0
    done: int = 0
    total: int = 0
    values: dict[str, float] = field(default_factory=dict)
    begun: float | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in {"finished", "reused", "pruned", "failed"}

    @property
    def share(self) -> float:
        """What of it is done."""
        return self.done / max(1, self.total) if self.state == "running" else float(self.over)

    def take(self, event: Event) -> None:
        """Follow what befalls it."""
        if event.kind == "begins":
            self.begun = self.begun or time.monotonic()
            self.done = 0
        if event.kind == "step":
            self.stage, self.done, self.total = event.stage, event.done, event.total
        self.state = STATES.get(event.kind, self.state)
        self.values.update(event.values)


class Course:
    """How far a study has come.

    Args:
        trials: each by its id, in the study's order; those that are waiting now are to run.
        study: its name.
        unknown: how many more will come that nobody knows yet.
    """

    def __init__(self, trials: Mapping[str, TrialCourse], study: str = "", unknown: int = 0) -> None:
        self.study = study
        self.trials: dict[str, TrialCourse] = {}
        self.place = ""
        self.started = time.monotonic()
        # Kept, for a study of thousands asks at every event.
        self._done = 0.0
        self.numbers: dict[str, int] = {}
        self.add(trials, unknown)

    def add(self, trials: Mapping[str, TrialCourse], unknown: int = 0) -> None:
        """Take further trials in, and how many more will come."""
        self.trials.update(trials)
        self.unknown = unknown
        for trial, each in trials.items():
            if each.state == "waiting":
                self.numbers.setdefault(trial, len(self.numbers) + 1)

    @property
    def to_run(self) -> int:
        """How many trials were, are or will be to run."""
        return len(self.numbers) + self.unknown

    def take(self, event: Event) -> None:
        """Follow what befalls a trial."""
        trial = self.trials[event.trial]
        before = trial.share
        trial.take(event)
        self._done += trial.share - before
        self.place = event.place or self.place

    @property
    def over(self) -> bool:
        """Whether all trials have ended."""
        return not self.unknown and all(each.over for each in self.trials.values())

    def counts(self) -> Counter[State]:
        """Count the trials of each state."""
        return Counter(each.state for each in self.trials.values())

    def seconds_left(self) -> float:
        """Estimate the seconds until all have ended, by what is done; NaN where nothing is."""
        if self._done < 1e-9:
            return math.nan
        return (time.monotonic() - self.started) / self._done * (self.to_run - self._done)
