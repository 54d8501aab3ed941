"""What a model predicts on a batch: its logits without those at padding, and how far two models are apart."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from myosotis.interfaces import Batch, Context, Loss, Objective


def objective_of(context: Context) -> Objective:
    """Give the objective of the batch that a loss or a penalty looks at, which all its rows share."""
    task, _ = context.rows[0]
    return context.tasks[task].objective


def logits_of(outputs: Any) -> Tensor:
    """Give the logits of what an objective's forward pass gave: a tensor, or transformers' outputs."""
    logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs.logits
    return logits


def own_logits(outputs: Any, batch: Batch) -> Float[Tensor, "predictions classes"]:
    """Give the logits of all rows, one row's after the other's, without those at padding.

    Args:
        outputs: with logits of shape (rows, classes) or (rows, tokens, classes).
        batch: what they are of; where they are of tokens, its `attention_mask` tells padding, if it has one.
    """
    logits, mask = _logits_and_mask(outputs, batch)
    return logits.flatten(0, 1) if mask is None else logits[mask]


def row_logits(outputs: Any, batch: Batch, row: int) -> Float[Tensor, "predictions classes"]:
    """Give one row's part of `own_logits`."""
    logits, mask = _logits_and_mask(outputs, batch)
    return logits[row] if mask is None else logits[row, mask[row]]


def _logits_and_mask(
    outputs: Any, batch: Batch
) -> tuple[Float[Tensor, "rows tokens classes"], Tensor | None]:
    logits = logits_of(outputs)
    return (logits[:, None], None) if logits.ndim == 2 else (logits, own_tokens(batch))


def own_tokens(batch: Batch) -> Bool[Tensor, "rows tokens"] | None:
    """Tell tokens from padding; None where the batch has no `attention_mask`. A decoder's mask goes before.

    In a mask of what each token sees, shape (rows, 1, tokens, tokens) and 0 where it does, padding is what
    neither sees another token nor is seen by one.
    """
    mask: Tensor | None = batch.get("decoder_attention_mask", batch.get("attention_mask"))
    if mask is None or mask.ndim == 2:
        return None if mask is None else mask.bool()
    sees = mask[:, 0] == 0
    return (sees.sum(dim=1) + sees.sum(dim=2)) > 2


def wide(values: Tensor) -> Tensor:
    """Give values at single precision or more."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def divergence(
    student: Float[Tensor, "predictions classes"],
    teacher: Float[Tensor, "predictions classes"],
    temperature: float = 1.0,
) -> Loss:
    """Give KL(teacher ‖ student) of softmax(logits / temperature), a mean over the predictions, in nats."""
    given, wanted = (torch.log_softmax(wide(logits) / temperature, dim=-1) for logits in (student, teacher))
    return functional.kl_div(given, wanted, reduction="sum", log_target=True) / len(given)
