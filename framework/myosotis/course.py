"""How far a study has come, by what befalls its trials."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from myosotis.events import Event

State = Literal["failed", "running", "elsewhere", "stopped", "waiting", "finished", "reused"]

STATES: Mapping[str, State] = {
    "begins": "running",
    "finished": "finished",
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
        return self.state in {"finished", "reused", "failed"}

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
    """

    def __init__(self, trials: Mapping[str, TrialCourse], study: str = "") -> None:
        self.study = study
        self.trials = trials
        self.place = ""
        self.started = time.monotonic()
        waiting = [trial for trial, each in trials.items() if each.state == "waiting"]
        self.numbers = {trial: number for number, trial in enumerate(waiting, 1)}
        # Kept, for a study of thousands asks at every event.
        self._done = 0.0

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
        return all(each.over for each in self.trials.values())

    def counts(self) -> Counter[State]:
        """Count the trials of each state."""
        return Counter(each.state for each in self.trials.values())

    def seconds_left(self) -> float:
        """Estimate the seconds until all have ended, by what is done; NaN where nothing is."""
        if self._done < 1e-9:
            return math.nan
        return (time.monotonic() - self.started) / self._done * (len(self.numbers) - self._done)
