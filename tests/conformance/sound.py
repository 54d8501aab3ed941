"""Sound methods for what the toys do not do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from myosotis.errors import ConfigurationError
from myosotis.interfaces import (
    Batch,
    Context,
    Loss,
    Method,
    Model,
)


def training(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: each for name, each in module.named_parameters() if each.requires_grad}


class Lag(Method):
    """Pull towards the mean of all steps so far, of earlier stages too, with noise of its own."""

    stores = "the mean, and how many steps it is of"
    anchored = False

    def __init__(self) -> None:
        self.mean: dict[str, torch.Tensor] = {}
        self.steps = 0

    def after_step(self, module: nn.Module, context: Context) -> None:
        self.steps += 1
        for name, parameter in training(module).items():
            mean = self.mean.setdefault(name, torch.zeros_like(parameter))
            mean += (parameter.detach() - mean) / self.steps

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        if not self.mean:
            return None
        noise = torch.rand((), generator=context.generator)
        distances = [((each - self.mean[name]) ** 2).sum() for name, each in training(module).items()]
        return (1 + noise) * torch.stack(distances).sum()

    def state_dict(self) -> dict[str, Any]:
        return {"mean": {name: each.clone() for name, each in self.mean.items()}, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean, self.steps = state["mean"], state["steps"]


class Halves(Method):
    """Make a model of half the weights."""

    def variants(self, module: nn.Module, context: Context) -> Mapping[str, Callable[[], Any]]:
        return {"half": lambda: self.halved(module)}

    @contextmanager
    def halved(self, module: nn.Module) -> Iterator[None]:
        before = {name: each.detach().clone() for name, each in training(module).items()}
        with torch.no_grad():
            for parameter in training(module).values():
                parameter.mul_(0.5)
            yield
            self.put_back(module, before)

    def put_back(self, module: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
        for name, value in before.items():
            module.get_parameter(name).copy_(value)


class Choosy(Method):
    """Refuse lower precision and quantized weights."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        if any(not parameter.is_floating_point() for parameter in model.module.parameters()):
            raise ConfigurationError("the base must not be quantized, but is")
        return model.module

    def loss(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        if torch.is_autocast_enabled("cpu"):
            raise ConfigurationError("trainer.precision must be 32-true, but is bf16-mixed")
        return None
