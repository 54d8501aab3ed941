"""Scoring a model on a task: predictions in batches, metrics, and intervals over examples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from myosotis.comparison import compared
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Columns, Example, Logits, Metric, Model, Task
from myosotis.ledger import Score
from myosotis.ranks import ALONE, Ranks

LEVEL = 0.95


@dataclass(frozen=True)
class Runtime:
    """Where and how precisely a trial computes; the same for its base row, training and evaluation.

    Attributes:
        divide: copies a module, of which each of several processes has a part on its device; they compute together.
    """

    device: torch.device
    precision: str
    divide: Callable[[nn.Module], nn.Module] | None = None

    @property
    def home(self) -> torch.device:
        """Where whole modules are: where they compute, or in main memory where copies compute in parts."""
        return self.device if self.divide is None else torch.device("cpu")

    def placed(self, module: nn.Module) -> nn.Module:
        """Give a module as it can compute: on the device, or a divided copy of it as it is now."""
        return module.to(self.device) if self.divide is None else self.divide(module)

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Run the model's forward passes at the trial's precision."""
        types = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        if self.precision not in types:
            yield
            return
        with torch.autocast(self.device.type, dtype=types[self.precision]):
            yield


def choose_runtime(accelerator: str, precision: str) -> Runtime:
    """Choose the device as Lightning's `accelerator` does.

    Raises:
        ConfigurationError: there is no such device.
    """
    if accelerator in {"gpu", "cuda"} and not torch.cuda.is_available():
        raise ConfigurationError(
            f"trainer.accelerator={accelerator} must have a GPU that torch sees, but there is none; "
            "use trainer.accelerator=cpu, or look at the driver and at the build of torch"
        )
    device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    return Runtime(torch.device(device), precision)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch every module to evaluation, and give each its own mode back."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for each, mode in modes:
            each.training = mode


def predict(
    task: Task,
    examples: Sequence[Example],
    model: Model,
    batch_size: int,
    runtime: Runtime,
    base: nn.Module | None,
    ranks: Ranks = ALONE,
) -> Columns:
    """Predict examples in batches; each column is as long as the examples are many.

    Args:
        task: what is predicted.
        examples: encoded for the model.
        model: what predicts.
        batch_size: examples at once.
        runtime: where to compute.
        base: the untouched base, which runs over the same batches where a metric compares with it; else None.
        ranks: the processes that have the same model; each is given all columns. They take the batches in turn,
            but where the model is divided among them, every batch together.
    """
    own = base is model.module
    model = replace(model, module=runtime.placed(model.module))
    if base is not None and task.compares:
        base = model.module if own else runtime.placed(base)
    if runtime.divide is not None:
        ranks = ALONE
    made: dict[int, Columns] = {}
    with evaluating(model.module), runtime.forward():
        for number, start in enumerate(range(0, len(examples), batch_size)):
            if number % ranks.count != ranks.rank:
                continue
            batch = [examples[index] for index in range(start, min(start + batch_size, len(examples)))]
            wanted = base_logits(task, base, batch, model)
            made[number] = predict_batch(task, model.module, batch, model, wanted)
    made = {number: part for each in ranks.gathered(made) for number, part in each.items()}
    parts = [made[number] for number in sorted(made)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def base_logits(
    task: Task, base: nn.Module | None, examples: Sequence[Example], model: Model
) -> Sequence[Logits]:
    """Give the base's logits for one batch; none where no metric compares with them."""
    if not task.compares:
        return ()
    assert base is not None
    with evaluating(base):
        return task.objective.predicted_logits(base, examples, model)


def predict_batch(
    task: Task, module: nn.Module, examples: Sequence[Example], model: Model, base: Sequence[Logits]
) -> Columns:
    """Predict one batch, let the module write where a metric asks for it, and compare where one does."""
    columns = {} if model.text_only else task.objective.predict(module, examples, model)
    if any(metric.generates for metric in task.metrics.values()):
        columns = {**columns, **task.objective.generate(module, examples, model)}
    if task.compares:
        own = task.objective.predicted_logits(module, examples, model)
        columns = {**columns, **compared(own, base)}
    return columns


def interval(metric: Metric, columns: Columns, resamples: int) -> tuple[float, float]:
    """Give the 95 % percentile-bootstrap interval of a metric over examples (Efron 1979), of prepared columns."""
    generator = np.random.default_rng(0)
    size = len(next(iter(columns.values())))
    values = np.empty(resamples)
    for resample in range(resamples):
        chosen = generator.integers(size, size=size)
        values[resample] = metric.value({name: column[chosen] for name, column in columns.items()})
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def score(task: Task, columns: Columns, stage: int, step: int, split: str, resamples: int) -> Iterator[Score]:
    """Score predictions by every metric of the task."""
    for name, metric in task.metrics.items():
        prepared = metric.prepare(columns)
        low, high = interval(metric, prepared, resamples)
        yield Score(
            stage,
            step,
            task.name,
            split,
            name,
            float(metric.value(prepared)),
            metric.count(prepared),
            low,
            high,
            metric.settings(columns),
        )
