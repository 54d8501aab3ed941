"""What prefix and prompt tuning share: tokens that every row begins with, which no objective sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Model
from myosotis_plugins.methods.peft_adapters import check_bare, task_type
from myosotis_plugins.methods.wrapper import Wrapper
from myosotis_plugins.quiet import quiet_libraries


class VirtualTokens(Wrapper):
    """PEFT's model, called as the base is: with any mask and positions, for the logits of the real tokens.

    PEFT's own forward pass takes no masks of four dimensions, ignores positions under prompt tuning, and there
    gives logits of the virtual tokens as well. Real tokens see all virtual ones, and count positions after them.
    """

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Call the base with the virtual tokens before every row.

        Args:
            input_ids: shape (rows, tokens).
            attention_mask: shape (rows, tokens), 0 for padding; or (rows, 1, tokens, tokens), added to the scores.
            position_ids: shape (rows, tokens).
            options: passed on.
        """
        if self._adapters_disabled:  # inside PEFT's `disable_adapter`
            return self.base_model(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **options
            )
        count = self.active_peft_config.num_virtual_tokens
        prompt = self.get_prompt(batch_size=len(input_ids))
        if not isinstance(prompt, Tensor):  # keys and values of every layer
            return self.base_model(
                input_ids=input_ids,
                past_key_values=prompt,
                attention_mask=_after(attention_mask, count),
                position_ids=None if position_ids is None else position_ids + count,
                **options,
            )
        embedded = self.word_embeddings(input_ids)
        outputs = self.base_model(
            inputs_embeds=torch.cat([prompt.to(embedded.dtype), embedded], dim=1),
            attention_mask=_among(attention_mask, count),
            position_ids=_counted(position_ids, count),
            **options,
        )
        outputs.logits = outputs.logits[:, count:]
        return outputs


def _after(mask: Tensor | None, count: int) -> Tensor | None:
    """Let every token see so many more before the first."""
    if mask is None:
        return None
    return functional.pad(mask, (count, 0), value=1 if mask.ndim == 2 else 0)


def _among(mask: Tensor | None, count: int) -> Tensor | None:
    """Let every token see so many more before the first, and those see what is before them."""
    wide = _after(mask, count)
    if wide is None or wide.ndim == 2:
        return wide
    hidden = torch.full((count, wide.shape[-1]), torch.finfo(wide.dtype).min, device=wide.device)
    return torch.cat([hidden.to(wide.dtype).triu(1).expand(*wide.shape[:2], -1, -1), wide], dim=2)


def _counted(positions: Tensor | None, count: int) -> Tensor | None:
    if positions is None:
        return None
    first = torch.arange(count, device=positions.device).expand(len(positions), -1)
    return torch.cat([first, positions + count], dim=1)


def insert_virtual_tokens(model: Model, config: Any) -> VirtualTokens:
    """Put virtual tokens before every row; the base stops training.

    Raises:
        ConfigurationError: the model has adapters already, or is no causal language model.
    """
    check_bare(model.module)
    if task_type(model.module) != "CAUSAL_LM":
        raise ConfigurationError(
            "virtual tokens must go before the rows of a causal language model of transformers, but this is a "
            f"{type(model.module).__name__}"
        )
    with quiet_libraries():
        from peft import get_peft_model

        return VirtualTokens(get_peft_model(model.module, config))
