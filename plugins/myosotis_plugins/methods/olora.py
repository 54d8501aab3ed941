"""O-LoRA: a new low-rank adapter for every stage, orthogonal to the earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Batch, Context, Loss, Method, Model, Stage
from myosotis_plugins.methods.peft_adapters import LoRASettings
from myosotis_plugins.methods.saved_as_one import SavedAsOne
from myosotis_plugins.methods.stage_adapters import StageAdapters

MYOSOTIS_API = 1


class OLoRA(Method):
    """Train a LoRA adapter of its own in every stage, in a subspace orthogonal to those of the earlier ones.

    The adapters add up, and earlier ones stay as they are: W + (alpha / rank) Σᵢ Bᵢ Aᵢ. Stage t adds to the loss
    λ₁ Σᵢ﹤ₜ Σ |Aᵢ Aₜᵀ| + λ₂ (‖Aₜ‖ + ‖Bₜ‖), over all layers. As in the released code, the inner sum is over the
    absolute values of the r × r entries (the paper squares them), and the norms are Frobenius norms, not
    squared. The paper has λ₁ = 0.5 and λ₂ = 0. No relation to LoRA's initialization of the name OLoRA.

    Cost: as `inc_lora`; the penalty takes as much as running r rows through all earlier Aᵢ, whatever the batch.
    The base runs without dropout, and layers that another method freezes get no adapter. What is saved is one
    PEFT folder with the adapters' sum.

    Args:
        rank: rows of each A and columns of each B.
        alpha: the scale's numerator; twice the rank where not given.
        dropout: the share of a layer's inputs dropped before A.
        targets: `all-linear` (all but the output head), or names of modules such as `[q_proj,v_proj]`.
        orthogonality: λ₁.
        decay: λ₂.
    """

    paper = "Wang et al. 2023, Orthogonal Subspace Learning for Language Model Continual Learning, arXiv:2310.14152"
    stores = "the adapters of earlier stages, in the model"
    anchored = False
    cohort_fields = frozenset({"rank", "alpha", "targets", "orthogonality", "decay"})

    def __init__(
        self,
        rank: int = 8,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: str | list[str] = "all-linear",
        orthogonality: float = 0.5,
        decay: float = 0.0,
    ) -> None:
        for name, value in (("orthogonality", orthogonality), ("decay", decay)):
            if value < 0:
                raise ConfigurationError(f"{name} must be at least 0, but got {value}")
        self.adapters = StageAdapters(LoRASettings(rank, alpha, dropout, targets))
        self.orthogonality = orthogonality
        self.decay = decay
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._new: list[Tensor] = []

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Insert the adapters; everything else stops training.

        Raises:
            ConfigurationError: another method has put adapters in, or there is nothing to adapt.
        """
        return SavedAsOne(self.adapters.insert(model, context))

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Add the stage's adapter to those before it, and train it alone."""
        new, earlier = self.adapters.names[stage.index], self.adapters.before(stage.index)
        self.adapters.use([*earlier, new], training=[new])
        layers = self.adapters.layers()
        self._new = [half[new].weight for layer in layers for half in (layer.lora_A, layer.lora_B)]
        self._pairs = [
            (layer.lora_A[old].weight, layer.lora_A[new].weight) for layer in layers for old in earlier
        ]

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        """Give the two terms; none in the first stage without a decay."""
        terms = []
        if self._pairs and self.orthogonality:
            products = torch.stack([(old @ new.T).abs().sum() for old, new in self._pairs])
            terms.append(self.orthogonality * products.sum())
        if self.decay:
            terms.append(self.decay * torch.stack([weight.norm() for weight in self._new]).sum())
        return torch.stack(terms).sum() if terms else None


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"olora": OLoRA}
