"""A study's units as jobs of SLURM, a task of a job array each."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import submitit

from myosotis import slurm
from myosotis.backend import Backend, Surroundings
from myosotis.cohort import Job
from myosotis.errors import ConfigurationError, unknown_name
from myosotis.events import Event
from myosotis.ledger import status, write_text
from myosotis.local import Queue, Unit
from myosotis.locks import StudyLock
from myosotis.measure import Cost
from myosotis.options import Options
from myosotis.slurm import Node, Queued, SlurmError, Submitted
from myosotis.slurm_job import LEAVE, SlurmTask
from myosotis.slurm_options import minutes_of
from myosotis.told import Ended, Listener

PERIOD_SECONDS = 1.0
"""How often it is read what jobs tell."""
ASK_SECONDS = 10.0
"""How often SLURM is asked how they stand: it serves many."""
TIMEOUTS = 1_000_000
"""How often a job may be requeued: what makes no progress ends by itself."""


@dataclass
class Running:
    """A job in the queue, and the unit that it runs.

    Attributes:
        unit: those of its trials that this command is to run.
        gone: whether SLURM had it no more when it was asked last.
    """

    job: Submitted
    unit: Unit
    listener: Listener = field(init=False)
    gone: bool = False

    def __post_init__(self) -> None:
        self.listener = Listener(self.job.told)


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
            self._nodes = self._chosen(slurm.nodes())
            self._check()
        except SlurmError as error:
            raise ConfigurationError(
                f"hydra.launcher.backend=slurm must find SLURM here, but {error}; run the command where sbatch "
                "works, such as on a cluster's login node"
            ) from error

    def slots(self) -> int:
        """Count the units that the partition has room for, when nothing else runs there."""
        return sum(self._room(node) for node in self._nodes)

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
            _listen(queue, running)
            if queue.stopping() or time.monotonic() - asked >= ASK_SECONDS:
                self._look(queue, running)
                asked = time.monotonic()

    def close(self) -> None:
        """End nothing: the queue is SLURM's."""

    def _look(self, queue: Queue, running: dict[str, Running]) -> None:
        """See how the jobs stand; SLURM serves many, and where it does not answer it is asked the next time."""
        try:
            _look(queue, running)
        except SlurmError as error:
            if not self._silent:
                queue.progress.note(
                    f"SLURM does not answer ({error}): what runs there goes on; it is asked again"
                )
            self._silent = True
        else:
            self._silent = False

    # What there must be

    def _chosen(self, nodes: Sequence[Node]) -> list[Node]:
        """Give the nodes of the partition that is asked for."""
        partition = self.options.slurm.partition
        known = sorted({node.partition for node in nodes})
        if partition is None:
            chosen = [node for node in nodes if node.default]
            if not chosen:
                raise ConfigurationError(
                    "hydra.launcher.slurm.partition must be given, for this cluster has no default; it has "
                    f"{', '.join(known) or 'none'}"
                )
            return chosen
        chosen = [node for node in nodes if node.partition in partition.split(",")]
        for name in partition.split(","):
            if name not in known:
                raise ConfigurationError(
                    "hydra.launcher.slurm.partition: " + unknown_name("partition", name, known)
                )
        return chosen

    def _check(self) -> None:
        """Refuse jobs that would wait for ever, or that sbatch would refuse."""
        if self.options.gpus != int(self.options.gpus):
            raise ConfigurationError(
                f"hydra.launcher.gpus must be whole on SLURM, but got {self.options.gpus:g}; give 0, 1 or more"
            )
        name = self._nodes[0].partition
        if not any(map(self._room, self._nodes)):
            has = sorted({_resources(node) for node in self._nodes})
            raise ConfigurationError(
                f"a node of SLURM's partition {name} must have what a worker asks for, "
                f"{self.options.resources()}, but its nodes have {'; '.join(has)}; ask for less, or another "
                "partition"
            )
        limits = [(minutes_of(node.minutes), node.minutes) for node in self._nodes]
        known = [(minutes, text) for minutes, text in limits if minutes is not None]
        if len(known) == len(limits) and self.options.slurm.minutes > max(known)[0]:
            raise ConfigurationError(
                f"hydra.launcher.slurm.time must be at most what partition {name} allows, {max(known)[1]}, but got "
                f"{self.options.slurm.time}; a trial that takes longer goes on in its job's next turn"
            )
        self._ask_sbatch()

    def _ask_sbatch(self) -> None:
        """Let SLURM itself say whether it would take such a job: it knows accounts and qualities of service."""
        parameters = {**self._parameters(), **self.options.slurm.additional}
        flags = [
            f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}")
            for key, value in parameters.items()
        ]
        try:
            slurm.ask("sbatch", "--test-only", *flags, "--wrap=true")
        except SlurmError as error:
            raise ConfigurationError(
                f"SLURM must take the jobs that hydra.launcher.slurm describes, but sbatch says: {error}"
            ) from error

    def _room(self, node: Node) -> int:
        """Count the units that fit into a node."""
        memory = int((self.options.memory_gigabytes or 0) * 1024)
        asked = [
            (node.cpus, self.options.cpus),
            (node.gpus, int(self.options.gpus)),
            (node.megabytes, memory),
        ]
        return min(has // amount for has, amount in asked if amount)

    # Submitting

    def _parameters(self) -> dict[str, Any]:
        """Give what sbatch is told, by the names of its options."""
        options, memory = self.options.slurm, self.options.memory_gigabytes
        asked = {
            "partition": options.partition,
            "account": options.account,
            "qos": options.qos,
            "time": options.minutes,
            "cpus_per_task": self.options.cpus,
            "gpus_per_node": int(self.options.gpus) or None,
            "mem": None if memory is None else f"{int(memory * 1024)}M",
        }
        return {key: value for key, value in asked.items() if value is not None}

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
            except (SlurmError, submitit.core.utils.UncompletedJobError) as error:
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
        executor = submitit.SlurmExecutor(folder, max_num_timeout=TIMEOUTS)
        workers = self.options.workers
        executor.update_parameters(
            **self._parameters(),
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


def _resources(node: Node) -> str:
    return f"{node.cpus} cores, {node.gpus} GPUs, {node.megabytes / 1024:.1f} GB of memory"


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
            if status(job.folder) == "finished":
                found.add(job.id)
                queue.take(unit, Event(job.id, "finished"))
    return found


# Following


def _listen(queue: Queue, running: dict[str, Running]) -> None:
    """Take what the jobs have told."""
    for each in list(running.values()):
        own = {job.id for job in each.unit.jobs}
        for told in each.listener.heard():
            if isinstance(told, Ended):
                del running[each.job.id]
                if told.reason:
                    queue.died(each.unit, told.reason, told.passing)
            elif told.trial in own:
                queue.take(each.unit, told)


def _look(queue: Queue, running: dict[str, Running]) -> None:
    """See which jobs have ended without a word; asked to stop, take the others out of the queue.

    Raises:
        SlurmError: SLURM does not answer.
    """
    if not running:
        return
    study = next(iter(running.values())).job.told.parents[2]
    stand = slurm.queue(study, [each.job for each in running.values()])
    if queue.stopping():
        _withdraw({job: stand[job] for job in running if job in stand})
    ended = [each for each in running.values() if each.job.id not in stand or stand[each.job.id].ended]
    # What a job told last may be seen later than its end.
    over = [each for each in ended if each.gone]
    for each in ended:
        each.gone = True
    for each in over:
        del running[each.job.id]
        if not queue.stopping():
            _died(queue, each, stand.get(each.job.id))


def _withdraw(jobs: Mapping[str, Queued]) -> None:
    """Let those that run save and end, and take back those that wait."""
    waiting = [job for job, each in jobs.items() if each.state == "PENDING"]
    runs = [job for job, each in jobs.items() if each.state == "RUNNING"]
    if waiting:
        slurm.ask("scancel", *waiting)
    if runs:
        slurm.ask("scancel", f"--signal={LEAVE.name.removeprefix('SIG')}", *runs)


def _died(queue: Queue, each: Running, stands: Queued | None) -> None:
    """Try a unit again whose job has ended before it, but for one that somebody cancelled.

    That another job took its place is no failure, and does not count as one.
    """
    how = "left the queue" if stands is None else str(stands)
    reason = f"SLURM job {each.job.id} {how}; its log: {os.path.relpath(each.job.log)}"
    if stands is None or stands.state != "CANCELLED":
        pushed_aside = stands is not None and stands.state == "PREEMPTED"
        queue.died(replace(each.unit, attempts=each.unit.attempts - pushed_aside), reason)
        return
    for job in each.unit.jobs:
        if job.id not in queue.ended:
            write_text(job.folder / "error.txt", f"{reason}\n")
            queue.take(each.unit, Event(job.id, "failed", error=reason))
