"""What trials cost, from a few timed steps: seconds, memory, disk, alone and together. Leaves nothing behind."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from torch import nn

from myosotis.adaptation import Adapted
from myosotis.evaluation import Runtime, predict, score
from myosotis.interfaces import Columns, Example, Model, Task
from myosotis.joint import JointForward
from myosotis.member import Member
from myosotis.resolve import TrialConfig
from myosotis.stacking import Stack, obstacle
from myosotis.trial import TrialRun
from myosotis.workspace import Workspace

if TYPE_CHECKING:
    from myosotis.errors import NonFiniteLoss


LONG_SECONDS = 5.0
"""Two steps are enough where they take longer than this."""
EVALUATED_SECONDS = 1.0
"""Batches of a task that take longer than this are enough."""
RESAMPLES = 50
"""Bootstrap resamples that are timed."""


@dataclass(frozen=True)
class Cost:
    """What a few steps of trials that train together took.

    Attributes:
        step_seconds: seconds an optimizer step of all of them.
        memory_bytes: what they needed at most beyond the base and the process.
        free_bytes: what was left before.
        steps: steps that the longest of them takes in its first stage.
    """

    step_seconds: float
    memory_bytes: int
    free_bytes: int
    steps: int


def measure_training(configs: Sequence[TrialConfig], workspace: Workspace, steps: int = 6) -> Cost | None:
    """Time a few steps of the first stage that trains; None where none does.

    Args:
        configs: trials that may train together, made for this and not used afterwards.
        workspace: what trials share; its base is loaded if it is not yet.
        steps: how many, the first of which only warms up.
    """
    with tempfile.TemporaryDirectory() as folder:
        runs = [TrialRun(config, Path(folder), "measured", "measured", workspace) for config in configs]
        base = workspace.base(configs[0], runs[0].runtime)
        for run in runs:
            _adapt(run, base)
        members = [member for run in runs if (member := _begin(run)) is not None]
        if len(members) < len(runs):
            return None
        free, before, peak = free_memory(runs[0].runtime), memory(runs[0].runtime), Peak(runs[0].runtime)
        watch = _train(runs, members, base, steps)
    longest = max(member.context.steps for member in members)
    return Cost(watch.seconds(), max(0, peak.bytes() - before), free, longest)


@dataclass(frozen=True)
class TrialCost:
    """What one trial takes by itself, from a few of its steps and some batches of every task.

    Attributes:
        start_seconds: adapting, and beginning a stage.
        step_seconds: an optimizer step of the first stage that trains.
        step_tokens: the tokens of such a step.
        evaluation_seconds: scoring a task once, with its interval, by its name.
        memory_bytes: the most that the process held, or on a GPU its tensors.
        shared_bytes: what of that was there before the trial: the process, the base.
        saved_bytes: what is kept of a finished trial's model.
        trains_base: whether it trains the base, which is loaded anew for the trial after it.
    """

    start_seconds: float
    step_seconds: float
    step_tokens: float
    evaluation_seconds: Mapping[str, float]
    memory_bytes: int
    shared_bytes: int
    saved_bytes: int
    trains_base: bool


def measure_trial(config: TrialConfig, workspace: Workspace, steps: int = 24) -> TrialCost:
    """Time one trial's parts.

    Args:
        config: the trial, made for this and not used afterwards.
        workspace: what trials share; its base is loaded if it is not yet.
        steps: how many at most, the first of which only warms up.

    Raises:
        MemoryError, torch.OutOfMemoryError: there is not enough memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = TrialRun(config, Path(folder), "measured", "measured", workspace)
        base = workspace.base(config, run.runtime)
        shared, peak, clock, watch = memory(run.runtime), Peak(run.runtime), Clock(), Stopwatch(0)
        with clock.timed("start"):
            _adapt(run, base)
            member = _begin(run)
        evaluation = {task.name: _evaluation_seconds(run, task) for task in config.tasks.values()}
        if member is not None:
            _check_memory(run.adapted, config.optimizer.name, run.runtime)
            watch = _train([run], [member], base, steps)
        saved = _saved_bytes(run, Path(folder))
        return TrialCost(
            start_seconds=clock.seconds["start"],
            step_seconds=watch.seconds(),
            step_tokens=member.tokens.total() / member.step if member else 0.0,
            evaluation_seconds=evaluation,
            memory_bytes=peak.bytes(),
            shared_bytes=shared,
            saved_bytes=saved,
            trains_base=run.trains_base,
        )


@dataclass
class Clock:
    """Adds up what the parts of something take."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Time a part."""
        since = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - since


# The parts of a trial


def _adapt(run: TrialRun, base: Model) -> None:
    run.adapt(base)
    if run.trains_base:
        run.workspace.give_up_base()


def _begin(run: TrialRun) -> Member | None:
    """Begin the first stage that trains."""
    stage = next(filter(run.config.trains_in, run.config.stages), None)
    return None if stage is None else run.begin_stage(stage)


def _train(runs: Sequence[TrialRun], members: Sequence[Member], base: Model, steps: int) -> Stopwatch:
    from myosotis import training

    stack = None
    if len(runs) > 1 or obstacle(runs[0].branch, runs[0].adapted.model.module) is None:
        methods = {type(method): None for method in runs[0].config.methods.values()}
        stack = Stack(
            base.module, [run.branch for run in runs], list(methods), mixes=runs[0].config.model.mixes_rows
        )
    watch = Stopwatch(min(steps, min(member.context.steps for member in members)))
    training.train_stage(
        members, JointForward([member.module for member in members], stack), watch, runs[0].runtime
    )
    return watch


