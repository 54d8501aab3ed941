"""Selective token masking."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Batch, Context, Loss, Method, Objective, Stage
from myosotis_plugins.methods.predictions import logits_of, objective_of
from myosotis_plugins.methods.snapshots import Snapshot, holding
from myosotis_plugins.objectives.causal import IGNORED

MYOSOTIS_API = 1


class TokenMasking(Method):
    """Leave out of the loss the tokens that surprise the base: those with a perplexity 1 / p above a threshold.

    p is the probability that the base gives to the token after those before it; the base is the model with
    the first values of what trains. The loss is the task's own on what is left, so a mean over fewer tokens;
    where nothing is left of a batch it is 0, with a gradient of 0. The paper marks the tokens once, before
    training; here they are marked each time that a row comes by, which gives the same marks.

    Cost: one further forward pass a batch, for which the module holds its first values, a second set of
    logits, and one copy of what trains, in memory and in checkpoints: small with adapters, the whole model
    with full fine-tuning.

    Args:
        threshold: the highest perplexity of a token that is trained on, at least 1; `inf` masks nothing.
    """

    paper = (
        "Wu et al. 2025, Mitigating Forgetting in LLM Fine-Tuning via Low-Perplexity Token Learning, "
        "arXiv:2501.14315"
    )
    stores = "the first values of what trains"

    def __init__(self, threshold: float = 2.5) -> None:
        if not threshold >= 1:
            raise ConfigurationError(f"threshold must be at least 1, a certain token's, but got {threshold}")
        self.threshold = threshold
        self.first = Snapshot()
        self.known: set[Objective] = set()

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Copy what has not trained before."""
        if self.threshold < math.inf:
            self.first.values(context.model.module)

    def loss(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        """Give the task's loss over the tokens that do not surprise the base.

        Raises:
            ConfigurationError: the objective does not predict next tokens.
        """
        if self.threshold == math.inf:
            return None
        objective = objective_of(context)
        with holding(module, self.first.values(module)):
            untrained = objective.forward(module, batch)
        losses = self._token_losses(objective, untrained, batch)
        labels = batch["labels"].clone()
        labels[:, 1:][losses > math.log(self.threshold)] = IGNORED
        if (labels[:, 1:] == IGNORED).all():
            # The mean of no tokens is not a number; the sum of no rows is 0, and has a gradient of 0.
            return logits_of(outputs)[:0].sum()
        return objective.loss(outputs, {**batch, "labels": labels})

    def _token_losses(self, objective: Objective, outputs: Any, batch: Batch) -> Float[Tensor, "rows next"]:
        logits, labels = logits_of(outputs), batch.get("labels")
        if labels is None or labels.ndim != 2 or logits.ndim != 3 or logits.shape[:2] != labels.shape:
            raise ConfigurationError(_refusal(objective))
        losses = next_token_losses(logits, labels)
        if objective not in self.known:
            own = losses.sum() / (labels[:, 1:] != IGNORED).sum()
            if not torch.isclose(own, objective.loss(outputs, batch).float(), rtol=1e-3):
                raise ConfigurationError(_refusal(objective))
            self.known.add(objective)
        return losses

    def state_dict(self) -> dict[str, Any]:
        """Give the first values."""
        return {"first": self.first.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.first = Snapshot(state["first"])


def next_token_losses(
    logits: Float[Tensor, "rows tokens vocabulary"], labels: Int[Tensor, "rows tokens"]
) -> Float[Tensor, "rows next"]:
    """Give the cross-entropy of each token but the first, in nats; 0 where it is not trained on."""
    predicted = logits[:, :-1].transpose(1, 2).float()
    return functional.cross_entropy(predicted, labels[:, 1:], ignore_index=IGNORED, reduction="none")


def _refusal(objective: Objective) -> str:
    return (
        "token_masking must have tasks that predict next tokens, with labels (rows, tokens) of which the loss "
        f"is the mean cross-entropy, but the objective {type(objective).__name__} is none; leave it out"
    )


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"token_masking": TokenMasking}
