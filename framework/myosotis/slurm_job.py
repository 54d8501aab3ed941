"""What a job of SLURM runs: a unit of a study, which saves and takes its next turn where its time is over."""

from __future__ import annotations

import pickle
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from submitit.core.utils import DelayedSubmission
from submitit.slurm.slurm import SlurmJobEnvironment

from myosotis.errors import Interrupted, in_one_line
from myosotis.events import Event
from myosotis.slurm import SlurmError, ask
from myosotis.told import Ended, Teller

if TYPE_CHECKING:
    from myosotis.backend import Surroundings
    from myosotis.job import Job
    from myosotis.local import Unit

FRUITLESS = 3
"""A job ends that came no further in so many turns: its time is too short for a single step."""
WARNING = getattr(signal, f"SIG{SlurmJobEnvironment.USR_SIG}")
"""Sent where a job's time is nearly over, or another one is to take its place."""
LEAVE = signal.SIGINT
"""Sent by the command that is asked to stop: save, and do not come back."""
SIGNALS = (WARNING, LEAVE, signal.SIGTERM)
HOLD_BACK = (
    f"import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {[int(each) for each in SIGNALS]}); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
PYTHON = shlex.join([sys.executable, "-ISc", HOLD_BACK, sys.executable])
"""Starts a Python that gets no signal before it can take it: while it still imports, it would die of one."""


class SlurmTask:
    """Runs a unit in a job, as often as its time ends before the trials do.

    What it runs is pickled apart, so that this process can soon take a signal.

    Args:
        surroundings: what the job's process must be given.
        unit: the trials.
        told: the file that takes what befalls them.
    """

    def __init__(self, surroundings: Surroundings, unit: Unit, told: Path) -> None:
        self.pickled = pickle.dumps((surroundings, unit))
        self.told = told
        self.fruitless = 0

    def __call__(self) -> None:
        """Run the trials, or go on with them; told to save, save and wait for the next turn."""
        signals = _Signals()
        with signals.taken():
            comes_back = self._run(signals)
        if comes_back:
            signal.raise_signal(WARNING)  # submitit's handler keeps this object, requeues the job and exits

    def checkpoint(self) -> DelayedSubmission:
        """Give what the job's next turn calls."""
        return DelayedSubmission(self)

    def _run(self, signals: _Signals) -> bool:
        """Run the trials; tell whether the job is to come back."""
        from myosotis.local import run_unit

        tell = Teller(self.told)
        surroundings, unit = pickle.loads(self.pickled)
        before = _positions(unit.jobs)
        try:
            if signals():  # before it has begun
                raise Interrupted
            prepared = surroundings.enter()
            run_unit(unit, prepared.resolver, prepared.workspace, tell, signals)
        except Interrupted:
            return self._saved(signals, unit.jobs, before, tell)
        except BaseException as error:
            from myosotis.cohort import OUT_OF_MEMORY

            tell.end(Ended(in_one_line(error), passing=isinstance(error, OUT_OF_MEMORY)))
            raise
        tell.end(Ended())
        return False

    def _saved(self, signals: _Signals, jobs: Sequence[Job], before: object, tell: Teller) -> bool:
        if signals.leaves:
            tell.end(Ended("a command that was stopped took it out of the queue"))
            return False
        if not signals.warned and not _still_runs():
            return False  # it was cancelled
        self.fruitless = self.fruitless + 1 if _positions(jobs) == before else 0
        if self.fruitless >= FRUITLESS:
            reason = f"came no further in {FRUITLESS} turns: give a job more time, hydra.launcher.slurm.time"
            tell.end(Ended(reason, passing=False))
            return False
        for job in jobs:
            tell(Event(job.id, "waits"))
        return True


class _Signals:
    """What was signalled to this job.

    Attributes:
        warned: its time is nearly over, or another job is to take its place.
        leaves: it shall not come back.
    """

    def __init__(self) -> None:
        self.asked = False
        self.warned = False
        self.leaves = False

    def __call__(self) -> bool:
        """Tell whether it was asked to save and stop."""
        return self.asked

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take the signals until the context ends."""
        before = {each: signal.signal(each, self._take) for each in SIGNALS}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self.warned = self.warned or number == WARNING
        self.leaves = self.leaves or number == LEAVE


def _positions(jobs: Sequence[Job]) -> list[tuple[object, ...]]:
    """Give how far the trials are on the disk."""
    from myosotis.checkpoint import CheckpointFolder
    from myosotis.ledger import status

    return [
        (status(each.folder), *CheckpointFolder(each.folder / "checkpoints").positions()) for each in jobs
    ]


def _still_runs() -> bool:
    """Tell a job that makes room for another, and still runs until it has, from one that was cancelled."""
    environment = SlurmJobEnvironment()
    try:
        state = ask("squeue", "--noheader", "--format=%T", f"--jobs={environment.job_id}").strip()
    except SlurmError:
        return False
    return state == "RUNNING"
