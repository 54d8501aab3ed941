"""What a study's trials will take, from a few steps of the largest trial of every shape."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from myosotis.arrangement import START_SECONDS, Arrangement, Measured
from myosotis.checkpoint import KEPT, Position
from myosotis.errors import ConfigurationError
from myosotis.grouping import Cohort, shape
from myosotis.launching import Formation, Launch
from myosotis.ledger import content_hash
from myosotis.measure import STATES, Clock, TrialCost, free_memory, measure_trial, memory
from myosotis.resolve import TrialConfig
from myosotis.storage import size
from myosotis.workload import Size, Sizes, Work, Workload, runtime_of

MOST_SHAPES = 12
"""Of more shapes than this, those that differ in their methods' parameters alone are measured as one."""
NUMBER_BYTES = 4
"""What each number that trains takes where it is saved."""
TRIAL_SECONDS, LOGGER_SECONDS = 0.2, 0.3
"""Opening and closing a trial with its files, and its logger."""
STAGE_SECONDS = 0.1
"""Setting a stage's training up, and its checkpoint."""
LOGGER_MEMORY_BYTES = 30_000_000
"""What a logger holds in the process."""
REPORT_SECONDS = 3.0
REPORTED_SECONDS = 0.012
"""The report, and what each trial adds to it."""
FILE_BYTES, SCORE_BYTES, LOG_BYTES = 7_000, 270, 95
"""A trial's configuration, manifest and result; each score; each entry of its log."""
LOGGER_BYTES, LOGGED_BYTES = 20_000, 250
"""What a logger writes, and for each entry."""
REPORT_BYTES = 1_600_000


@dataclass(frozen=True)
class Estimate:
    """What something will take.

    Attributes:
        seconds: of a trial in a cohort, its share.
        memory_bytes: the most that is held; of processes, or on a GPU of their tensors.
        disk_bytes: what stays.
        checkpoint_bytes: what checkpoints take at most until it is over.
    """

    seconds: float
    memory_bytes: int
    tokens: int
    disk_bytes: int
    checkpoint_bytes: int


@dataclass(frozen=True)
class Estimates:
    """What a study will take: its trials by their ids, its cohorts in their order, all from start to report."""

    trials: Mapping[str, Estimate]
    cohorts: Sequence[Estimate]
    whole: Estimate


@dataclass(frozen=True)
class Measurement:
    """What was measured for trials that cost alike: of the largest of them."""

    cost: TrialCost
    size: Size


