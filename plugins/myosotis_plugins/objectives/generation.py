"""Letting a model write, in one batch: the likeliest token each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Model
from myosotis_plugins.objectives.placed import encoder_batch, padding
from myosotis_plugins.quiet import quiet_libraries


def continued(
    model: Model, prompts: Sequence[Sequence[int]], max_new_tokens: int, ends: Sequence[int] = ()
) -> list[str]:
    """Give what a causal model writes after each prompt, up to an end token; the likeliest token each time.

    Prompts that leave too little of the model's context lose their beginnings.

    Args:
        model: a causal language model.
        prompts: token ids.
        max_new_tokens: after which an answer is cut.
        ends: tokens beside the tokenizer's end that end an answer, too.

    Raises:
        ConfigurationError: the model's context is no longer than the answer.
    """
    module: Any = model.module
    context = getattr(module.config, "max_position_embeddings", None)
    if context is not None and context <= max_new_tokens:
        raise ConfigurationError(
            f"an answer must leave room for its prompt in the model's {context} tokens, but may have "
            f"{max_new_tokens}"
        )
    kept = [prompt[-(context - max_new_tokens) :] if context else prompt for prompt in prompts]
    width = max(map(len, kept))
    # On the left: what is written comes right behind a prompt's last token.
    ids = [[padding(model)] * (width - len(prompt)) + list(prompt) for prompt in kept]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in kept]
    written = _written(model, torch.tensor(ids), torch.tensor(mask), max_new_tokens, ends)
    return _texts(model, written[:, width:])


def transduced(model: Model, sources: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
    """Give what a model with an encoder and a decoder writes for each source, up to its end token."""
    batch = encoder_batch(sources, model)
    # The first token that is written is where the decoder begins.
    return _texts(model, _written(model, batch["input_ids"], batch["attention_mask"], max_new_tokens)[:, 1:])


def greedy(max_new_tokens: int) -> str:
    """Say in words how texts are written."""
    return f"greedy, at most {max_new_tokens} new tokens"


def _written(
    model: Model, ids: Tensor, mask: Tensor, max_new_tokens: int, ends: Sequence[int] = ()
) -> Tensor:
    module: Any = model.module
    ends = [each for each in (model.tokenizer.eos_token_id, *ends) if each is not None]
    device = next(module.parameters()).device
    with quiet_libraries():
        written: Tensor = module.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=padding(model),
            eos_token_id=ends or None,
        )
    return written


def _texts(model: Model, written: Tensor) -> list[str]:
    texts: list[str] = model.tokenizer.batch_decode(written, skip_special_tokens=True)
    return texts
