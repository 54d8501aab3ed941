"""How many trials train together, in how many processes on how many threads: chosen by what was measured."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from myosotis.ledger import cache_folder, content_hash, write_json
from myosotis.workers import available_cores

START_SECONDS = 3.0
"""What starting worker processes costs a study once, beside what goes on meanwhile."""


@dataclass(frozen=True, order=True)
class Arrangement:
    """How trials are laid out on a machine.

    Attributes:
        workers: processes at once.
        threads: threads of each.
        cohort: the most trials that train together.
    """

    workers: int
    threads: int
    cohort: int


@dataclass(frozen=True)
class Measured:
    """Seconds an optimizer step takes in an arrangement, for all trials of a cohort, all workers running."""

    arrangement: Arrangement
    step_seconds: float


def choose(measured: Sequence[Measured], trials: int, steps: int) -> Arrangement:
    """Choose the arrangement in which trials of so many steps are over first.

    Args:
        measured: what was measured.
        trials: how many trials there are.
        steps: optimizer steps that a trial takes.
    """
    return min(measured, key=lambda each: (seconds(each, trials, steps), each.arrangement)).arrangement


def seconds(measured: Measured, trials: int, steps: int) -> float:
    """Estimate how long a study's training takes: rounds of cohorts, one a worker at once."""
    arrangement = measured.arrangement
    workers = min(arrangement.workers, trials)
    cohorts = max(-(-trials // arrangement.cohort), workers)
    largest = -(-trials // cohorts)
    rounds = -(-cohorts // workers)
    # A smaller cohort than was measured takes its part of the time.
    step = measured.step_seconds * largest / arrangement.cohort
    start = START_SECONDS if arrangement.workers > 1 else 0.0
    return start + rounds * step * steps


class Memory:
    """What was measured on this machine, kept in the user's cache."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder()

    def recall(self, shape: str) -> list[Measured]:
        """Give what was measured for a shape of trials; nothing where that is unknown or cannot be read."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(self._path(shape).read_text(encoding="utf-8"))
            return [Measured(Arrangement(**each["arrangement"]), each["step_seconds"]) for each in found]
        return []

    def remember(self, shape: str, measured: Sequence[Measured]) -> None:
        """Keep what was measured; where that cannot be written, it is measured again another time."""
        with suppress(OSError):
            write_json(self._path(shape), [asdict(each) for each in measured])

    def _path(self, shape: str) -> Path:
        return self.folder / "measured" / f"{content_hash([shape, machine()])}.json"


def machine() -> Mapping[str, object]:
    """Describe what of the machine decides how fast it computes."""
    return {
        "host": platform.node(),
        "processor": _processor(),
        "cores": available_cores(),
        "torch": torch.__version__,
        "gpus": [torch.cuda.get_device_name(each) for each in range(torch.cuda.device_count())],
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
