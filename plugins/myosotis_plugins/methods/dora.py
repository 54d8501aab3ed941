"""Weight-decomposed low-rank adapters, by PEFT."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Model
from myosotis_plugins.methods.peft_adapters import LoRASettings

MYOSOTIS_API = 1


class DoRA(Method):
    """Freeze the base and train the direction and the magnitude of its linear layers' weights apart.

    With V = W + (alpha / rank) B A, row by row (a row gives one output), the weight is m V / ‖V‖. B starts at
    zero and m at the norms of W, so that the first forward pass is the base's but for rounding. No gradient
    goes through ‖V‖, as the paper's section 4.3 proposes. The base runs without dropout, and layers that another
    method freezes get no adapter.

    Cost: each forward pass multiplies B and A out and takes the norms of every layer's weight, quantized ones
    dequantized for it: more time, and memory for one weight at a time. On a CPU, bases in 8 bits are refused.

    Args:
        rank: rows of A and columns of B.
        alpha: the scale's numerator; twice the rank where not given.
        dropout: the share of a layer's inputs dropped before A.
        targets: `all-linear` (all but the output head), or names of modules such as `[q_proj,v_proj]`.
    """

    paper = "Liu et al. 2024, DoRA: Weight-Decomposed Low-Rank Adaptation, arXiv:2402.09353"
    cohort_fields = frozenset({"rank", "alpha", "targets"})

    def __init__(
        self,
        rank: int = 8,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: str | list[str] = "all-linear",
    ) -> None:
        self.settings = LoRASettings(rank, alpha, dropout, targets)

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Insert the adapters; everything else stops training.

        Raises:
            ConfigurationError: another method has put adapters in, there is nothing to adapt, or the base is in
                8 bits on a CPU.
        """
        if any(each.dtype == torch.int8 and each.device.type == "cpu" for each in model.module.parameters()):
            raise ConfigurationError(
                "on a CPU the base must not be in 8 bits, for PEFT's DoRA loses the scales of such weights there; "
                "take model.quantization=nf4 or none, or a GPU"
            )
        adapted: nn.Module = self.settings.insert(model, context, use_dora=True)
        return adapted


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"dora": DoRA}
