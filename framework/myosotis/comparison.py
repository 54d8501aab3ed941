"""How far a model's predictions are from another's on the same examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from myosotis.interfaces import Columns, Logits


def compared(own: Sequence[Logits], base: Sequence[Logits]) -> Columns:
    """Compare predictions with the base's, example by example; logarithms in nats, at single precision or more.

    With p the base's probabilities and q the model's own, each a softmax over the classes of one prediction, an
    example has its number of `predictions`, and as sums over them `agreeing`, how often argmax q = argmax p, the
    cross-entropy −Σ p log q, and the divergence KL(p ‖ q) = Σ p (log p − log q).

    Args:
        own: each example's logits by the model.
        base: the same by the base.
    """
    rows = [_example(*pair) for pair in zip(own, base, strict=True)]
    names = ("predictions", "agreeing", "cross_entropy_against_base", "kl_against_base")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _example(own: Logits, base: Logits) -> tuple[int, int, float, float]:
    given, wanted = (_wide(logits).log_softmax(dim=-1) for logits in (own, base))
    # What the base holds for impossible counts nothing; 0 times minus infinity would be no number.
    weight, possible = wanted.exp(), wanted > -torch.inf
    cross = torch.where(possible, -weight * given, 0)
    apart = torch.where(possible, weight * (wanted - given), 0)
    agreeing = own.argmax(dim=-1) == base.argmax(dim=-1)
    return len(own), int(agreeing.sum()), _sum(cross), _sum(apart)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _sum(values: Tensor) -> float:
    return float(values.sum(dtype=torch.float64))
