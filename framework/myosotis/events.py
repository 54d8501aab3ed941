"""What befalls a trial, told as it happens: within a process and between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Event:
    """What befalls a trial.

    Attributes:
        trial: the trial's id.
        kind: `locked` where another command runs it, `stopped` where it is saved to go on later, `waits` where
            it is to be begun again, `pruned` where a search gave it up for hopeless.
        done: optimizer steps taken in the trial.
        total: optimizer steps that the trial takes.
        stage: the stage that trains.
        values: what a step logged, such as `loss`, or the headline so far where the trial was scored.
        place: where its logger shows it.
        error: what a failed trial failed of.
        passing: whether it may go well another time, as where memory ran out.
    """

    trial: str
    kind: Literal[
        "begins", "opened", "step", "scored", "finished", "pruned", "failed", "stopped", "locked", "waits"
    ]
    done: int = 0
    total: int = 0
    stage: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    place: str = ""
    error: str = ""
    passing: bool = False
