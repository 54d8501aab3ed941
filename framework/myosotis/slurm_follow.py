"""Following a study's jobs in SLURM's queue: what they tell, how they stand, what becomes of the ended ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from myosotis import slurm
from myosotis.events import Event
from myosotis.ledger import write_text
from myosotis.local import Queue, Unit
from myosotis.slurm import Queued, Submitted
from myosotis.slurm_job import LEAVE
from myosotis.told import Ended, Listener


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


def listen(queue: Queue, running: dict[str, Running]) -> None:
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


def look(queue: Queue, running: dict[str, Running]) -> None:
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
    for each in list(running.values()):
        stands = stand.get(each.job.id)
        gone = stands is None or stands.ended
        # What a job told last may be seen later than its end.
        if gone and each.gone:
            del running[each.job.id]
            if not queue.stopping():
                _died(queue, each, stands)
        each.gone = gone


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
