"""Where a study's units run when that is not this machine, and what a process there must be given."""

from __future__ import annotations

import functools
import os
import pickle
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from myosotis.errors import Interrupted
from myosotis.events import Event
from myosotis.job import Job
from myosotis.local import Preparation, Prepared, Queue, Unit, prepare, run_unit
from myosotis.measure import Cost, measure_training

PASSED_ON = ("MYOSOTIS_", "WANDB_", "HF_", "TOKENIZERS_")
"""How the environment variables begin that a process on a cluster takes from the command's."""


class Backend(ABC):
    """Machines that run a study's units."""

    @abstractmethod
    def slots(self) -> int:
        """Count the units that can run at once.

        Raises:
            ConfigurationError: the machines cannot be reached, or none has what a unit asks for.
        """

    @abstractmethod
    def time(self, surroundings: Surroundings, jobs: Sequence[Job]) -> Cost | None:
        """Time a few steps of trials that train together there; None where that is not known.

        Raises:
            MemoryError, torch.OutOfMemoryError: there is not enough memory.
        """

    @abstractmethod
    def run(self, queue: Queue, surroundings: Surroundings) -> None:
        """Run a queue's units until none waits, or the study is asked to stop and all are saved.

        Args:
            queue: the units; told what befalls them.
            surroundings: what the processes must be given.
        """

    @abstractmethod
    def close(self) -> None:
        """End what was started."""


@dataclass(frozen=True)
class Surroundings:
    """What a process elsewhere takes from this one.

    Attributes:
        preparation: what it loads.
        folder: the working folder.
        path: where modules are looked for.
        variables: environment variables.
    """

    preparation: Preparation
    folder: Path
    path: Sequence[str]
    variables: Mapping[str, str]

    @classmethod
    def here(cls, preparation: Preparation) -> Surroundings:
        """Take them from this process."""
        variables = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        return cls(preparation, Path.cwd(), tuple(sys.path), variables)

    def enter(self) -> Prepared:
        """Make this process like the one that they were taken from; what is loaded is kept for the next time."""
        return _entered(pickle.dumps(self))


@functools.lru_cache(maxsize=1)
def _entered(pickled: bytes) -> Prepared:
    surroundings: Surroundings = pickle.loads(pickled)
    os.chdir(surroundings.folder)
    sys.path[:] = surroundings.path
    os.environ.update(surroundings.variables)
    return prepare(surroundings.preparation)


def work(
    surroundings: Surroundings, unit: Unit, tell: Callable[[Event], None], stopping: Callable[[], bool]
) -> None:
    """Run a unit in this process, which was started elsewhere for it; asked to stop, it saves and returns."""
    prepared = surroundings.enter()
    try:
        run_unit(unit, prepared.resolver, prepared.workspace, tell, stopping)
    except Interrupted:
        return


def timed(surroundings: Surroundings, jobs: Sequence[Job]) -> Cost | None:
    """Time a few steps of trials that train together, in this process."""
    prepared = surroundings.enter()
    return measure_training([job.resolve(prepared.resolver) for job in jobs], prepared.workspace)
