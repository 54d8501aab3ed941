"""Computing a transformer's blocks again in the backward pass, instead of keeping what is inside them."""

from __future__ import annotations

from contextvars import copy_context
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from myosotis.errors import ConfigurationError


def checkpoint_blocks(module: nn.Module) -> None:
    """Let each block keep its inputs alone for the backward pass, which runs it a second time.

    transformers' own switch acts on blocks in training mode alone, and those of a frozen base run as in evaluation.

    Raises:
        ConfigurationError: the model has no blocks that transformers would compute again.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [each for each in module.modules() if isinstance(each, GradientCheckpointingLayer)]
    if not blocks:
        raise ConfigurationError(
            "gradient_checkpointing must have a model whose blocks are transformers' own, but this is a "
            f"{type(module).__name__}; set model.gradient_checkpointing=false"
        )
    for block in blocks:
        vars(block)["forward"] = partial(_checkpointed, block.forward)


def is_checkpointed(module: nn.Module) -> bool:
    """Tell whether blocks of a model are computed again."""
    forwards = (vars(each).get("forward") for each in module.modules())
    return any(isinstance(each, partial) and each.func is _checkpointed for each in forwards)


def _checkpointed(forward: Any, /, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # The second time is in the backward pass, on a GPU in another thread: what surrounds the first comes along.
    run = partial(copy_context().run, forward)
    args = tuple(_without_cache(each) for each in args)
    kwargs = {name: _without_cache(each) for name, each in kwargs.items()}
    return checkpoint(run, *args, use_reentrant=False, **kwargs)


def _without_cache(value: Any) -> Any:
    """Leave out a cache of keys and values, which would take up each of them twice."""
    from transformers import Cache

    return None if isinstance(value, Cache) else value
