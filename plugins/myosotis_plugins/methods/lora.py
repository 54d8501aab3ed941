"""Low-rank adapters, by PEFT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from myosotis import hookimpl
from myosotis.interfaces import Context, Method, Model, StackedOperation
from myosotis_plugins.methods.decomposed import insert_decomposed
from myosotis_plugins.methods.low_rank import stacked
from myosotis_plugins.methods.peft_adapters import LoRASettings, check_choice

MYOSOTIS_API = 1


class LoRA(Method):
    """Freeze the base and train low-rank additions to its linear layers: W + (alpha / rank) B A.

    The base runs without dropout. Layers that another method freezes get no adapter. How A and B begin:

    - `zero`: A random and B zero, so that the first forward pass is the base's.
    - `pissa` (Meng et al. 2024, arXiv:2404.02948): with the singular value decomposition U S V of W,
      B = U √(S / scale) and A = √(S / scale) V of the greatest `rank` singular values.
    - `olora` (Büyükakyüz 2024, arXiv:2406.01775): with W = Q R, B the first `rank` columns of Q, A the first
      rows of R. No relation to the method O-LoRA.

    In the last two W − scale B A stands in W's place and stays frozen, so that the first forward pass is the
    base's but for rounding; such a trial has those weights for itself, and trains alone. What is saved is an
    ordinary adapter for the untouched base, of twice the rank: scale (B A − B₀ A₀). They need weights that
    are not quantized, and take one decomposition a layer before the training.

    Cost: two narrow products more a layer, forward and backward; gradients and the optimizer's numbers for the
    adapters alone. The backward pass goes through the whole base; of its weights it makes no gradients.

    Args:
        rank: rows of A and columns of B.
        alpha: the scale's numerator; where not given, twice the rank, and 16 with rslora.
        dropout: the share of a layer's inputs dropped before A.
        targets: `all-linear` (all but the output head), or names of modules such as `[q_proj,v_proj]`.
        rslora: divide alpha by √rank instead of the rank, so that what is learned does not shrink as the rank
            grows (Kalajdzievski 2023, arXiv:2312.03732).
        initialization: how A and B begin.
    """

    paper = "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685"
    cohort_fields = frozenset({"rank", "alpha", "targets", "rslora"})

    def __init__(
        self,
        rank: int = 8,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: str | list[str] = "all-linear",
        rslora: bool = False,
        initialization: Literal["zero", "pissa", "olora"] = "zero",
    ) -> None:
        self.settings = LoRASettings(rank, 16 if alpha is None and rslora else alpha, dropout, targets)
        check_choice("initialization", initialization, ("zero", "pissa", "olora"))
        self.rslora = rslora
        self.initialization = initialization

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Insert the adapters; everything else stops training.

        Raises:
            ConfigurationError: another method has put adapters in, or there is nothing to adapt.
        """
        if self.initialization != "zero":
            return insert_decomposed(
                self.settings, model, context, self.initialization, use_rslora=self.rslora
            )
        adapted: nn.Module = self.settings.insert(model, context, use_rslora=self.rslora)
        return adapted

    @classmethod
    def stack(cls, layers: Sequence[nn.Module]) -> StackedOperation | None:
        """Add the low-rank products of all trials to a layer at once."""
        return stacked(layers)


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"lora": LoRA}
