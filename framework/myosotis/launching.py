"""From planned trials to cohorts that run: in which groups, in which processes, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from myosotis.ahead import PRELOADED, WANDB_PRELOADED
from myosotis.arrangement import Arrangement, Measured, Memory
from myosotis.arranger import Arranger, Basis
from myosotis.backend import Backend, Surroundings
from myosotis.cohort import free_cached_memory
from myosotis.cohort_record import CohortRecord
from myosotis.errors import Interrupted
from myosotis.grouping import Cohort, divided, sets
from myosotis.job import Job
from myosotis.local import (
    Preparation,
    Queue,
    Stopping,
    Unit,
    run_here,
    run_in_workers,
    wait_for_others,
)
from myosotis.measure import Cost, measure_training
from myosotis.options import Options
from myosotis.progress import Progress
from myosotis.resolve import Resolver, TrialConfig
from myosotis.study_check import StudyCheck
from myosotis.workers import Died, Finished, ForkServer, Message, Raised, gpus
from myosotis.workspace import Workspace


@dataclass(frozen=True)
class Formation:
    """How a study's trials run.

    Attributes:
        cohorts: those that train together.
        workers: processes that run them.
        basis: by what that was chosen.
        measured: what it was chosen from.
    """

    cohorts: Sequence[Cohort]
    workers: int
    basis: Basis = "recorded"
    measured: Sequence[Measured] = ()

    @property
    def at_once(self) -> int:
        """The number of cohorts that run at once."""
        return min(self.workers, len(self.cohorts))


@dataclass
class Launch:
    """A study's trials on their way: everything that running them needs.

    Attributes:
        folder: the study's folder.
        jobs: the trials, in the study's order.
        configs: each job's configuration.
        stackable: whether each trial's model can share a forward pass, by its id.
        backend: where they run; None is this machine.
        ahead: a process that workers can come from, where one was started before; used once.
        measures: whether it may time steps to choose how many trials train at once.
    """

    folder: Path
    jobs: Sequence[Job]
    configs: Sequence[TrialConfig]
    stackable: Mapping[str, bool]
    resolver: Resolver
    workspace: Workspace
    progress: Progress
    options: Options
    backend: Backend | None = None
    stopping: Stopping = field(default_factory=Stopping)
    memory: Memory = field(default_factory=Memory)
    ahead: ForkServer | None = None
    measures: bool = True
    _open: ExitStack = field(default_factory=ExitStack)
    _server: ForkServer | None = None

    def run(self) -> dict[str, str]:
        """Run the trials; give the failed ones' errors by their ids.

        Raises:
            Interrupted: asked to stop; everything is saved.
        """
        with self._open, self.stopping.on_signals():
            formation = self._form()
            self._record.add(formation.cohorts, formation.workers)
            by_id = {job.id: job for job in self.jobs}
            units = [
                Unit([by_id[trial] for trial in each.trials], each.threads) for each in formation.cohorts
            ]
            queue = Queue(units, self.progress, self.stopping, self.options.retries, self.options.fail_fast)
            self._run(queue, formation.at_once)
            while free := wait_for_others(queue):
                queue.waiting.append(Unit(free, torch.get_num_threads()))
                self._run(queue, 1)
        if self.stopping() and not (self.options.fail_fast and queue.failed):
            raise Interrupted(
                "stopped; every trial is saved where it was, and the same command goes on from there"
            )
        return queue.failed

    def _run(self, queue: Queue, workers: int) -> None:
        if self.backend is not None:
            self.backend.run(queue, self._surroundings())
            return
        if workers == 1:
            self._end_server()
            run_here(queue, self.resolver, self.workspace)
            return
        # What was loaded to measure would share a GPU with the worker that gets it.
        self.workspace.give_up_base()
        free_cached_memory()
        run_in_workers(queue, self._started_server(), workers, self._environments())

    def _surroundings(self) -> Surroundings:
        return Surroundings.here(self._preparation(load=False))

    def _gpus(self) -> list[str]:
        """List the GPUs that the trials may use here."""
        on_cpu = all(config.trainer.accelerator == "cpu" for config in self.configs)
        return [] if on_cpu else gpus()

    def _environments(self) -> list[dict[str, str]]:
        """Give the environment variables of each worker, in turn: of the GPUs each gets as many as a trial has."""
        gpus, size = self._gpus(), self._devices
        whole = [gpus[start : start + size] for start in range(0, len(gpus) - size + 1, size)]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(each)} for each in whole] or [{}]

    @property
    def _devices(self) -> int:
        """The most devices that a trial trains on."""
        return max(config.trainer.devices for config in self.configs)

    # Ahead of it

    def check(
        self, asked: Sequence[str], looks_at_data: bool, meanwhile: Callable[[], None]
    ) -> StudyCheck | None:
        """Check the trials in the process that workers come from, where it is known that there will be some.

        What that imports and reads is theirs too. With GPUs it must not touch one, as much of what is checked
        does: it only imports while this process checks.

        Args:
            asked: what each trial was asked for by.
            looks_at_data: whether to look for what is wrong with the data, too.
            meanwhile: what else to do while this process waits.

        Returns:
            None where the trials are still to be checked.

        Raises:
            ConfigurationError: says what would stop which trial.
        """
        if not self._expects_workers():
            return None
        if self._gpus():
            self._started_server()
            return None
        server = self._started_server(asked, looks_at_data)
        meanwhile()
        worker = server.start_worker()
        try:
            worker.submit("myosotis.local:checked")
            return cast("StudyCheck", _result(worker.receive()))
        finally:
            worker.kill()

    def close(self) -> None:
        """End what was started."""
        self._open.close()
        if self.backend is not None:
            self.backend.close()

    def _expects_workers(self) -> bool:
        """Tell whether it is known that there will be workers on this machine."""
        cohorts, workers = self._record.read()
        if cohorts and self.backend is None and len(self.jobs) > 1:
            return workers > 1
        return self._arranger(self.jobs, self.configs).expects_workers()

    # In which groups

    def form(self) -> Formation:
        """Give the cohorts that would run; runs and records nothing."""
        with self._open:
            return self._form()

    def time(self, arrangement: Arrangement, jobs: Sequence[Job]) -> Cost | None:
        """Time a few steps of trials that train together, in each worker of an arrangement.

        Raises:
            MemoryError, torch.OutOfMemoryError: there is not enough memory.
        """
        with self._open:
            return self._time(arrangement, jobs)

    def _form(self) -> Formation:
        """Give the cohorts as they were recorded, and new ones for the trials that were in none."""
        left = {job.id for job in self.jobs}
        known, workers = self._record.read()
        kept = [
            replace(each, trials=tuple(trial for trial in each.trials if trial in left)) for each in known
        ]
        kept = [each for each in kept if each.trials]
        new = left - {trial for each in kept for trial in each.trials}
        if not new:
            return Formation(kept, workers)
        configs = [config for config in self.configs if config.id in new]
        groups = sets(configs, self.stackable)
        choice = self._arranger([job for job in self.jobs if job.id in new], configs).choose(groups)
        chosen = choice.arrangement
        made = [Cohort(each, chosen.threads) for each in divided(groups, chosen.cohort, chosen.workers)]
        most = max(workers, chosen.workers) if kept else chosen.workers
        return Formation([*kept, *made], most, choice.basis, choice.measured)

    def _arranger(self, jobs: Sequence[Job], configs: Sequence[TrialConfig]) -> Arranger:
        return Arranger(
            jobs,
            configs,
            self.options,
            self.workspace,
            self.progress,
            self._time,
            len(self._environments()) if self._gpus() else None,
            self.backend,
            self.memory,
            self.measures,
        )

    @property
    def _record(self) -> CohortRecord:
        return CohortRecord(self.folder, self.options)

    def _time(self, arrangement: Arrangement, jobs: Sequence[Job]) -> Cost | None:
        if self.backend is not None:
            return self.backend.time(self._surroundings(), jobs)
        if arrangement.workers == 1:
            return measure_training([job.resolve(self.resolver) for job in jobs], self.workspace)
        return self._time_in_workers(arrangement, jobs)

    def _time_in_workers(self, arrangement: Arrangement, jobs: Sequence[Job]) -> Cost | None:
        """Time the same in all workers at once: they share the machine."""
        server, environments = self._started_server(), self._environments()
        workers = [
            server.start_worker(arrangement.threads, environments[number % len(environments)])
            for number in range(arrangement.workers)
        ]
        costs: list[Cost | None] = []
        try:
            for worker in workers:
                worker.submit("myosotis.local:timed", list(jobs))
            for worker in workers:
                costs.append(_result(worker.receive()))
        finally:
            for worker in workers:
                worker.kill()
        return max(
            (each for each in costs if each is not None), key=lambda cost: cost.step_seconds, default=None
        )

    def _end_server(self) -> None:
        """End the process that no worker will come from, for it holds all that it imported."""
        for server in (self._server, self.ahead):
            if server is not None:
                server.close()
        self._server = self.ahead = None

    def _started_server(self, asked: Sequence[str] = (), looks_at_data: bool = False) -> ForkServer:
        """Give the process that workers come from, which may not be ready yet."""
        if self._server is None:
            self._open.callback(setattr, self, "_server", None)
            self._server = self._open.enter_context(self.ahead or ForkServer(self._modules()))
            self.ahead = None
            preparation = self._preparation(
                load=not self._gpus(), jobs=list(self.jobs), asked=asked, looks_at_data=looks_at_data
            )
            self._server.prepare("myosotis.local:prepare", preparation, wait=False)
        return self._server

    def _preparation(self, load: bool, **more: Any) -> Preparation:
        """Say what a process must load to run trials."""
        return Preparation(self.workspace.studies, dict(self.resolver._fingerprints), load, **more)

    def _modules(self) -> tuple[str, ...]:
        loggers = {str(config.logger.get("_target_")) for config in self.configs if config.logger}
        wandb = any(each.endswith(".WandbRun") for each in loggers)
        return (*(WANDB_PRELOADED if wandb else ()), *PRELOADED)


def _result(message: Message) -> Any:
    """Give what a worker's function returned, or raise what it raised."""
    if isinstance(message, Raised):
        raise message.error
    if isinstance(message, Died):
        raise MemoryError(str(message))
    assert isinstance(message, Finished)
    return message.result
