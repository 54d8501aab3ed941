"""Running a study's trials on this machine: cohorts, in this process or in workers, until none is left."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from myosotis import nodes
from myosotis.ahead import PRELOADED
from myosotis.cohort import OUT_OF_MEMORY, Control, run_cohort
from myosotis.distributed import QUIET, Failure, Part, run_together, take_part
from myosotis.errors import Interrupted
from myosotis.events import Event
from myosotis.job import Job, ending
from myosotis.ledger import write_text
from myosotis.locks import TrialLock
from myosotis.logs import trial_logs
from myosotis.measure import Cost, measure_training
from myosotis.plugins import load_registry
from myosotis.progress import Progress
from myosotis.resolve import Resolver, TrialConfig
from myosotis.study_check import StudyCheck, check_study
from myosotis.workers import Died, ForkServer, Raised, Worker
from myosotis.workers import Event as Told
from myosotis.workspace import Workspace

LOCK_SECONDS = 1.0
"""How long to wait for a trial that another process may only be looking at."""
WAIT_SECONDS = 1.0
"""How often to look whether another command has ended a trial."""


@dataclass
class Unit:
    """A cohort's trials that are to run, and how often they were begun."""

    jobs: list[Job]
    threads: int
    attempts: int = 0


@dataclass
class Stopping:
    """Whether the study was asked to stop; a second time ends it at once."""

    asked: bool = False
    listeners: list[Callable[[], None]] = field(default_factory=list)

    def __call__(self) -> bool:
        """Tell whether it was asked."""
        return self.asked

    def ask(self) -> None:
        """Ask to save and stop."""
        self.asked = True
        for listener in self.listeners:
            listener()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as such a wish while trials run."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.ask()

        before = {each: signal.signal(each, handle) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


class Queue:
    """A study's units: what waits, what has ended and how; tries again what may pass.

    Args:
        units: what is to run.
        progress: told of every event.
        stopping: asked to stop where the first failure is to end the study.
        retries: how often trials are begun again after their worker died or memory ran out.
        fail_fast: whether the first failure ends the study.
    """

    def __init__(
        self, units: Sequence[Unit], progress: Progress, stopping: Stopping, retries: int, fail_fast: bool
    ) -> None:
        self.waiting = deque(units)
        self.progress = progress
        self.stopping = stopping
        self.retries = retries
        self.fail_fast = fail_fast
        self.failed: dict[str, str] = {}
        self.locked: list[Job] = []
        self.ended: set[str] = set()

    def next(self) -> Unit | None:
        """Give the next unit."""
        if self.stopping() or not self.waiting:
            return None
        unit = self.waiting.popleft()
        unit.attempts += 1
        return unit

    def take(self, unit: Unit, event: Event) -> None:
        """Follow a trial of a unit."""
        job = next(job for job in unit.jobs if job.id == event.trial)
        if event.kind == "locked":
            self.locked.append(job)
            self.progress.take(event)
            return
        if event.kind == "failed" and event.passing and unit.attempts <= self.retries:
            self.progress.note(f"{job.name}: {event.error}; it is begun again")
            self._put_back(Unit([job], unit.threads, unit.attempts))
            return
        if event.kind in {"finished", "pruned", "failed"}:
            self.ended.add(job.id)
        if event.kind == "failed":
            self._fail(job, event.error)
        self.progress.take(event)

    def died(self, unit: Unit, reason: str, passing: bool = True) -> None:
        """Try the trials of a unit that ended as a whole again, apart where they are several.

        Args:
            unit: what ended.
            reason: why.
            passing: whether the same may go well another time; else trials are only told apart.
        """
        left = [job for job in unit.jobs if job.id not in self.ended and ending(job) is None]
        for job in unit.jobs:
            if job.id not in self.ended and (end := ending(job)):
                self.take(unit, Event(job.id, end))
        if not left or self.stopping():
            return
        if passing and unit.attempts <= self.retries:
            self.progress.note(f"{reason}; {_counted(len(left))} begun again from the last checkpoint")
            self._put_back(Unit(left, unit.threads, unit.attempts))
            return
        if len(left) > 1:
            # One of them may be what ends the process; the others must not share its fate.
            for job in left:
                self._put_back(Unit([job], unit.threads, unit.attempts - 1))
            return
        write_text(left[0].folder / "error.txt", f"{reason}\n")
        self.take(unit, Event(left[0].id, "failed", error=reason))

    def _put_back(self, unit: Unit) -> None:
        """Let trials wait that are to be begun again."""
        self.waiting.append(unit)
        for job in unit.jobs:
            self.progress.take(Event(job.id, "waits"))

    def _fail(self, job: Job, error: str) -> None:
        self.failed[job.id] = error
        if self.fail_fast:
            self.stopping.ask()


def _counted(trials: int) -> str:
    return "1 trial is" if trials == 1 else f"{trials} trials are"


def run_unit(
    unit: Unit,
    resolver: Resolver,
    workspace: Workspace,
    tell: Callable[[Event], None],
    stopping: Callable[[], bool],
) -> None:
    """Run a unit's trials in this process, those that no other process has in its hands.

    Raises:
        Interrupted: asked to stop.
    """
    held: list[TrialLock] = []
    jobs = []
    for job in unit.jobs:
        lock = TrialLock(job.folder.parent, job.folder.name)
        if not lock.take(LOCK_SECONDS):
            tell(Event(job.id, "locked"))
        elif end := ending(job):
            lock.remove()
            tell(Event(job.id, end))
        else:
            held.append(lock)
            jobs.append(job)
    threads = torch.get_num_threads()
    torch.set_num_threads(unit.threads)
    try:
        if jobs and _processes(jobs[0]) > 1:
            for job in jobs:
                if nodes.are_there():
                    nodes.lead(job, resolver, workspace, tell, stopping)
                else:
                    _run_together(job, unit.threads, resolver, workspace, tell, stopping)
        elif jobs:
            with trial_logs({job.id: job.folder for job in jobs}):
                run_cohort(jobs, resolver, workspace, Control(tell, stopping))
    finally:
        torch.set_num_threads(threads)
        for lock, job in zip(held, jobs, strict=True):
            # Nobody waits for a finished trial; a thousand lock files would be four megabytes.
            lock.remove() if ending(job) else lock.release()


def _processes(job: Job) -> int:
    trainer = job.config["trainer"]
    return int(trainer["devices"]) * int(trainer["num_nodes"])


def _run_together(
    job: Job,
    threads: int,
    resolver: Resolver,
    workspace: Workspace,
    tell: Callable[[Event], None],
    stopping: Callable[[], bool],
) -> None:
    """Run a trial in processes of its own, which this one follows: none of them that dies is this one."""
    # What they are forked from must leave GPUs alone.
    trainer = job.config["trainer"]
    loads = trainer["accelerator"] == "cpu" or trainer["strategy"] == "fsdp"
    preparation = Preparation(workspace.studies, dict(resolver._fingerprints), loads, [job])
    with ForkServer(PRELOADED, QUIET) as server:
        server.prepare("myosotis.local:prepare", preparation, wait=False)
        run_together(job, server, threads, tell, stopping)


def run_here(queue: Queue, resolver: Resolver, workspace: Workspace) -> None:
    """Run the units one after another in this process."""
    while (unit := queue.next()) is not None:
        try:
            run_unit(unit, resolver, workspace, partial(queue.take, unit), queue.stopping)
        except Interrupted:
            return


# In workers


@dataclass(frozen=True)
class Preparation:
    """What a process that is to run trials is told, or that is to start others which do.

    Attributes:
        jobs: the trials, where something is to be loaded or checked ahead.
        load: whether to load the base and to encode the data, where all trials have the same.
        asked: what each trial was asked for by, where they are to be checked before.
        looks_at_data: whether their data are to be looked at, too.
    """

    studies: Path
    fingerprints: Mapping[str, str]
    load: bool
    jobs: Sequence[Job] = ()
    asked: Sequence[str] = ()
    looks_at_data: bool = False


@dataclass(frozen=True)
class Prepared:
    """What workers share: modules, plugins, the base and encoded examples, and what was found of the trials."""

    resolver: Resolver
    workspace: Workspace
    check: StudyCheck | None


def prepare(argument: Preparation) -> Prepared:
    """Load what every worker needs, once; called where workers are forked."""
    registry = load_registry()
    resolver = Resolver(registry, dict(argument.fingerprints))
    workspace = Workspace(argument.studies, registry)
    check = None
    if argument.load:
        configs = [job.resolve(resolver) for job in argument.jobs]
        if argument.asked:
            trials = list(zip(argument.asked, configs, strict=True))
            check = check_study(trials, workspace, argument.looks_at_data)
        _load(configs, workspace)
    return Prepared(resolver, workspace, check)


def _load(configs: Sequence[TrialConfig], workspace: Workspace) -> None:
    """Load the base and encode the data, where all trials have the same."""
    if len({config.identities["model"] for config in configs}) != 1:
        return
    from myosotis.evaluation import choose_runtime

    for config in configs:
        accelerator = "cpu" if config.trainer.divides else config.trainer.accelerator  # see Runtime.home
        model = workspace.base(config, choose_runtime(accelerator, config.trainer.precision))
        for task in config.tasks.values():
            identity, base = config.identities[task.name], config.identities["model"]
            workspace.evaluated(task, identity, model, base, config.evaluation)
            if config.trains_on(task.name):
                workspace.examples(task, identity, "train", model, base)


def checked(prepared: Prepared, argument: None, channel: Any) -> StudyCheck | None:
    """Give what was found of the trials."""
    return prepared.check


def timed(prepared: Prepared, jobs: Sequence[Job], channel: Any) -> Cost | None:
    """Time a few steps of trials that train together, in a worker."""
    return measure_training([job.resolve(prepared.resolver) for job in jobs], prepared.workspace)


def work(prepared: Prepared, unit: Unit, channel: Any) -> None:
    """Run a unit in a worker."""
    try:
        run_unit(unit, prepared.resolver, prepared.workspace, channel.send, lambda: bool(channel.stopping))
    except Interrupted:
        return


def take_part_in_worker(prepared: Prepared, part: Part, channel: Any) -> Failure | None:
    """Run a trial in a worker as one of its processes."""
    return take_part(part, prepared.resolver, prepared.workspace, channel.send, lambda: channel.stopping)


def run_in_workers(
    queue: Queue, server: ForkServer, workers: int, environments: Sequence[Mapping[str, str]]
) -> None:
    """Run the units in workers; one that dies is replaced."""
    running: dict[Worker, Unit] = {}
    places: dict[Worker, int] = {}
    idle: list[Worker] = []
    free = list(range(workers))

    def stop() -> None:
        for worker in running:
            worker.stop()

    queue.stopping.listeners.append(stop)
    while True:
        while (free or idle) and (unit := queue.next()) is not None:
            if idle:
                worker = idle.pop()
            else:
                place = free.pop(0)
                worker = server.start_worker(unit.threads, environments[place % len(environments)])
                places[worker] = place
            worker.submit("myosotis.local:work", unit)
            running[worker] = unit
        if not running:
            return
        for connection in wait([worker.connection for worker in running]):
            worker = next(each for each in running if each.connection is connection)
            message = worker.receive()
            if isinstance(message, Told):
                queue.take(running[worker], message.value)
                continue
            unit = running.pop(worker)
            if isinstance(message, Died):
                free.append(places.pop(worker))
                queue.died(unit, str(message))
            elif isinstance(message, Raised):
                idle.append(worker)
                text = f"{type(message.error).__name__}: {message.error}"
                queue.died(unit, text, passing=isinstance(message.error, OUT_OF_MEMORY))
            else:
                idle.append(worker)


# Other commands


def wait_for_others(queue: Queue) -> list[Job]:
    """Wait until trials that another command runs have ended or are free; give those that are free."""
    while not queue.stopping():
        for job in list(queue.locked):
            if end := ending(job):
                queue.locked.remove(job)
                queue.take(Unit([job], 1), Event(job.id, end))
                continue
            lock = TrialLock(job.folder.parent, job.folder.name)
            if lock.take():
                lock.release()
                queue.locked.remove(job)
                return [job]
        if not queue.locked:
            return []
        time.sleep(WAIT_SECONDS)
    return []
