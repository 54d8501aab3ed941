"""A transformer's blocks, and what comes before the first of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Blocks


def find_blocks(module: nn.Module) -> nn.ModuleList:
    """Find a transformer's blocks: the list of modules as long as its configuration says.

    Raises:
        ConfigurationError: there is none.
    """
    count = getattr(getattr(module, "config", None), "num_hidden_layers", None)
    for each in module.modules():
        if isinstance(each, nn.ModuleList) and len(each) == count:
            return each
    raise ConfigurationError(
        f"this model ({type(module).__name__}) has no blocks to count; choose what to freeze with pattern"
    )


def chained_blocks(module: nn.Module) -> Blocks:
    """Give a causal model's blocks, and the modules that have run when the first starts.

    There are none where experts take tokens of all rows together. The order in which modules are registered
    does not tell what runs first: OPT's last norm stands before its blocks. So one token goes in, as far as
    the first block.
    """
    try:
        chain = tuple(find_blocks(module))
    except ConfigurationError:
        return Blocks()
    if any("experts" in name for name in vars(module.config) if not name.startswith("_")):
        return Blocks()
    before = _run_before(module, chain[0]) if chain else None
    return Blocks() if before is None else Blocks(tuple(before), chain)


class _FirstBlock(Exception):
    """Ends a call at the first block."""


def _run_before(module: nn.Module, first: nn.Module) -> Sequence[nn.Module] | None:
    """Find the modules that are done when a block starts; None where the block is not reached."""
    device = next(module.parameters()).device
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    # Masks of four dimensions are taken as they are: others are looked into, which an outline does not allow.
    mask = {"attention_mask": torch.zeros(1, 1, 1, 1, device=device), "position_ids": token}
    for inputs in (mask, {}):
        with _recording(module, first) as done:
            try:
                module(input_ids=token, use_cache=False, **inputs)
            except _FirstBlock:
                return done
            except Exception:  # what foreign code raises at inputs that it does not take
                continue
    return None


@contextmanager
def _recording(module: nn.Module, first: nn.Module) -> Iterator[list[nn.Module]]:
    """List the modules that run, without dropout, up to a block."""
    done: list[nn.Module] = []

    def finished(each: nn.Module, args: Any, output: Any) -> None:
        done.append(each)

    def stop(block: nn.Module, args: Any) -> None:
        raise _FirstBlock

    modes = [(each, each.training) for each in module.modules()]
    handles = [each.register_forward_hook(finished) for each, _ in modes]
    handles.append(first.register_forward_pre_hook(stop))
    module.eval()
    try:
        with torch.no_grad():
            yield done
    finally:
        for handle in handles:
            handle.remove()
        for each, mode in modes:
            each.training = mode