@dataclass
class Stopwatch:
    """Times the first steps of a stage, and ends it."""

    steps: int
    times: list[float] = field(default_factory=lambda: [time.perf_counter()])

    def log(self, member: Member, values: Mapping[str, float]) -> None:
        """Log nothing."""

    def lost(self, member: Member, error: NonFiniteLoss) -> None:
        """Leave it to the trial itself."""

    def reached(self, members: Sequence[Member], optimizer: torch.optim.Optimizer) -> None:
        """Take the time."""
        device = next(iter(optimizer.param_groups[0]["params"])).device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.times.append(time.perf_counter())
        enough = len(self.times) > 2 and self.times[-1] - self.times[0] > LONG_SECONDS
        if enough or len(self.times) > self.steps:
            for member in members:
                member.active = False

    def seconds(self) -> float:
        """Give the median of a step's time, without the first where there are others; 0 where none was."""
        steps = [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]
        return statistics.median(steps[1:] or steps) if steps else 0.0


def _evaluation_seconds(run: TrialRun, task: Task) -> float:
    """Time scoring a task once, from some of its batches; one that is asked elsewhere takes nothing here."""
    if run.adapted.model.text_only:
        return 0.0
    since = time.perf_counter()
    examples = run.data.evaluated(task, run.context)
    return time.perf_counter() - since + _predicting(run, task, examples)


def _predicting(run: TrialRun, task: Task, examples: Sequence[Example]) -> float:
    model, size, base = run.adapted.model, run.config.evaluation.batch_size, run.compared_base(task)
    batches = [examples[start : start + size] for start in range(0, len(examples), size)]
    columns = predict(task, batches[0], model, size, run.runtime, base)  # warms up
    done, since = 0, time.perf_counter()
    for batch in batches:
        predict(task, batch, model, size, run.runtime, base)
        done += len(batch)
        if time.perf_counter() - since > EVALUATED_SECONDS:
            break
    predicting = (time.perf_counter() - since) * len(examples) / done
    return predicting + _scoring(run, task, columns, len(examples))


def _scoring(run: TrialRun, task: Task, columns: Columns, examples: int) -> float:
    """Time the metrics and their intervals over as many examples as there will be."""
    evaluation = run.config.evaluation
    timed = min(RESAMPLES, evaluation.resamples)
    whole = {name: np.resize(column, (examples, *column.shape[1:])) for name, column in columns.items()}
    since = time.perf_counter()
    list(score(task, whole, 0, 0, evaluation.split, timed))
    return (time.perf_counter() - since) * evaluation.resamples / timed


def _saved_bytes(run: TrialRun, folder: Path) -> int:
    """Give the size of what a finished trial keeps of its model.

    Whole weights are counted; an adapter, which is small, is saved, for a tokenizer may lie beside it.
    """
    if not (run.config.trainer.save and run.config.trains):
        return 0
    if run.trains_base:
        return sum(map(_bytes, run.adapted.model.module.parameters()))
    place = folder / "saved"
    place.mkdir()
    run.config.model.save(run.adapted.model, place)
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


# Memory


class Peak:
    """Watches the most memory held since it was made: the process's, or on a GPU that of this process's tensors.

    Args:
        runtime: where trials compute.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.counts = runtime.device.type == "cuda" or _forget_peak()
        if runtime.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(runtime.device)
        self.most = memory(runtime)

    def bytes(self) -> int:
        """Give the most that was held; where the system does not count it, that at the calls of this."""
        if self.runtime.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.runtime.device))
        self.most = max(self.most, (_process_peak() if self.counts else None) or memory(self.runtime))
        return self.most


def _forget_peak() -> bool:
    """Let Linux count the process's peak anew; tell whether it does."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return _process_peak() is not None


def _process_peak() -> int | None:
    """Read the process's peak from Linux."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def memory(runtime: Runtime) -> int:
    """Give what is held now: by the process, or on a GPU by its tensors; bytes."""
    if runtime.device.type == "cuda":
        return int(torch.cuda.memory_allocated(runtime.device))
    return int(psutil.Process().memory_info().rss)


def free_memory(runtime: Runtime) -> int:
    """Give how much memory is left where trials compute; bytes."""
    if runtime.device.type == "cuda":
        return int(torch.cuda.mem_get_info(runtime.device)[0])
    return int(psutil.virtual_memory().available)


def _check_memory(adapted: Adapted, optimizer: str, runtime: Runtime) -> None:
    """Refuse before the system ends the process, which it does where a CPU's memory runs out.

    Raises:
        MemoryError: gradients and the optimizer's state alone need more than there is.
    """
    needed, free = training_bytes(list(adapted.trainable().values()), optimizer), free_memory(runtime)
    if needed > free:
        raise MemoryError(needed)


STATES = {"adamw": 2.0, "adam": 2.0, "sgd": 0.0, "adamw_8bit": 0.5, "paged_adamw_8bit": 0.5}
"""Numbers that an optimizer keeps for each that trains, those in 8 bits as a quarter of one in 32."""


def training_bytes(trainable: Sequence[nn.Parameter], optimizer: str) -> int:
    """Give what gradients and the optimizer's state take."""
    return int(sum(map(_bytes, trainable)) * (1 + STATES[optimizer]))


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
