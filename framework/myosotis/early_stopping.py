"""Ending a stage once the loss on held-out rows no longer falls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from myosotis.schema import EarlyStoppingConfig


@dataclass
class EarlyStopping:
    """Watches a trial's loss on held-out rows during one stage.

    Attributes:
        best: the lowest loss so far.
        waited: checks since then.
        values: what training changes, as it was then; empty where it is not to be put back.
    """

    config: EarlyStoppingConfig
    best: float = math.inf
    waited: int = 0
    values: dict[str, Tensor] = field(default_factory=dict)

    def due(self, step: int, last: int) -> bool:
        """Tell whether to look after this step; the last one counts too."""
        return self.config.patience is not None and (step % self.config.every_n_steps == 0 or step == last)

    def observe(self, loss: float, changing: Mapping[str, Tensor]) -> bool:
        """Take a loss in; tell whether the stage is to end. One that is not a number is no improvement.

        Args:
            loss: on the held-out rows.
            changing: what training changes, by name: parameters and buffers.
        """
        if loss < self.best - self.config.min_delta:
            self.best, self.waited = loss, 0
            if self.config.restore_best:
                self.values = {name: each.detach().to("cpu", copy=True) for name, each in changing.items()}
        else:
            self.waited += 1
        return self.config.patience is not None and self.waited >= self.config.patience

    def restore(self, changing: Mapping[str, Tensor]) -> None:
        """Put back what training changed as it was at the lowest loss."""
        with torch.no_grad():
            for name, value in self.values.items():
                changing[name].copy_(value)

    def state(self) -> dict[str, Any]:
        """Give what must survive a kill."""
        return {"best": self.best, "waited": self.waited, "values": self.values}

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        for name, value in state.items():
            setattr(self, name, value)
