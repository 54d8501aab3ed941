"""Softmax regression on the tiny tasks' points: losses, gradients and Fisher information have closed forms."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from myosotis.batches import BatchLoader, EncodedPart, MixedBatch, make_batch, mean_loss
from myosotis.cohort import run_trial
from myosotis.curriculum import MixtureSampler, Part
from myosotis.interfaces import (
    Batch,
    Context,
    Loss,
    Method,
    Model,
    ModelFactory,
    Objective,
    Share,
    Stage,
    Task,
    TrainingRow,
)
from myosotis.testing import tiny_tasks
from myosotis.testing.rehearsal import Rehearsal, registry_without_plugins
from myosotis.workspace import Workspace

CLASSES = 3
FEATURES = 4


class Linear(ModelFactory):
    """One linear layer."""

    def load(self, objectives: Collection[Objective]) -> Model:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Model(nn.Linear(FEATURES, CLASSES))

    def outline(self, objectives: Collection[Objective]) -> Model:
        return Model(nn.Linear(FEATURES, CLASSES, device="meta"))

    def save(self, model: Model, folder: Path) -> None:
        torch.save(model.module.state_dict(), folder / "model.pt")


def points(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Give a task's training points, shape (rows, 4), and their labels as unit vectors, shape (rows, 3)."""
    rows = task.dataset.split("train")
    assert rows is not None
    chosen = [rows[index] for index in range(len(rows))]
    return np.array([row["features"] for row in chosen]), np.eye(CLASSES)[[row["label"] for row in chosen]]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def numbers(module: nn.Module) -> dict[str, np.ndarray]:
    """Copy a module's parameters to NumPy."""
    return {name: each.detach().double().numpy().copy() for name, each in module.named_parameters()}


def loss_gradients(values: Mapping[str, np.ndarray], features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Give each row's gradient of its cross-entropy, (p − y) (x, 1)ᵀ, shape (rows, 3, 4 + 1): weight, then bias."""
    errors = softmax(features @ values["weight"].T + values["bias"]) - labels
    inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    return errors[:, :, None] * inputs[:, None, :]


def split(joined: np.ndarray) -> dict[str, np.ndarray]:
    """Divide what has a column for each weight and one for the bias."""
    return {"weight": joined[:, :-1], "bias": joined[:, -1]}


def fisher(values: Mapping[str, np.ndarray], task: Task) -> dict[str, np.ndarray]:
    """Give the diagonal of the empirical Fisher information over a task's rows, in closed form."""
    return split((loss_gradients(values, *points(task)) ** 2).mean(axis=0))


def context(
    module: nn.Module,
    stage: Stage | None = None,
    tasks: Mapping[str, Task] | None = None,
    mixed: Sequence[str] = (),
    batch_size: int = 4,
    seed: int = 0,
) -> Context:
    """Make the context of a stage, as in a trial.

    Args:
        module: what trains.
        stage: the first task's where not given.
        tasks: the tiny ones where not given.
        mixed: further tasks whose rows are among the stage's, as those that are replayed.
        batch_size: of training.
        seed: of the method's generator.
    """
    tasks = tasks or tiny_tasks()
    stage = stage or Stage(1, {next(iter(tasks)): Share(1, 1)})
    model = Model(module)
    names = [*stage.tasks, *mixed]
    rows = {name: tasks[name].dataset.split("train") for name in names}
    parts = [EncodedPart(tasks[name], tasks[name].objective.encode(rows[name], model)) for name in names]  # type: ignore[arg-type]
    share = Share(1 / len(parts), 1 / len(parts))
    sampler = MixtureSampler(
        [Part(each.task.name, len(each.examples), share) for each in parts], batch_size, 5, seed=0
    )
    loader = BatchLoader(parts, sampler, model)

    def made(kept: Sequence[TrainingRow]) -> MixedBatch:
        return make_batch([(tasks[name], example) for name, example in kept], model)

    return Context(
        model=model,
        tasks=tasks,
        stage=stage,
        step=0,
        steps=5,
        generator=torch.Generator().manual_seed(seed),
        frozen=frozenset(),
        outline=False,
        training_loss=mean_loss,
        training_batches=loader.one_pass,
        make_batch=made,
        stages=tuple(Stage(index, {name: Share(1, 1)}) for index, name in enumerate(tasks, 1)),
    )


def looking_at(context: Context, task: str, rows: Sequence[int]) -> tuple[Batch, Any, Context]:
    """Give a batch of a task's rows, what the module gives for it, and the context that a penalty gets."""
    found = context.tasks[task].dataset.split("train")
    assert found is not None
    examples = context.tasks[task].objective.encode(found, context.model)
    [group] = context.make_batch([(task, examples[index]) for index in rows]).groups
    outputs = group.objective.forward(context.model.module, group.batch)
    return group.batch, outputs, replace(context, rows=group.rows)


@dataclass(eq=False)
class Witness(Method):
    """Write down, beside other methods, what a trial's steps are made of; `see` is called with each batch.

    Attributes:
        see: called with the module, the batch, its outputs and the context.
        begin: called when a stage begins.
        gradients: called before each optimizer step.
    """

    see: Callable[[nn.Module, Batch, Any, Context], None] = lambda *given: None
    begin: Callable[[Context], None] = lambda context: None
    gradients: Callable[[nn.Module, Context], None] = lambda module, context: None
    losses: list[float] = field(default_factory=list)

    def begin_stage(self, stage: Stage, context: Context) -> None:
        self.begin(context)

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        objective = context.tasks[context.rows[0][0]].objective
        self.losses.append(objective.loss(outputs, batch).item())
        self.see(module, batch, outputs, context)
        return None

    def after_backward(self, module: nn.Module, context: Context) -> None:
        self.gradients(module, context)


def train(
    folder: Path,
    methods: Mapping[str, Method],
    factory: ModelFactory | None = None,
    tasks: Mapping[str, Task] | None = None,
    **trainer: Any,
) -> list[dict[str, Any]]:
    """Train tasks one after another in a real trial; give the training log, an entry a step."""
    settings = {"log_every_n_steps": 1, "gradient_clip_val": None, **trainer}
    rehearsal = Rehearsal(folder, factory or Linear(), tasks or tiny_tasks(), Method(), trainer=settings)
    config = replace(rehearsal.config(), methods=methods)
    run_trial(config, folder, "study", "trial", Workspace(folder.parent, registry_without_plugins()))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def flat(values: Mapping[str, np.ndarray] | Mapping[str, Tensor]) -> np.ndarray:
    """Join values by name into one vector."""
    return np.concatenate([np.asarray(values[name], dtype=np.float64).ravel() for name in sorted(values)])
