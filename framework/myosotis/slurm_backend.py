"""A study's units as jobs of SLURM, a task of a job array each."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import submitit
from submitit.core.utils import FailedSubmissionError, UncompletedJobError

from myosotis import slurm
from myosotis.backend import Backend, Surroundings
from myosotis.errors import ConfigurationError
from myosotis.events import Event
from myosotis.job import Job, ending
from myosotis.local import Queue, Unit
from myosotis.locks import StudyLock
from myosotis.measure import Cost
from myosotis.options import Options
from myosotis.slurm import SlurmError, Submitted
from myosotis.slurm_follow import Running, listen, look
from myosotis.slurm_job import PYTHON, SlurmTask
from myosotis.slurm_request import SlurmRequest
from myosotis.told import Ended, Listener

PERIOD_SECONDS = 1.0
"""How often it is read what jobs tell."""
ASK_SECONDS = 10.0
"""How often SLURM is asked how they stand: it serves many."""
TIMEOUTS = 1_000_000
"""How often a job may be requeued: what makes no progress ends by itself."""


class SlurmBackend(Backend):
    """SLURM's jobs, through submitit. A job whose time is over saves, is requeued and goes on.

    Jobs of an earlier command that still wait or run are followed, and not submitted again.

    Raises:
        ConfigurationError: there is no SLURM here, or it would refuse the jobs.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._silent = False
        try:
            self.request = SlurmRequest(options)
            self.request.check()
        except SlurmError as error:
            raise ConfigurationError(
                f"hydra.launcher.backend=slurm must find SLURM here, but {error}; run the command where sbatch "
                "works, such as on a cluster's login node"
            ) from error

    def slots(self) -> int:
        """Count the units that the partition has room for, when nothing else runs there."""
        return sum(map(self.request.room, self.request.nodes))

    def time(self, surroundings: Surroundings, jobs: Sequence[Job]) -> Cost | None:
        """Time nothing: a measurement would wait in the queue."""
        return None

    def run(self, queue: Queue, surroundings: Surroundings) -> None:
        """Submit the units and follow them, or leave them to SLURM where they are to be detached."""
        running: dict[str, Running] = {}
        asked = time.monotonic()
        while True:
            units = list(iter(queue.next, None))
            if units:
                running.update(self._hand_over(units, queue, surroundings, running))
            if self.options.detach or not running:
                return
            time.sleep(PERIOD_SECONDS)
            listen(queue, running)
            if queue.stopping() or time.monotonic() - asked >= ASK_SECONDS:
                self._look(queue, running)
                asked = time.monotonic()

    def close(self) -> None:
        """End nothing: the queue is SLURM's."""

    def _look(self, queue: Queue, running: dict[str, Running]) -> None:
        """See how the jobs stand; SLURM serves many, and where it does not answer it is asked the next time."""
        try:
            look(queue, running)
        except SlurmError as error:
            if not self._silent:
                queue.progress.note(
                    f"SLURM does not answer ({error}): what runs there goes on; it is asked again"
                )
            self._silent = True
        else:
            self._silent = False

    def _hand_over(
        self,
        units: Sequence[Unit],
        queue: Queue,
        surroundings: Surroundings,
        running: Mapping[str, Running],
    ) -> dict[str, Running]:
        """Submit the units whose trials no job has; give these jobs, and those that have the others'.

        Raises:
            ConfigurationError: SLURM refuses them.
        """
        study = surroundings.preparation.studies / units[0].jobs[0].study
        with StudyLock(study):
            try:
                there = slurm.active(study)
                found = _followed([job for job, _ in there.values() if job.id not in running], units)
                taken = {job.id for each in found for job in each.unit.jobs} | _finished(units, queue)
                left = [
                    Unit(jobs, unit.threads, unit.attempts)
                    for unit in units
                    if (jobs := [job for job in unit.jobs if job.id not in taken])
                ]
                made = self._submit(study, left, surroundings)
            except (SlurmError, FailedSubmissionError, UncompletedJobError) as error:
                raise ConfigurationError(
                    f"SLURM must take the study's jobs, but {error}; what is in its queue goes on: myosotis "
                    f"status {study.name}"
                ) from error
        self._note(queue, study, found, made)
        return {each.job.id: each for each in [*found, *made]}

    def _submit(self, study: Path, units: Sequence[Unit], surroundings: Surroundings) -> list[Running]:
        """Submit units as job arrays of at most as many tasks as the cluster takes."""
        if not units:
            return []
        made: list[Running] = []
        most = slurm.largest_array()
        for start in range(0, len(units), most):
            after = made[-1].job.id.partition("_")[0] if made and self.options.workers != "auto" else None
            made += self._submit_array(study, units[start : start + most], surroundings, after)
        return made

    def _submit_array(
        self, study: Path, units: Sequence[Unit], surroundings: Surroundings, after: str | None
    ) -> list[Running]:
        # A folder of its own: a cluster that was set up anew gives its job ids again.
        folder = study / slurm.FOLDER / f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
        folder.mkdir(parents=True)
        executor = submitit.SlurmExecutor(folder, max_num_timeout=TIMEOUTS, python=PYTHON)
        workers = self.options.workers
        executor.update_parameters(
            **self.request.parameters(),
            job_name=slurm.job_name(study),
            setup=list(self.options.slurm.setup),
            signal_delay_s=self.options.slurm.save_seconds,
            array_parallelism=len(units) if workers == "auto" else workers,
            dependency=None if after is None else f"afterany:{after}",
            stderr_to_stdout=True,
            # Since 22.05 a step does not take the job's.
            srun_args=[f"--cpus-per-task={self.options.cpus}"],
            additional_parameters={"requeue": True, **self.options.slurm.additional},
        )
        told = [folder / f"{number}.jsonl" for number in range(len(units))]
        tasks = [SlurmTask(surroundings, *each) for each in zip(units, told, strict=True)]
        with _outside_of_jobs():
            jobs = executor.submit_array(tasks)
        made = [
            Submitted(job.job_id, tuple(each.id for each in unit.jobs), path, job.paths.stdout)
            for job, unit, path in zip(jobs, units, told, strict=True)
        ]
        slurm.record(folder, made)
        return [Running(job, unit) for job, unit in zip(made, units, strict=True)]

    def _note(self, queue: Queue, study: Path, found: Sequence[Running], made: Sequence[Running]) -> None:
        note = queue.progress.note
        if found:
            note(f"{_listed(found)} of an earlier command in SLURM's queue: not submitted again")
        if made:
            arrays = sorted({each.job.id.partition("_")[0] for each in made}, key=int)
            logs = os.path.relpath(made[0].job.log.parent)
            note(f"submitted {_listed(made)} to SLURM: {', '.join(arrays)}; logs: {logs}")
        if self.options.detach:
            note(
                f"myosotis status {study.name} shows the queue, myosotis report {study.name} what there is; the "
                "same command without hydra.launcher.detach follows the jobs to their end"
            )


def _listed(jobs: Sequence[Running]) -> str:
    return "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Let a command that runs in a job of SLURM submit others: they must not take its settings for theirs."""
    configuration = os.environ.get("SLURM_CONF")
    with submitit.helpers.clean_env():
        if configuration is not None:
            os.environ["SLURM_CONF"] = configuration
        yield


def _followed(jobs: Sequence[Submitted], units: Sequence[Unit]) -> list[Running]:
    """Give the jobs that have trials of the units, each with those."""
    found = []
    for job in jobs:
        if any(isinstance(each, Ended) for each in Listener(job.told).heard()):
            continue  # its process is about to end
        unit = [(each, trial) for each in units for trial in each.jobs if trial.id in job.trials]
        if unit:
            first = unit[0][0]
            trials = [trial for _, trial in unit]
            found.append(Running(job, Unit(trials, first.threads, first.attempts)))
    return found


def _finished(units: Sequence[Unit], queue: Queue) -> set[str]:
    """Take note of the trials that have been finished since the study was planned, by jobs that are no more."""
    found = set()
    for unit in units:
        for job in unit.jobs:
            if end := ending(job):
                found.add(job.id)
                queue.take(unit, Event(job.id, end))
    return found
