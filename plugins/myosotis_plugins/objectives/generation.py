"""Writing on from prompts: greedy, in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Model
from myosotis_plugins.quiet import quiet_libraries


def continued(model: Model, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
    """Give what a causal model writes after each prompt, up to its end token; the likeliest token each time.

    Prompts that leave too little of the model's context lose their beginnings.

    Args:
        model: a causal language model.
        prompts: token ids.
        max_new_tokens: after which an answer is cut.

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
    end = model.tokenizer.eos_token_id
    padding = end if model.tokenizer.pad_token_id is None else model.tokenizer.pad_token_id
    device = next(module.parameters()).device
    width = max(map(len, kept))
    # On the left: what is written comes right behind a prompt's last token.
    ids = [[padding or 0] * (width - len(prompt)) + list(prompt) for prompt in kept]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in kept]
    with quiet_libraries():
        written = module.generate(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=padding,
            eos_token_id=end,
        )
    texts: list[str] = model.tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
    return texts
