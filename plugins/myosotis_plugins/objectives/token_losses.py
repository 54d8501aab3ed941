"""What objectives share that predict tokens, the next ones or those at marked places, as the batch says."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any

from torch import nn

from myosotis.interfaces import Batch, Example, Logits, Loss, Model, Objective
from myosotis_plugins.objectives import causal, placed


class TokenObjective(Objective, ABC):
    """Predicts the tokens of `labels` from those before them, or where there are targets, those at their places."""

    def forward(self, module: nn.Module, batch: Batch) -> Any:
        """Give the logits."""
        return placed.logits(module, batch) if placed.TARGETS in batch else causal.logits(module, batch)

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Give the mean over the tokens that are predicted."""
        if placed.TARGETS in batch:
            return placed.mean_loss(outputs, batch[placed.TARGETS])
        return causal.mean_token_loss(outputs, batch["labels"])

    def count(self, batch: Batch) -> int:
        """Count the tokens that are predicted."""
        if placed.TARGETS in batch:
            return placed.count(batch[placed.TARGETS])
        return causal.count(batch["labels"])

    def predicted_logits(
        self, module: nn.Module, examples: Sequence[Example], model: Model
    ) -> Sequence[Logits]:
        """Give the logits of each predicted token."""
        batch = causal.on_device(self.collate(examples, model), module)
        if placed.TARGETS in batch:
            return placed.predicted_logits(module, batch)
        return causal.predicted_logits(module, batch)
