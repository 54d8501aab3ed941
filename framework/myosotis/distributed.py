"""One trial in several processes of this machine: starting them, following them, and ending them together."""

from __future__ import annotations

import math
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path

import torch
from torch import distributed

from myosotis.cohort import OUT_OF_MEMORY, RAISED, Control, run_cohort
from myosotis.errors import Interrupted, in_one_line
from myosotis.events import Event
from myosotis.job import Job
from myosotis.ledger import write_text
from myosotis.logs import trial_logs
from myosotis.ranks import Ranks
from myosotis.resolve import Resolver
from myosotis.workers import Died, ForkServer, Raised, Worker
from myosotis.workers import Event as Told
from myosotis.workspace import Workspace

LOOK_SECONDS = 0.2
"""How often to look whether the study is to stop."""
LEAVING_SECONDS = 30.0
"""How long the first process may take to close what is open once another has failed."""
QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Keeps torch from warning that every parameter was used, which it is asked to find out."""
FOREVER = timedelta(days=365)


@dataclass(frozen=True)
class Part:
    """What one of a trial's processes is told.

    Attributes:
        rank: its number on this machine.
        count: how many there are.
        meeting: a file by which they find each other.
    """

    job: Job
    rank: int
    count: int
    meeting: Path

    @property
    def environment(self) -> dict[str, str]:
        """What Lightning and gloo read."""
        own = {"LOCAL_RANK": str(self.rank), "NODE_RANK": "0"}
        # All are on this machine, whatever its name resolves to.
        return {**own, "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo")}


@dataclass(frozen=True)
class Failure:
    """Why a trial failed in one of its processes.

    Attributes:
        at: when: one that fails makes the others fail after it.
        error: in one line.
        text: for `error.txt`.
        passing: whether it may go well another time.
    """

    at: float
    error: str
    text: str
    passing: bool

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Take note of an error, now."""
        trace = "".join(traceback.format_exception(error))
        text = f"{type(error).__name__}: {error}\n\n{trace}"
        return cls(time.time(), in_one_line(error), text, isinstance(error, OUT_OF_MEMORY))


def take_part(
    part: Part,
    resolver: Resolver,
    workspace: Workspace,
    tell: Callable[[Event], None],
    stopping: Callable[[], bool],
) -> Failure | None:
    """Run a trial as one of its processes; give why it failed, where it did."""
    on_gpu = part.job.config["trainer"]["accelerator"] != "cpu"
    backend = "nccl" if on_gpu and torch.cuda.is_available() else "gloo"
    with trial_logs({part.job.id: part.job.folder} if part.rank == 0 else {}):
        ranks = join(part.rank, part.count, part.rank, backend, part.meeting.as_uri())
        try:
            failures = run_cohort([part.job], resolver, workspace, Control(tell, stopping, ranks))
        except Interrupted:
            return None
        return next(map(Failure.of, failures.values()), None)


def join(rank: int, count: int, local: int, backend: str | None, meeting: str) -> Ranks:
    """Join the other processes of a trial, for as long as this one lives.

    Args:
        rank: this process's number.
        count: how many there are.
        local: its number on this machine, which is that of its GPU.
        backend: what tensors go by; None is what suits them.
        meeting: where they find each other, as torch names it.
    """
    if backend != "gloo" and torch.cuda.device_count() > local:
        torch.cuda.set_device(local)
    distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=count)
    return Ranks(rank, count, distributed.new_group(backend="gloo", timeout=FOREVER))


# Whoever starts them


def run_together(
    job: Job,
    server: ForkServer,
    threads: int,
    tell: Callable[[Event], None],
    stopping: Callable[[], bool],
) -> None:
    """Run a trial in as many processes as its configuration says, forked from a server that is prepared.

    Raises:
        Interrupted: asked to stop; the trial is saved.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            workers = _started(job, server, threads, Path(folder) / "meeting")
            failure = Company(job, workers, tell, stopping).follow()
        except RAISED as error:  # the base cannot be loaded, or no process started
            failure = Failure.of(error)
    if failure is not None:
        job.folder.mkdir(parents=True, exist_ok=True)
        write_text(job.folder / "error.txt", failure.text)
        tell(Event(job.id, "failed", error=failure.error, passing=failure.passing))
    elif stopping():
        raise Interrupted("asked to stop; the trial is saved where it was")


def _started(job: Job, server: ForkServer, threads: int, meeting: Path) -> list[Worker]:
    count = job.config["trainer"]["devices"]
    parts = [Part(job, rank, count, meeting) for rank in range(count)]
    workers = [server.start_worker(max(1, threads // count), part.environment) for part in parts]
    for worker, part in zip(workers, parts, strict=True):
        worker.submit("myosotis.local:take_part_in_worker", part)
    return workers


@dataclass
class Company:
    """The processes of one trial, followed until all have ended.

    Attributes:
        workers: in the order of their ranks.
        tell: told what befalls the trial, by the first process alone, but for its failure.
        stopping: whether they are to save and stop.
    """

    job: Job
    workers: Sequence[Worker]
    tell: Callable[[Event], None]
    stopping: Callable[[], bool]

    def follow(self) -> Failure | None:
        """Give why the trial failed, where it did: of several failures the first."""
        running = list(self.workers)
        failures: list[Failure] = []
        deadline, asked = math.inf, False
        while running and time.monotonic() < deadline:
            if self.stopping() and not asked:
                asked = True
                self.workers[0].stop()  # it tells the others, so that all stop after the same step
            for connection in wait([each.connection for each in running], LOOK_SECONDS):
                worker = next(each for each in running if each.connection is connection)
                message = worker.receive()
                if isinstance(message, Told):
                    self._take(worker, message.value)
                    continue
                running.remove(worker)
                first = worker is self.workers[0]
                if isinstance(message, Died):
                    self._end(running)
                    return self._of_death(worker, message)
                failure = _of(message)
                if failure is not None:
                    failures.append(failure)
                    worker.kill()  # the others see that it is gone, and need not wait for it
                leaving = 0.0 if failure is not None and first else LEAVING_SECONDS
                if failure is not None or first:
                    deadline = min(deadline, time.monotonic() + leaving)
        self._end(running)
        return min(failures, key=lambda each: each.at, default=None)

    def _take(self, worker: Worker, event: Event) -> None:
        if worker is self.workers[0] and event.kind != "failed":
            self.tell(event)

    def _end(self, running: Sequence[Worker]) -> None:
        for worker in running:
            worker.kill()

    def _of_death(self, worker: Worker, died: Died) -> Failure:
        number = self.workers.index(worker) + 1
        error = f"process {number} of the trial's {len(self.workers)}: {died}"
        return Failure(time.time(), error, f"{error}\n", passing=True)


def _of(message: object) -> Failure | None:
    """Read how a process ended."""
    if isinstance(message, Raised):
        failure = Failure.of(message.error)
        return Failure(failure.at, failure.error, f"{failure.error}\n\n{message.traceback}", failure.passing)
    result: Failure | None = getattr(message, "result", None)
    return result
