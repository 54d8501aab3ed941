"""An encoded row as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from myosotis.interfaces import Batch, Model, Piece
from myosotis_plugins.objectives import placed
from myosotis_plugins.objectives.causal import IGNORED


def pieces(batch: Batch, model: Model) -> list[Piece]:
    """Give the tokens of a batch of one row, as they are collated; padding there is none.

    Args:
        batch: of token ids with `labels`, each predicted from those before it, or with targets in their places.
        model: whose tokenizer reads them.
    """
    ids = batch["input_ids"][0]
    if "decoder_input_ids" in batch:
        target = batch[placed.TARGETS][0]
        return [*_pieces(ids, [False] * len(ids), model), *_pieces(target, [True] * len(target), model)]
    if "labels" in batch:
        # The first is predicted from nothing, and is not.
        return _pieces(ids, [False, *(batch["labels"][0, 1:] != IGNORED).tolist()], model)
    targets = batch[placed.TARGETS][0]
    hidden = [_text(int(each), model) if each != IGNORED else "" for each in targets]
    return _pieces(ids, (targets != IGNORED).tolist(), model, hidden)


def _pieces(
    ids: Tensor, trained: Sequence[bool], model: Model, notes: Sequence[str] | None = None
) -> list[Piece]:
    return [
        Piece(_text(int(each), model), predicted, note)
        for each, predicted, note in zip(ids, trained, notes or [""] * len(ids), strict=True)
    ]


def _text(token: int, model: Model) -> str:
    text: str = model.tokenizer.decode([token])
    return text