@dataclass
class Estimator:
    """Estimates what is left of a study.

    Attributes:
        launch: would run the trials.
        positions: where each trial goes on.
    """

    launch: Launch
    positions: Mapping[str, Position]
    _clock: Clock = field(default_factory=Clock)
    _bases: dict[str, float] = field(default_factory=dict)
    _work: dict[str, Work] = field(default_factory=dict)
    _measured: dict[str, Measurement] = field(default_factory=dict)
    _size: Sizes = field(default_factory=Sizes)

    def __post_init__(self) -> None:
        self._configs = {each.id: each for each in self.launch.configs}
        self._jobs = {each.id: each for each in self.launch.jobs}

    # Measuring

    def measure(self) -> None:
        """Measure every shape, and count every trial's work.

        Raises:
            ConfigurationError: a trial cannot fit in memory.
        """
        for config in self.launch.configs:
            self._check_least(config)
        workload = Workload(self.launch.workspace)
        groups = alike(self.launch.configs)
        for number, group in enumerate(groups, 1):
            self.launch.progress.note(f"timing a few steps of {_counted(group)} ({number}/{len(groups)})")
            self._load(group[0])
            with self._clock.timed("data"):
                self._work |= {each.id: workload(each, self.positions[each.id]) for each in group}
            largest = max(group, key=lambda each: (self._size(each).trainable, self._work[each.id].tokens))
            self._measured |= dict.fromkeys((each.id for each in group), self._measure(largest))

    def _load(self, config: TrialConfig) -> None:
        """Load a trial's base, and keep what the first time took."""
        clock = Clock()
        with clock.timed("base"):
            self.launch.workspace.base(config, runtime_of(config))
        self._bases.setdefault(config.identities["model"], clock.seconds["base"])

    def _measure(self, config: TrialConfig) -> Measurement:
        job, has = self._jobs[config.id], _has(config)
        try:
            cost = measure_trial(job.resolve(self.launch.resolver), self.launch.workspace)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise too_large(job.name, f"more than the {size(has)} that there are") from error
        if cost.memory_bytes > has:
            raise too_large(job.name, f"about {size(cost.memory_bytes)}, and there are {size(has)}")
        return Measurement(cost, self._size(config))

    def _check_least(self, config: TrialConfig) -> None:
        """Refuse before anything is loaded what is too large even without its batches."""
        least, has = self._size(config).least_bytes(config.optimizer.name), _has(config)
        if least > has:
            needs = f"at least {size(least)} for weights, gradients and the optimizer's state"
            raise too_large(self._jobs[config.id].name, f"{needs}, and there are {size(has)}")

    # Adding up

    def estimates(self, formation: Formation, start_seconds: float) -> Estimates:
        """Estimate trials, cohorts, and all of it.

        Args:
            formation: how the trials would run.
            start_seconds: what a command takes until it knows its trials.
        """
        cohorts, workers = formation.cohorts, formation.at_once
        pace = self._pace(formation)
        trials = {
            trial: self._estimate(trial, pace.share(len(cohort.trials)))
            for cohort in cohorts
            for trial in cohort.trials
        }
        # The first ones load the base and the data, and score the base, for all.
        first = cohorts[0].trials
        shared = (sum(self._bases.values()) + self._clock.seconds["data"] + self._base_rows()) / len(first)
        trials |= {each: replace(trials[each], seconds=trials[each].seconds + shared) for each in first}
        together = [self._together(cohort, trials) for cohort in cohorts]
        return Estimates(trials, together, self._whole(together, workers, start_seconds))

    def _pace(self, formation: Formation) -> Pace:
        """Say how trials fare together, as the launcher measured it; measure where it did not."""
        workers = formation.at_once
        largest = max(formation.cohorts, key=lambda each: len(each.trials))
        config = self._configs[largest.trials[0]]
        measured = formation.measured or self.launch.memory.recall(shape(config))
        known = any(each.arrangement.workers == workers for each in measured)
        if known or workers == len(largest.trials) == 1:
            return Pace(measured, workers)
        alone = self._measured[config.id].cost.step_seconds
        return Pace(
            [Measured(Arrangement(1, torch.get_num_threads(), 1), alone), *self._timed(largest, workers)],
            workers,
        )

    def _timed(self, cohort: Cohort, workers: int) -> list[Measured]:
        arrangement = Arrangement(workers, cohort.threads, len(cohort.trials))
        try:
            cost = self.launch.time(arrangement, [self._jobs[trial] for trial in cohort.trials])
        except (MemoryError, torch.OutOfMemoryError):  # it will run in halves
            return []
        return [Measured(arrangement, cost.step_seconds)] if cost else []

    def _estimate(self, trial: str, share: float) -> Estimate:
        config, work, measured = self._configs[trial], self._work[trial], self._measured[trial]
        cost, trainable = measured.cost, self._size(config).trainable
        steps = cost.step_seconds * work.tokens / cost.step_tokens if cost.step_tokens else 0.0
        scoring = work.evaluations * sum(cost.evaluation_seconds.values())
        again = self._bases[config.identities["model"]] if cost.trains_base else 0.0
        logs = bool(config.logger)
        ends = TRIAL_SECONDS + LOGGER_SECONDS * logs + work.stages * STAGE_SECONDS + cost.start_seconds
        more = NUMBER_BYTES * (trainable - measured.size.trainable) if cost.saved_bytes else 0
        return Estimate(
            seconds=share * (steps + scoring) + ends + again,
            memory_bytes=cost.memory_bytes + LOGGER_MEMORY_BYTES * (logs and not _on_gpu(config)),
            tokens=work.tokens,
            disk_bytes=_file_bytes(config, work) + cost.saved_bytes + more,
            checkpoint_bytes=_checkpoint_bytes(config, trainable),
        )

    def _together(self, cohort: Cohort, trials: Mapping[str, Estimate]) -> Estimate:
        """Add up a cohort: each trial more needs what it needs beyond the process and the base."""
        estimates = [trials[each] for each in cohort.trials]
        costs = [self._measured[each].cost for each in cohort.trials]
        own = sorted(each.memory_bytes - each.shared_bytes for each in costs)
        return Estimate(
            seconds=sum(each.seconds for each in estimates),
            memory_bytes=max(each.memory_bytes for each in estimates) + sum(own[:-1]),
            tokens=sum(each.tokens for each in estimates),
            disk_bytes=sum(each.disk_bytes for each in estimates),
            checkpoint_bytes=sum(each.checkpoint_bytes for each in estimates),
        )

    def _whole(self, cohorts: Sequence[Estimate], workers: int, start_seconds: float) -> Estimate:
        starting = start_seconds + (START_SECONDS if workers > 1 else 0.0)
        running = makespan([each.seconds for each in cohorts], workers)
        reporting = REPORT_SECONDS + REPORTED_SECONDS * len(self._configs)
        return Estimate(
            seconds=starting + running + reporting,
            memory_bytes=_most([each.memory_bytes for each in cohorts], workers),
            tokens=sum(each.tokens for each in cohorts),
            disk_bytes=REPORT_BYTES + sum(each.disk_bytes for each in cohorts),
            checkpoint_bytes=_most([each.checkpoint_bytes for each in cohorts], workers),
        )

    def _base_rows(self) -> float:
        """Give the seconds of scoring untouched bases, on the tasks on which no study has."""
        rows = {}
        for config in self.launch.configs:
            seconds = self._measured[config.id].cost.evaluation_seconds
            for task in config.tasks:
                rows[self._base_path(config, task)] = seconds.get(task, 0.0)
        return sum(each for path, each in rows.items() if not path.is_file())

    def _base_path(self, config: TrialConfig, task: str) -> Path:
        identities = config.identities[task], config.identities["model"]
        return self.launch.workspace.base_path(*identities, config.evaluation, runtime_of(config))


