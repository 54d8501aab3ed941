"""Predicting masked tokens, as encoders are pretrained."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch

from myosotis.errors import ModelError
from myosotis.interfaces import Batch, Example, Model
from myosotis_plugins.objectives import placed
from myosotis_plugins.objectives.causal import IGNORED, additive_mask, padded

MASKED, REPLACED = 0.8, 0.1
"""Of the tokens that are predicted, the shares that become the mask and another token (Devlin et al. 2019)."""


def masked(example: Example, share: float, model: Model) -> Example:
    """Choose a share of a block's tokens, and hide most of them.

    The choice comes of the block itself: the same in every epoch and in every process, as in BERT's own data and
    unlike RoBERTa's, so that scores compare and a trial goes on to the same numbers.

    Raises:
        ModelError: the tokenizer has no mask.
    """
    tokenizer = model.tokenizer
    if tokenizer.mask_token_id is None:
        raise ModelError(
            "language modelling of an encoder must have a tokenizer with a mask, but this one has none"
        )
    ids = np.asarray(example["input_ids"], dtype=np.int64)
    generator = np.random.default_rng(zlib.crc32(ids.tobytes()))
    own = np.flatnonzero(~np.isin(ids, tokenizer.all_special_ids))
    count = max(1, round(share * len(own)))
    chosen = np.sort(generator.permutation(own)[:count])
    fate = generator.random(len(chosen))
    hidden = ids.copy()
    hidden[chosen[fate < MASKED]] = tokenizer.mask_token_id
    replaced = chosen[(fate >= MASKED) & (fate < MASKED + REPLACED)]
    hidden[replaced] = generator.integers(len(tokenizer), size=len(replaced))
    targets = np.full_like(ids, IGNORED)
    targets[chosen] = ids[chosen]
    return {**example, "input_ids": hidden, placed.TARGETS: targets}


def joined_batch(examples: Sequence[Example]) -> Batch:
    """Stack blocks of one length."""
    return {
        name: torch.from_numpy(np.stack([example[name] for example in examples]))
        for name in ("input_ids", placed.TARGETS)
    }


def isolated_batch(examples: Sequence[Example], model: Model) -> Batch:
    """Pad blocks of whole documents, each token of which sees its own document alone."""
    documents = padded([example["document"] for example in examples], -1)
    same = (documents[:, :, None] == documents[:, None, :]) & (documents >= 0)[:, :, None]
    return {
        "input_ids": padded([example["input_ids"].tolist() for example in examples], placed.padding(model)),
        placed.TARGETS: padded([example[placed.TARGETS].tolist() for example in examples], IGNORED),
        "position_ids": padded([example["position"] for example in examples], 0),
        "attention_mask": additive_mask(same),
    }
