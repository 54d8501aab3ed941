"""What of a trial survives a kill: what training changed, its methods' state, and what it has cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from myosotis.adaptation import Adapted
from myosotis.interfaces import Method


@dataclass
class Costs:
    """What a trial has taken so far, over all the processes that it ran in."""

    seconds: float = 0.0
    training_seconds: float = 0.0
    tokens: int = 0
    steps: int = 0
    realised: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A trial after a finished stage.

    Attributes:
        stage: the finished stage's index.
        changed: parameters that train and buffers, by name.
        methods: each method's state.
    """

    stage: int
    changed: Mapping[str, torch.Tensor]
    methods: Mapping[str, dict[str, Any]]
    costs: Costs

    @classmethod
    def of(cls, stage: int, adapted: Adapted, methods: Mapping[str, Method], costs: Costs) -> Checkpoint:
        """Take a trial's state."""
        changed = {name: value.detach().cpu() for name, value in changing(adapted).items()}
        return cls(stage, changed, {name: method.state_dict() for name, method in methods.items()}, costs)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint; nothing in it can run code."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        return cls(state["stage"], state["changed"], state["methods"], Costs(**state["costs"]))

    def write(self, path: Path) -> None:
        """Write the checkpoint: whole, or not at all."""
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".partial")
        torch.save({**vars(self), "costs": vars(self.costs)}, temporary)
        temporary.replace(path)

    def restore(self, adapted: Adapted, methods: Mapping[str, Method]) -> None:
        """Give a trial that was set up anew its state back."""
        current = changing(adapted)
        with torch.no_grad():
            for name, value in self.changed.items():
                current[name].copy_(value)
        for name, method in methods.items():
            method.load_state_dict(self.methods[name])


def changing(adapted: Adapted) -> dict[str, torch.Tensor]:
    """Give what training changes: parameters that train, and buffers that are saved."""
    module = adapted.model.module
    trainable = adapted.trainable()
    persistent = (
        module.state_dict(keep_vars=True).keys()
        - dict(module.named_parameters(remove_duplicate=False)).keys()
    )
    buffers = {name: value for name, value in module.named_buffers() if name in persistent}
    return {**{name: parameter.data for name, parameter in trainable.items()}, **buffers}
