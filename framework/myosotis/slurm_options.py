"""What SLURM is told of a study's jobs: the launcher's parameters under `slurm`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from myosotis.errors import ConfigurationError, check_parameters

TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")
"""`minutes`, `minutes:seconds`, `hours:minutes:seconds`, `days-hours` …, as SLURM reads it."""


@dataclass(frozen=True)
class SlurmOptions:
    """What SLURM is told of a study's jobs.

    Attributes:
        partition: where they wait; null is the cluster's default.
        account: whose time they take; null is one's own default.
        qos: the quality of service that they ask for.
        time: how long a job may take, in minutes or as SLURM writes it (`12:00:00`, `2-00:00:00`). One that
            is not done by then saves and waits for its next turn.
        save_seconds: how long before that, or before another job takes its place, SLURM warns it.
        setup: lines of shell that run in a job before it begins, such as `module load cuda`.
        additional: further options of sbatch by their names, such as `{constraint: a100}`.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: int | str = 60
    save_seconds: int = 120
    setup: tuple[str, ...] = ()
    additional: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Make them of plain values, as a configuration has them.

        Raises:
            ConfigurationError: one is not what it must be.
        """
        check_parameters("hydra.launcher.slurm", values, [each.name for each in fields(cls)])
        setup = values.get("setup") or ()
        if isinstance(setup, str):
            raise ConfigurationError(
                f"hydra.launcher.slurm.setup must be a list of lines of shell, but got {setup!r}; write [{setup}]"
            )
        return cls(
            **{**values, "setup": tuple(map(str, setup)), "additional": values.get("additional") or {}}
        )

    def __post_init__(self) -> None:
        if self.save_seconds < 1 or self.save_seconds >= 60 * self.minutes:
            raise ConfigurationError(
                "hydra.launcher.slurm.save_seconds must be at least 1 and less than the time of a job, "
                f"{60 * self.minutes} s, but got {self.save_seconds!r}; ask for more time"
            )

    @property
    def minutes(self) -> int:
        """How long a job may take, in minutes.

        Raises:
            ConfigurationError: it is no time.
        """
        minutes = minutes_of(str(self.time))
        if minutes is None or minutes < 1:
            raise ConfigurationError(
                "hydra.launcher.slurm.time must be minutes, or as SLURM writes it (12:00:00, 2-00:00:00), but got "
                f"{self.time!r}; in a file it must stand in quotes"
            )
        return minutes


def minutes_of(time: str) -> int | None:
    """Read a time as SLURM writes it, in minutes; a part of one counts as a whole; None where it is no time."""
    found = TIME.fullmatch(time)
    if found is None:
        return None
    parts = [int(each) for each in found["rest"].split(":")]
    if found["days"] is not None:  # after days come hours
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        hours += 24 * int(found["days"])
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, minutes, seconds = 0, *(*parts, 0)[:2]
    return 60 * hours + minutes + math.ceil(seconds / 60)
