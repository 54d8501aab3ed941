"""Further toy plugins: a model without dropout, a method that remembers, one that writes down its calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from myosotis import hookimpl
from myosotis.interfaces import (
    Batch,
    Context,
    Loss,
    Method,
    Mixture,
    Model,
    ModelFactory,
    Objective,
    Rows,
    Stage,
    Task,
)
from tests.toy import ToyModel

MYOSOTIS_API = 1

CALLS: list[tuple[Any, ...]] = []
"""What the observers and the method `diary` saw, in order."""


class CalmModel(ToyModel):
    """The toy model without dropout."""

    def load(self, objectives: Collection[Objective]) -> Model:
        model = super().load(objectives)
        model.module[2].p = 0.0  # type: ignore[index]
        return model


class Remember(Method):
    """Pull the weights towards their average over all steps so far, of earlier stages too."""

    stores = "one copy of the weights"

    def __init__(self) -> None:
        self.average: dict[str, torch.Tensor] = {}
        self.steps = 0

    def after_step(self, module: nn.Module, context: Context) -> None:
        self.steps += 1
        for name, parameter in module.named_parameters():
            old = self.average.get(name, torch.zeros_like(parameter))
            self.average[name] = old + (parameter.detach() - old) / self.steps

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        if not self.average:
            return None
        named = module.named_parameters()
        return torch.stack([((each - self.average[name]) ** 2).sum() for name, each in named]).sum()

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average, self.steps = state["average"], state["steps"]


class Diary(Method):
    """Does nothing, and writes down every call."""

    def frozen(self, model: Model) -> Collection[str]:
        CALLS.append(("frozen",))
        return ()

    def adapt(self, model: Model, context: Context) -> nn.Module:
        CALLS.append(("adapt", context.outline, context.stage.index))
        return model.module

    def base_weights(self) -> Path | None:
        CALLS.append(("base_weights",))
        return Path("tuned")

    def training_data(
        self, stage: Stage, data: Mixture, seen: Mapping[str, Rows], context: Context
    ) -> Mixture:
        CALLS.append(("training_data", stage.index, [each.task for each in data], sorted(seen)))
        return data

    def evaluation_data(self, task: Task, data: Rows, context: Context) -> Rows:
        CALLS.append(("evaluation_data", task.name, len(data), context.stage.index))
        return data

    def parameter_groups(self, module: nn.Module, context: Context) -> list[dict[str, Any]] | None:
        CALLS.append(("parameter_groups", context.stage.index, context.steps))
        return None

    def begin_stage(self, stage: Stage, context: Context) -> None:
        CALLS.append(("begin_stage", stage.index, context.step, context.steps))
        batches = list(context.training_batches(40))
        CALLS.append(("training_batches", [len(batch.rows) for batch in batches]))
        assert context.training_loss(context.model.module, batches[0]).shape == ()

    def loss(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        CALLS.append(("loss", context.stage.index, context.step))
        return None

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        CALLS.append(("penalty", context.stage.index, context.step))
        return None

    def after_backward(self, module: nn.Module, context: Context) -> None:
        assert all(parameter.grad is not None for parameter in module.parameters())
        CALLS.append(("after_backward", context.stage.index, context.step))

    def after_step(self, module: nn.Module, context: Context) -> None:
        CALLS.append(("after_step", context.stage.index, context.step))

    def end_stage(self, stage: Stage, context: Context) -> None:
        CALLS.append(("end_stage", stage.index, context.step))

    def before_evaluation(self, task: Task, context: Context) -> None:
        CALLS.append(("before_evaluation", task.name, context.stage.index))

    def variants(self, module: nn.Module, context: Context) -> Mapping[str, Callable[[], nn.Module]]:
        CALLS.append(("variants",))
        return {}

    def state_dict(self) -> dict[str, Any]:
        CALLS.append(("state_dict",))
        return {"kept": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        CALLS.append(("load_state_dict", state))


@hookimpl
def myosotis_models() -> Mapping[str, type[ModelFactory]]:
    return {"calm": CalmModel}


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    return {"remember": Remember, "diary": Diary}


@hookimpl
def myosotis_trial_started(trial: str, folder: Path) -> None:
    CALLS.append(("trial_started", trial, folder))


@hookimpl
def myosotis_stage_finished(trial: str, folder: Path, stage: int, scores: Any) -> None:
    CALLS.append(("stage_finished", trial, folder, stage, list(scores)))
    # Stands for whatever may end a trial here.
    if os.environ.get("TESTS_STOP_AFTER_STAGE") == str(stage):
        raise RuntimeError(f"stopped after stage {stage}")


@hookimpl
def myosotis_trial_finished(trial: str, folder: Path, status: str) -> None:
    CALLS.append(("trial_finished", trial, folder, status))


@hookimpl
def myosotis_study_finished(study: str, folder: Path) -> None:
    CALLS.append(("study_finished", study, folder))
