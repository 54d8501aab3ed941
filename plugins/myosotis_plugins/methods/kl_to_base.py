"""Staying near the base's predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Batch, Context, Loss, Method, Stage
from myosotis_plugins.methods.predictions import divergence, objective_of, own_logits
from myosotis_plugins.methods.snapshots import Snapshot, holding

MYOSOTIS_API = 1


class KLToBase(Method):
    """Stay near what the base predicts on the rows that are trained on: strength · KL(base ‖ tuned).

    A mean over all rows, in language models over all tokens that are not padding, a prompt's too. The base is
    the model before any training, with the first values of what trains. Adapters begin as a change of
    nothing; virtual tokens do not, so that with them it is the model with the first ones. The paper measures
    this divergence; here it is a penalty.

    Cost: one further forward pass a batch, for which the module holds its first values, a second set of
    logits, and one copy of what trains, in memory and in checkpoints: small with adapters, the whole model
    with full fine-tuning.

    Args:
        strength: its weight beside the task's loss; 0 does nothing.
    """

    paper = (
        "Shenfeld et al. 2025, RL's Razor: Why Online Reinforcement Learning Forgets Less, arXiv:2509.04259"
    )
    stores = "the first values of what trains"
    anchored = False

    def __init__(self, strength: float = 0.1) -> None:
        if strength < 0:
            raise ConfigurationError(f"strength must be at least 0, but got {strength}")
        self.strength = strength
        self.first = Snapshot()

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Copy what has not trained before."""
        if self.strength:
            self.first.values(context.model.module)

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        """Give how far the predictions are from the base's."""
        if self.strength == 0:
            return None
        with holding(module, self.first.values(module)):
            wanted = objective_of(context).forward(module, batch)
        return self.strength * divergence(own_logits(outputs, batch), own_logits(wanted, batch))

    def state_dict(self) -> dict[str, Any]:
        """Give the first values."""
        return {"first": self.first.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.first = Snapshot(state["first"])


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"kl_to_base": KLToBase}
