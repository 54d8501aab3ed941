"""Saving what LoRA adapters add up to as one ordinary adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from myosotis_plugins.methods.wrapper import Wrapper

Product = tuple[Tensor, Tensor]
"""LoRA's A, shape (rank, inputs), and B, shape (outputs, rank)."""


class SavedAsOne(Wrapper):
    """A model with LoRA adapters, saved as one that fits the untouched base and gives the same predictions.

    It is the sum of all adapters, less what was taken out of the base's weights to begin with:
    s₁ B₁ A₁ + s₂ B₂ A₂ = [s₁ B₁  s₂ B₂] [A₁; A₂]. Its rank is the sum of the ranks, its scale 1. What is no
    part of the base, such as a new head, is saved with it.

    Args:
        inner: PEFT's model.
        taken: by the layer's name, A and B whose product, scaled as the adapter's, was taken out of its weight.
    """

    def __init__(self, inner: nn.Module, taken: Mapping[str, Product] | None = None) -> None:
        super().__init__(inner)
        self.taken = taken or {}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a PEFT folder."""
        from peft import get_peft_model_state_dict
        from peft.tuners.lora import LoraLayer

        tensors = {}
        for name, layer in self.inner.named_modules():
            if isinstance(layer, LoraLayer):
                terms = list(self._terms(name, layer))
                tensors[f"{name}.lora_A.weight"] = torch.cat([down for _, down, _ in terms])
                tensors[f"{name}.lora_B.weight"] = torch.cat([scale * up for scale, _, up in terms], dim=1)
        rank = next(iter(tensors.values())).shape[0]
        config = replace(
            next(iter(self.peft_config.values())),
            r=rank,
            lora_alpha=rank,
            use_rslora=False,
            init_lora_weights=True,
            inference_mode=True,
        )
        config.save_pretrained(str(folder))
        first = next(iter(self.peft_config))
        saved = get_peft_model_state_dict(self.inner, adapter_name=first, save_embedding_layers=False)
        tensors |= {name: value for name, value in saved.items() if ".lora_" not in name}
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(whole, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})

    def _terms(self, name: str, layer: Any) -> Iterator[tuple[float, Tensor, Tensor]]:
        for adapter, scale in layer.scaling.items():
            yield scale, layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            if name in self.taken:
                down, up = self.taken[name]
                yield -scale, down.to(layer.weight.device), up.to(layer.weight.device)