@dataclass(frozen=True)
class Pace:
    """How trials fare together, by what was measured in several arrangements."""

    measured: Sequence[Measured]
    workers: int

    def share(self, together: int) -> float:
        """Give the time that a trial takes in a cohort of so many, as a share of that by itself."""
        alone = [each for each in self.measured if each.arrangement.workers == each.arrangement.cohort == 1]
        mine = [each for each in self.measured if each.arrangement.workers == self.workers]
        fits = [each for each in mine if each.arrangement.cohort <= together]
        if not alone or not fits or not alone[0].step_seconds:
            return 1.0
        best = max(fits, key=lambda each: each.arrangement.cohort)
        return best.step_seconds / best.arrangement.cohort / alone[0].step_seconds


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Give when the last of some tasks ends, which workers take one after another."""
    ends = [0.0] * workers
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


def alike(configs: Sequence[TrialConfig]) -> list[list[TrialConfig]]:
    """Gather trials that cost alike: those of one shape, or, where that is too many, with the same methods."""
    groups: dict[str, list[TrialConfig]] = {}
    for key in (shape, _family):
        groups = {}
        for config in configs:
            groups.setdefault(key(config), []).append(config)
        if len(groups) <= MOST_SHAPES:
            break
    return list(groups.values())


def _family(config: TrialConfig) -> str:
    tasks = sorted(config.identities.values())
    return content_hash([tasks, list(config.methods), len(config.stages), config.trainer.precision])


def too_large(name: str, needs: str) -> ConfigurationError:
    """Refuse a trial that cannot fit in memory."""
    return ConfigurationError(
        f"every trial must fit in memory, but {name} needs {needs}; give it a smaller trainer.batch_size "
        "(with more trainer.accumulate_grad_batches), a smaller or quantized model, "
        "trainer.precision=bf16-mixed, or methods that train less"
    )


def _on_gpu(config: TrialConfig) -> bool:
    return runtime_of(config).device.type == "cuda"


def _has(config: TrialConfig) -> int:
    """Give the memory that this process can have in all."""
    runtime = runtime_of(config)
    return free_memory(runtime) + memory(runtime)


def _file_bytes(config: TrialConfig, work: Work) -> int:
    """Give the bytes of a trial's files beside its model."""
    scores = (1 + work.evaluations) * sum(len(task.metrics) for task in config.tasks.values())
    entries = work.steps // config.trainer.log_every_n_steps + work.stages
    logger = LOGGER_BYTES + LOGGED_BYTES * entries if config.logger else 0
    return FILE_BYTES + SCORE_BYTES * scores + LOG_BYTES * entries + logger


def _checkpoint_bytes(config: TrialConfig, trainable: int) -> int:
    """Give the bytes of a trial's checkpoints: of stages' ends, and in between with the optimizer's state."""
    between = 1 + STATES[config.optimizer.name] if config.trainer.checkpoint_every_n_steps else 0
    return int(KEPT * NUMBER_BYTES * trainable * (1 + between))


def _most(values: Sequence[int], at_once: int) -> int:
    return sum(sorted(values, reverse=True)[:at_once])


def _counted(trials: Sequence[TrialConfig]) -> str:
    return "1 trial" if len(trials) == 1 else f"{len(trials):,} trials that cost alike"
