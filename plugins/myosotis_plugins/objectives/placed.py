"""What objectives share whose targets stand where they are predicted: labels, masked tokens, translations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from myosotis.interfaces import Batch, Columns, Logits, Model
from myosotis_plugins.objectives.causal import IGNORED, padded

TARGETS = "targets"
"""The batch's entry that is no input of the model."""


def logits(module: nn.Module, batch: Batch) -> Tensor:
    """Run a model over a batch."""
    output: Tensor = module(**{name: value for name, value in batch.items() if name != TARGETS}).logits
    return output


def mean_loss(scores: Float[Tensor, "*places classes"], targets: Int[Tensor, "*places"]) -> Float[Tensor, ""]:
    """Give the mean cross-entropy over the places that have a target; nats, 0 where none has."""
    total = functional.cross_entropy(
        scores.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (targets != IGNORED).sum().clamp(min=1)


def count(targets: Int[Tensor, "*places"]) -> int:
    """Count the places that have a target."""
    return int((targets != IGNORED).sum())


def row_losses(scores: Float[Tensor, "rows places classes"], targets: Int[Tensor, "rows places"]) -> Columns:
    """Give, for each row, the sum of its losses in nats and how many there are."""
    losses = functional.cross_entropy(
        scores.transpose(1, 2).float(), targets, ignore_index=IGNORED, reduction="none"
    )
    return {
        "loss": losses.sum(dim=1, dtype=torch.float64).cpu().numpy(),
        "tokens": (targets != IGNORED).sum(dim=1).cpu().numpy(),
    }


def predicted_logits(module: nn.Module, batch: Batch) -> list[Logits]:
    """Give each row's logits at the places that have a target."""
    return [row[own] for row, own in zip(logits(module, batch), batch[TARGETS] != IGNORED, strict=True)]


def encoder_batch(rows: Sequence[Sequence[int]], model: Model) -> dict[str, Tensor]:
    """Pad rows to one length, with the tokenizer's padding, by which some models find a row's last token."""
    return {
        "input_ids": padded(rows, padding(model)),
        "attention_mask": padded([[1] * len(row) for row in rows], 0),
    }


def padding(model: Model) -> int:
    """Give the token that rows are filled up with: the tokenizer's own, else its last, else the first."""
    tokenizer: Any = model.tokenizer
    return next((each for each in (tokenizer.pad_token_id, tokenizer.eos_token_id) if each is not None), 0)
