"""Learning without forgetting."""

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


class LwF(Method):
    """Keep predicting, on each stage's own rows, what the model predicted before the stage.

    penalty = strength · KL(softmax(z' / T) ‖ softmax(z / T)), with z' the logits of the model as it was when
    the stage began and z those of now; a mean over all rows, in language models over all tokens that are not
    padding, a prompt's too. The first stage that trains has none. Departs from the paper, which has a head
    for each task and distils into the old ones only: here all outputs count, those of a new task too. Its
    cross-entropy differs from this by what no gradient depends on; like it, this is not multiplied by T².

    Cost: from the second stage on one further forward pass a batch, for which the module holds its earlier
    values, a second set of logits, and one copy of what trains.

    Args:
        strength: the paper's λ; 0 does nothing.
        temperature: T.
    """

    paper = "Li and Hoiem 2016, Learning without Forgetting, arXiv:1606.09282"
    stores = "one copy of what trains, while a stage trains"

    def __init__(self, strength: float = 1.0, temperature: float = 2.0) -> None:
        if strength < 0:
            raise ConfigurationError(f"strength must be at least 0, but got {strength}")
        if temperature <= 0:
            raise ConfigurationError(f"temperature must be greater than 0, but got {temperature}")
        self.strength = strength
        self.temperature = temperature
        self.has_learned = False
        self.earlier = Snapshot()

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Copy the teacher."""
        if self.strength and self.has_learned:
            self.earlier.values(context.model.module)

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        """Give how far the predictions have moved; None in the first stage."""
        if self.strength == 0 or not self.has_learned:
            return None
        with holding(module, self.earlier.values(module)):
            wanted = objective_of(context).forward(module, batch)
        apart = divergence(own_logits(outputs, batch), own_logits(wanted, batch), self.temperature)
        return self.strength * apart

    def end_stage(self, stage: Stage, context: Context) -> None:
        """Let go of the teacher: the next stage has another."""
        self.has_learned = True
        self.earlier = Snapshot()

    def state_dict(self) -> dict[str, Any]:
        """Give the teacher's values."""
        return {"has_learned": self.has_learned, "earlier": self.earlier.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.has_learned = state["has_learned"]
        self.earlier = Snapshot(state["earlier"])


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"lwf": LwF}
