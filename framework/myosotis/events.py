"""What befalls a trial, told as it happens: within a process and between processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Event:
    """What befalls a trial.

    Attributes:
        trial: the trial's id.
        kind: `locked` where another command runs it, `stopped` where it is saved to go on later.
        done: optimizer steps taken in the trial.
        total: optimizer steps that the trial takes.
        error: what a failed trial failed of.
        passing: whether it may go well another time, as where memory ran out.
    """

    trial: str
    kind: Literal["begins", "step", "finished", "failed", "stopped", "locked"]
    done: int = 0
    total: int = 0
    error: str = ""
    passing: bool = False
