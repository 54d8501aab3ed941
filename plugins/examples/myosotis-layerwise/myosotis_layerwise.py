"""Layer-wise learning rates, as a plugin of myosotis."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method

MYOSOTIS_API = 1


class Layerwise(Method):
    """Shrink the learning rate from block to block towards the input: rate × decay^(depth − d).

    d is the block that a parameter is in, counted from 1; what comes before the blocks, such as the
    embeddings, has d = 0, what comes after them d = depth. A tied head goes with the embeddings.

    Args:
        decay: the factor from one block to the one before it; 1 trains all alike.
    """

    paper = "Howard and Ruder 2018, Universal Language Model Fine-tuning for Text Classification, arXiv:1801.06146"

    def __init__(self, decay: float = 0.8) -> None:
        if not 0 < decay <= 1:
            raise ConfigurationError(f"decay must be greater than 0 and at most 1, but got {decay}")
        self.decay = decay

    def parameter_groups(self, module: nn.Module, context: Context) -> list[dict[str, Any]] | None:
        """Give one group for each depth, with its share of the learning rate."""
        depths = block_depths([name for name, _ in module.named_parameters()])
        deepest = max(depths.values())
        groups: dict[int, list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(depths[name], []).append(parameter)
        return [
            {"params": parameters, "scale": self.decay ** (deepest - depth)}
            for depth, parameters in sorted(groups.items())
        ]


def block_depths(names: Sequence[str]) -> dict[str, int]:
    """Give each parameter's depth, from the number of its block: the first one in its name."""
    numbers = [re.search(r"(?:^|\.)(\d+)\.", name) for name in names]
    deepest = max((int(number[1]) + 1 for number in numbers if number), default=0)
    depths: dict[str, int] = {}
    outside = 0
    for name, number in zip(names, numbers, strict=True):
        depths[name] = int(number[1]) + 1 if number else outside
        # What has no number and follows the first block comes after all of them.
        outside = deepest if number else outside
    return depths


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"layerwise": Layerwise}
