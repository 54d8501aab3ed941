"""From planned trials to cohorts that run: how many at once, in which groups, and what came of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from myosotis import nodes
from myosotis.ahead import PRELOADED, WANDB_PRELOADED
from myosotis.arrangement import Arrangement, Measured, Memory, choose, seconds
from myosotis.backend import Backend, Surroundings
from myosotis.batches import stage_batches
from myosotis.cohort import free_cached_memory
from myosotis.curriculum import Part, tempered
from myosotis.errors import Interrupted
from myosotis.grouping import Cohort, divided, sets, shape
from myosotis.job import Job
from myosotis.ledger import read_json, write_json
from myosotis.local import (
    Preparation,
    Queue,
    Stopping,
    Unit,
    run_here,
    run_in_workers,
    wait_for_others,
)
from myosotis.locks import StudyLock
from myosotis.measure import Cost, measure_training
from myosotis.options import Options
from myosotis.progress import Progress
from myosotis.resolve import Resolver, TrialConfig
from myosotis.study_check import StudyCheck
from myosotis.workers import Died, Finished, ForkServer, Message, Raised, available_cores, gpus
from myosotis.workspace import Workspace

SMALL_SECONDS = 20.0
"""Less training than this is not worth starting workers, or measuring much, for."""
Basis = Literal["recorded", "asked for", "remembered", "measured", "alone", "nothing"]
SIZES = (1, 2, 4, 8, 16, 32)
"""Cohort sizes that are tried."""
WORSE = 1.1
"""No larger cohort is tried once one takes this many times the best's time for a trial."""
MEMORY_SHARE = 0.7
"""The share of the free memory that a cohort may need."""


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
        basis: by what that was chosen; for a trial by itself there is nothing to choose.
        measured: what it was chosen from.
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
    basis: Basis = "recorded"
    measured: Sequence[Measured] = ()
    _open: ExitStack = field(default_factory=ExitStack)
    _server: ForkServer | None = None

    def run(self) -> dict[str, str]:
        """Run the trials; give the failed ones' errors by their ids.

        Raises:
            Interrupted: asked to stop; everything is saved.
        """
        with self._open, self.stopping.on_signals():
            cohorts, workers = self._cohorts()
            self._record(cohorts, workers)
            by_id = {job.id: job for job in self.jobs}
            units = [Unit([by_id[trial] for trial in each.trials], each.threads) for each in cohorts]
            queue = Queue(units, self.progress, self.stopping, self.options.retries, self.options.fail_fast)
            self._run(queue, min(workers, len(units)))
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
        if self.backend is not None or len(self.jobs) == 1:
            return False
        if self._recorded()["cohorts"]:
            return bool(self._recorded()["workers"] > 1)
        if self.options.workers != "auto":
            return self.options.workers > 1
        first = self.configs[0]  # stands for all
        known = self.memory.recall(shape(first))
        return bool(known) and choose(known, len(self.jobs), self._most_steps(first)).workers > 1

    # In which groups

    def cohorts(self) -> tuple[list[Cohort], int]:
        """Give the cohorts that would run and the number of workers; runs and records nothing."""
        with self._open:
            return self._cohorts()

    def time(self, arrangement: Arrangement, trials: Sequence[str]) -> Cost | None:
        """Time a few steps of trials that train together, in each worker of an arrangement."""
        by_id = {job.id: job for job in self.jobs}
        timed = self._time_in_workers
        if self.backend is not None:
            timed = self._time_there
        elif arrangement.workers == 1:
            timed = self._time_here
        with self._open:
            return timed(arrangement, [by_id[trial] for trial in trials])

    def _cohorts(self) -> tuple[list[Cohort], int]:
        """Give the cohorts as they were recorded, and new ones for the trials that were in none."""
        left = {job.id for job in self.jobs}
        known = self._recorded()
        kept = [
            Cohort(tuple(trial for trial in each["trials"] if trial in left), each["threads"])
            for each in known["cohorts"]
        ]
        kept = [each for each in kept if each.trials]
        workers = known["workers"]
        new = left - {trial for each in kept for trial in each.trials}
        if new:
            arrangement, made = self._arranged([config for config in self.configs if config.id in new])
            kept += made
            workers = max(workers, arrangement.workers) if len(kept) > len(made) else arrangement.workers
        return kept, workers

    @property
    def _request(self) -> dict[str, Any]:
        return {"cohort": self.options.cohort, "workers": self.options.workers}

    def _recorded(self) -> Mapping[str, Any]:
        """Read the cohorts that were formed for the same request; none where there are no such."""
        path = self.folder / "cohorts.json"
        known = read_json(path) if path.is_file() else {}
        return known if known.get("request") == self._request else {"workers": 1, "cohorts": []}

    def _record(self, cohorts: Sequence[Cohort], workers: int) -> None:
        """Keep whole cohorts on record: those of which some trials have ended, too."""
        with StudyLock(self.folder):  # another command may record its own meanwhile
            old = self._recorded()["cohorts"]
            listed = {trial for each in old for trial in each["trials"]}
            new = [asdict(each) for each in cohorts if not listed.intersection(each.trials)]
            write_json(
                self.folder / "cohorts.json",
                {"request": self._request, "workers": workers, "cohorts": [*old, *new]},
            )

    def _arranged(self, configs: Sequence[TrialConfig]) -> tuple[Arrangement, list[Cohort]]:
        groups = sets(configs, self.stackable)
        arrangement = self._arrangement(configs, groups)
        cohorts = divided(groups, arrangement.cohort, arrangement.workers)
        return arrangement, [Cohort(each, arrangement.threads) for each in cohorts]

    # How many at once

    def _arrangement(self, configs: Sequence[TrialConfig], groups: Sequence[Sequence[str]]) -> Arrangement:
        """Choose by what is asked for, by what is known of this machine, or by measuring."""
        if self.backend is not None:
            return self._arrangement_on(self.backend, groups)
        devices, cores = self._gpus(), available_cores()
        most_workers = len(self._environments()) if devices else min(cores, len(configs))
        workers, cohort = self.options.workers, self.options.cohort
        largest = max(len(group) for group in groups)
        self.basis = "asked for"
        if workers != "auto" and cohort != "auto":
            return Arrangement(workers, _threads(workers, cores), cohort)
        if len(configs) == 1:
            self.basis = "alone"
            return Arrangement(1, torch.get_num_threads(), 1)
        if self._devices > 1:  # each trial has processes of its own, and none beside it
            self.basis = "alone"
            most = 1 if nodes.are_there() or not devices else most_workers
            chosen_workers = most if workers == "auto" else workers
            return Arrangement(chosen_workers, _threads(chosen_workers, cores), 1)
        group = max(groups, key=len)
        chosen = [config for config in configs if config.id in set(group)]
        measured = self._measured(chosen, most_workers if workers == "auto" else workers, largest)
        if workers != "auto":
            measured = [each for each in measured if each.arrangement.workers == workers] or measured
        if cohort != "auto":
            measured = [each for each in measured if each.arrangement.cohort == cohort] or measured
        alone = Measured(Arrangement(1, torch.get_num_threads(), 1), 0.0)
        best = choose(measured or [alone], len(configs), self._most_steps(chosen[0]))
        return Arrangement(
            best.workers if workers == "auto" else workers,
            best.threads if workers == "auto" else _threads(workers, cores),
            best.cohort if cohort == "auto" else cohort,
        )

    def _arrangement_on(self, backend: Backend, groups: Sequence[Sequence[str]]) -> Arrangement:
        """Choose for a cluster: as many workers as it has room for, and what is measured in one of them."""
        workers, cohort, threads = self.options.workers, self.options.cohort, self.options.cpus
        alone = Arrangement(backend.slots() if workers == "auto" else workers, threads, 1)
        self.basis = "asked for"
        if cohort != "auto":
            return replace(alone, cohort=cohort)
        if not self.measures or max(len(group) for group in groups) == 1:
            self.basis = "alone" if len(self.jobs) == 1 else "nothing"
            return alone
        by_id = {job.id: job for job in self.jobs}
        jobs = [by_id[trial] for trial in max(groups, key=len)]
        self.measured = self._growing(alone, jobs, self._time_there) or [Measured(alone, 0.0)]
        self.basis = "measured"
        return choose(self.measured, len(self.jobs), steps=1)  # in the same workers, more only multiply it

    def _most_steps(self, config: TrialConfig) -> int:
        """Bound a trial's optimizer steps: counting them would encode the data.

        A row is taken for an example, and an example for one token.
        """
        from myosotis.trial_data import DEFAULT_STEPS

        trainer, batches = config.trainer, 0
        for stage in (stage for stage in config.stages if stage.shares):
            parts = [Part(task, self._size(config, task), share) for task, share in stage.shares.items()]
            batches += stage_batches(trainer, stage, tempered(stage, parts), DEFAULT_STEPS)
        return batches // trainer.accumulate_grad_batches

    def _size(self, config: TrialConfig, task: str) -> int:
        """Count a task's training rows where a stage's length depends on them."""
        if config.trainer.max_epochs is None:
            return 1
        return len(self.workspace.rows(config.tasks[task], config.identities[task], "train"))

    def _measured(self, configs: Sequence[TrialConfig], workers: int, largest: int) -> list[Measured]:
        key = shape(configs[0])
        found = self.memory.recall(key)
        if self._is_enough(found, configs[0], workers, largest) or not self.measures:
            self.basis = "remembered" if found else "nothing"
        else:
            found = self._measure(configs, workers)
            self.memory.remember(key, found)
            self.basis = "measured"
        self.measured = found
        return [
            each
            for each in found
            if each.arrangement.cohort <= largest and each.arrangement.workers <= workers
        ]

    def _is_enough(self, found: Sequence[Measured], config: TrialConfig, workers: int, largest: int) -> bool:
        """Tell whether what is remembered was measured for as large a cohort, and in workers where they may pay."""
        if not found or max(each.arrangement.cohort for each in found) < min(largest, SIZES[-1]):
            return False
        in_workers = max(each.arrangement.workers for each in found) >= workers
        return in_workers or not self._pays(found[0], config, workers)

    def _pays(self, alone: Measured, config: TrialConfig, workers: int) -> bool:
        """Tell whether there is enough to do for workers to be worth their start."""
        return workers > 1 and seconds(alone, len(self.jobs), self._most_steps(config)) >= SMALL_SECONDS

    def _measure(self, configs: Sequence[TrialConfig], workers: int) -> list[Measured]:
        """Time a few steps at growing sizes, here and, where there is enough to do, in workers."""
        by_id = {job.id: job for job in self.jobs}
        jobs = [by_id[config.id] for config in configs]
        self.progress.note(
            f"measuring how many of {len(self.jobs)} trials to train at once; it is remembered"
        )
        here = self._growing(Arrangement(1, torch.get_num_threads(), 1), jobs, self._time_here)
        if not here or not self._pays(here[0], configs[0], workers):
            return here
        if self._gpus():  # each has a device of its own, and the same speed on it
            alone = Arrangement(workers, _threads(workers, available_cores()), 1)
            return here + [
                Measured(replace(alone, cohort=each.arrangement.cohort), each.step_seconds) for each in here
            ]
        return here + self._fewer_and_fewer(workers, jobs)

    def _fewer_and_fewer(self, workers: int, jobs: Sequence[Job]) -> list[Measured]:
        """Halve the number of workers, each with more threads, for as long as that is no loss."""
        found: list[Measured] = []
        best = math.inf
        while workers > 1:
            alone = Arrangement(workers, _threads(workers, available_cores()), 1)
            tried = self._growing(alone, jobs, self._time_in_workers)
            paces = [each.step_seconds / (each.arrangement.cohort * workers) for each in tried]
            if min(paces, default=best) > best:
                break
            found += tried
            best, workers = min(paces, default=best), workers // 2
        return found

    def _growing(
        self,
        alone: Arrangement,
        jobs: Sequence[Job],
        timed: Callable[[Arrangement, Sequence[Job]], Cost | None],
    ) -> list[Measured]:
        """Double the cohort for as long as that is no loss and there is memory for it; none where one has not."""
        found: list[Measured] = []
        for size in SIZES:
            if size > max(1, len(jobs) // alone.workers):
                break
            arrangement = replace(alone, cohort=size)
            try:
                cost = timed(arrangement, jobs[:size])
            except (MemoryError, torch.OutOfMemoryError):
                break
            if cost is None:
                return [Measured(alone, 0.0)]
            found.append(Measured(arrangement, cost.step_seconds))
            best = min(each.step_seconds / each.arrangement.cohort for each in found)
            worse = cost.step_seconds / size > WORSE * best
            if worse or 2 * cost.memory_bytes * alone.workers > MEMORY_SHARE * cost.free_bytes:
                break
        return found

    def _time_here(self, arrangement: Arrangement, jobs: Sequence[Job]) -> Cost | None:
        return measure_training([job.resolve(self.resolver) for job in jobs], self.workspace)

    def _time_there(self, arrangement: Arrangement, jobs: Sequence[Job]) -> Cost | None:
        assert self.backend is not None
        return self.backend.time(self._surroundings(), jobs)

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


def _threads(workers: int, cores: int) -> int:
    return torch.get_num_threads() if workers == 1 else max(1, cores // workers)
