"""How many of a study's trials train together, in how many processes: as asked for, remembered, or measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, final

import torch

from myosotis import nodes
from myosotis.arrangement import Arrangement, Measured, Memory, choose, seconds
from myosotis.backend import Backend
from myosotis.batches import stage_batches
from myosotis.curriculum import Part, tempered
from myosotis.grouping import shape
from myosotis.job import Job
from myosotis.measure import Cost
from myosotis.options import Options
from myosotis.progress import Progress
from myosotis.resolve import TrialConfig
from myosotis.trial_data import DEFAULT_STEPS
from myosotis.workers import available_cores
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


@dataclass(frozen=True)
class Choice:
    """An arrangement of trials.

    Attributes:
        basis: by what it was chosen; for a trial by itself there is nothing to choose.
        measured: what it was chosen from.
    """

    arrangement: Arrangement
    basis: Basis
    measured: Sequence[Measured] = ()


@final
@dataclass(frozen=True)
class Arranger:
    """Chooses how trials are laid out on this machine or a cluster.

    Attributes:
        jobs: the trials.
        configs: each job's configuration.
        options: what is asked for.
        time: times a few steps of trials that train together, in each worker of an arrangement at once; gives
            None where that is not known, and raises what a lack of memory raises.
        gpu_workers: the most workers that there are GPUs for; None where the trials use none of this machine's.
        backend: where the trials run; None is this machine.
        memory: what was measured before.
        measures: whether it may time steps.
    """

    jobs: Sequence[Job]
    configs: Sequence[TrialConfig]
    options: Options
    workspace: Workspace
    progress: Progress
    time: Callable[[Arrangement, Sequence[Job]], Cost | None]
    gpu_workers: int | None = None
    backend: Backend | None = None
    memory: Memory = field(default_factory=Memory)
    measures: bool = True

    def choose(self, groups: Sequence[Sequence[str]]) -> Choice:
        """Choose by what is asked for, by what is known of this machine, or by measuring.

        Args:
            groups: the trials' ids, those that may train together in one.

        Raises:
            ConfigurationError: a cluster cannot be reached, or has not what is asked for.
        """
        group = max(groups, key=len)
        if self.backend is not None:
            return self._choose_there(self.backend, group)
        workers, cohort = self.options.workers, self.options.cohort
        if workers != "auto" and cohort != "auto":
            return Choice(_arranged(workers, cohort), "asked for")
        if len(self.jobs) == 1:
            return Choice(_arranged(1), "alone")
        if max(config.trainer.devices for config in self.configs) > 1:
            # Each trial has processes of its own, and none beside it.
            several = 1 if nodes.are_there() or self.gpu_workers is None else self.gpu_workers
            return Choice(_arranged(several if workers == "auto" else workers), "alone")
        return self._choose_here(group)

    def expects_workers(self) -> bool:
        """Tell whether it is known without measuring that this machine will have several workers."""
        if self.backend is not None or len(self.jobs) == 1:
            return False
        if self.options.workers != "auto":
            return self.options.workers > 1
        first = self.configs[0]  # stands for all
        known = self.memory.recall(shape(first))
        return bool(known) and choose(known, len(self.jobs), self._most_steps(first)).workers > 1

    def _choose_here(self, group: Sequence[str]) -> Choice:
        """Choose by what is known of this machine, within what is asked for."""
        workers, cohort = self.options.workers, self.options.cohort
        enough = min(available_cores(), len(self.jobs)) if self.gpu_workers is None else self.gpu_workers
        most = enough if workers == "auto" else workers
        configs = [config for config in self.configs if config.id in set(group)]
        found, basis = self._known(configs, most)
        possible = [
            each
            for each in found
            if each.arrangement.cohort <= len(group) and each.arrangement.workers <= most
        ]
        if workers != "auto":
            possible = [each for each in possible if each.arrangement.workers == workers] or possible
        if cohort != "auto":
            possible = [each for each in possible if each.arrangement.cohort == cohort] or possible
        possible = possible or [Measured(_arranged(1), 0.0)]
        best = choose(possible, len(self.jobs), self._most_steps(configs[0]))
        if workers != "auto":
            best = _arranged(workers, best.cohort)
        if cohort != "auto":
            best = replace(best, cohort=cohort)
        return Choice(best, basis, found)

    def _choose_there(self, backend: Backend, group: Sequence[str]) -> Choice:
        """Choose for a cluster: as many workers as it has room for, and what is measured in one of them."""
        workers, cohort, threads = self.options.workers, self.options.cohort, self.options.cpus
        alone = Arrangement(backend.slots() if workers == "auto" else workers, threads, 1)
        if cohort != "auto":
            return Choice(replace(alone, cohort=cohort), "asked for")
        if not self.measures or len(group) == 1:
            return Choice(alone, "alone" if len(self.jobs) == 1 else "nothing")
        measured = self._growing(alone, self._jobs_of(group)) or [Measured(alone, 0.0)]
        # In the same workers, more steps only multiply it.
        return Choice(choose(measured, len(self.jobs), steps=1), "measured", measured)

    def _most_steps(self, config: TrialConfig) -> int:
        """Bound a trial's optimizer steps: counting them would encode the data.

        A row is taken for an example, and an example for one token.
        """
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

    # What is known of this machine

    def _known(self, configs: Sequence[TrialConfig], workers: int) -> tuple[list[Measured], Basis]:
        """Give what was measured for trials that may train together, in up to so many workers; else measure."""
        key = shape(configs[0])
        found = self.memory.recall(key)
        if self._is_enough(found, configs, workers) or not self.measures:
            return found, "remembered" if found else "nothing"
        found = self._measure(configs, workers)
        self.memory.remember(key, found)
        return found, "measured"

    def _is_enough(self, found: Sequence[Measured], configs: Sequence[TrialConfig], workers: int) -> bool:
        """Tell whether what is remembered was measured for as large a cohort, and in workers where they may pay."""
        largest = min(len(configs), SIZES[-1])
        if not found or max(each.arrangement.cohort for each in found) < largest:
            return False
        in_workers = max(each.arrangement.workers for each in found) >= workers
        return in_workers or not self._pays(found[0], configs[0], workers)

    def _pays(self, alone: Measured, config: TrialConfig, workers: int) -> bool:
        """Tell whether there is enough to do for workers to be worth their start."""
        return workers > 1 and seconds(alone, len(self.jobs), self._most_steps(config)) >= SMALL_SECONDS

    def _measure(self, configs: Sequence[TrialConfig], workers: int) -> list[Measured]:
        """Time a few steps at growing sizes, here and, where there is enough to do, in workers."""
        jobs = self._jobs_of([config.id for config in configs])
        self.progress.note(
            f"measuring how many of {len(self.jobs)} trials to train at once; it is remembered"
        )
        here = self._growing(_arranged(1), jobs)
        if not here or not self._pays(here[0], configs[0], workers):
            return here
        if self.gpu_workers is not None:  # each has a device of its own, and the same speed on it
            return here + [
                Measured(_arranged(workers, each.arrangement.cohort), each.step_seconds) for each in here
            ]
        return here + self._fewer_and_fewer(workers, jobs)

    def _fewer_and_fewer(self, workers: int, jobs: Sequence[Job]) -> list[Measured]:
        """Halve the number of workers, each with more threads, for as long as that is no loss."""
        found: list[Measured] = []
        best = math.inf
        while workers > 1:
            tried = self._growing(_arranged(workers), jobs)
            paces = [each.step_seconds / (each.arrangement.cohort * workers) for each in tried]
            if min(paces, default=best) > best:
                break
            found += tried
            best, workers = min(paces, default=best), workers // 2
        return found

    def _growing(self, alone: Arrangement, jobs: Sequence[Job]) -> list[Measured]:
        """Double the cohort for as long as that is no loss and there is memory for it; none where one has not."""
        found: list[Measured] = []
        for size in SIZES:
            if size > max(1, len(jobs) // alone.workers):
                break
            arrangement = replace(alone, cohort=size)
            try:
                cost = self.time(arrangement, jobs[:size])
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

    def _jobs_of(self, trials: Sequence[str]) -> list[Job]:
        by_id = {job.id: job for job in self.jobs}
        return [by_id[trial] for trial in trials]


def _arranged(workers: int, cohort: int = 1) -> Arrangement:
    """Give an arrangement in which workers share this machine's cores; one has the threads of this process."""
    threads = torch.get_num_threads() if workers == 1 else max(1, available_cores() // workers)
    return Arrangement(workers, threads, cohort)
