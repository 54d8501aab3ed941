"""Values of what trains: taken, kept, and put into a module for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def training(module: nn.Module) -> dict[str, nn.Parameter]:
    """Give the parameters that train now, by name."""
    return {name: each for name, each in module.named_parameters() if each.requires_grad}


def placed(values: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Give values by parameters' names where the parameters are: what a checkpoint gave back is on the CPU."""
    parameters = dict(module.named_parameters())
    return {name: value.to(parameters[name].device) for name, value in values.items()}


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Run every part of the module as in evaluation; each has its own mode back afterwards."""
    modes = [each for each in module.modules() if each.training]
    for each in modes:
        each.training = False
    try:
        yield
    finally:
        for each in modes:
            each.training = True


@contextmanager
def holding(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the module be its own teacher: with other values by name, without dropout and without gradients.

    Nothing is copied, and a graph that was built before stays as it is: parameters have their own values back.
    """
    parameters = dict(module.named_parameters())
    own = {name: parameters[name].data for name in values}
    cached = torch.is_autocast_cache_enabled()
    # Autocast would take what it has cast of a parameter's own values, and keep what it casts of these.
    torch.set_autocast_cache_enabled(False)
    try:
        for name, value in values.items():
            parameters[name].data = value
        with without_dropout(module), torch.no_grad():
            yield
    finally:
        for name, value in own.items():
            parameters[name].data = value
        torch.set_autocast_cache_enabled(cached)


class Snapshot:
    """A copy of what trains, each parameter's as it was when it was first asked for.

    To be asked for when a stage begins, and again before its first step: other methods may begin the stage
    later, and choose then what trains in it. What has not trained yet has not changed yet.

    Args:
        taken: the copies by the parameters' names.
    """

    def __init__(self, taken: Mapping[str, Tensor] | None = None) -> None:
        self.taken = dict(taken or {})

    def values(self, module: nn.Module) -> Mapping[str, Tensor]:
        """Give the copies, and take those that are missing."""
        now = training(module).items()
        new = {name: each.detach().clone() for name, each in now if name not in self.taken}
        self.taken = placed(self.taken | new, module)
        return self.taken
