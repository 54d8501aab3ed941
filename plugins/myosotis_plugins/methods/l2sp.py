"""Pulling towards the starting point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Batch, Context, Loss, Method, Stage
from myosotis_plugins.methods.snapshots import Snapshot, training

MYOSOTIS_API = 1


class L2SP(Method):
    """Pull everything that trains towards where it started: strength / 2 · Σ_i (θ_i − θ0_i)².

    An adapter's start is what PEFT gave it, mostly a change of nothing. Departs from the paper in that a new
    output layer has no decay of its own: its start is how it was initialised.

    Cost: one copy of what trains; no further pass.

    Args:
        strength: the paper's α; 0 does nothing.
        anchor: `base`: as it was before any training; `stage`: as it was when the stage began.
    """

    paper = (
        "Li et al. 2018, Explicit Inductive Bias for Transfer Learning with Convolutional Networks, "
        "arXiv:1802.01483"
    )
    stores = "one copy of what trains"

    def __init__(self, strength: float = 0.01, anchor: Literal["base", "stage"] = "base") -> None:
        if strength < 0:
            raise ConfigurationError(f"strength must be at least 0, but got {strength}")
        if anchor not in ("base", "stage"):
            raise ConfigurationError(f"anchor must be base or stage, but got {anchor!r}")
        self.strength = strength
        self.anchor = anchor
        self.anchored = anchor == "stage"
        self.start = Snapshot()

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Take note of where the stage, or all training, begins."""
        if self.strength == 0:
            return
        if self.anchor == "stage":
            self.start = Snapshot()
        self.start.values(context.model.module)

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        """Give the squared distance."""
        if self.strength == 0:
            return None
        start = self.start.values(module)
        distances = [((each - start[name]) ** 2).sum() for name, each in training(module).items()]
        return self.strength / 2 * torch.stack(distances).sum()

    def state_dict(self) -> dict[str, Any]:
        """Give the start."""
        return {"start": self.start.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.start = Snapshot(state["start"])


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"l2sp": L2SP}
