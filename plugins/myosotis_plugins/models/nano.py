"""The embedded model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from torch import nn

from myosotis import hookimpl
from myosotis.interfaces import Blocks, Exported, Model, ModelFactory, Objective
from myosotis_plugins.models.huggingface import HuggingFace
from myosotis_plugins.objectives.heads import common_head

MYOSOTIS_API = 1

FOLDER = Path(__file__).parent / "nano"


class Nano(ModelFactory):
    """A small Llama-architecture model of this project's own, trained on the Python documentation's English.

    Its card lies beside its weights, its recipe in `experiments/nano.md`.

    Args:
        dtype: what the weights are loaded as.
        quantization: `8bit` or `nf4` (with double quantization), by bitsandbytes.
        attention: how attention is computed.
    """

    def __init__(
        self,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        quantization: Literal["none", "8bit", "nf4"] = "none",
        attention: Literal["sdpa", "eager"] = "sdpa",
    ) -> None:
        self._folder = HuggingFace(str(FOLDER), None, dtype, quantization, attention)

    def load(self, objectives: Collection[Objective]) -> Model:
        """Load weights and tokenizer."""
        return self._folder.load(objectives)

    def outline(self, objectives: Collection[Objective]) -> Model:
        """Build the modules on the meta device."""
        return self._folder.outline(objectives)

    def variant(self, objectives: Collection[Objective]) -> str:
        """Name the labels of the head, where there are some."""
        head = common_head(objectives, "decoder")
        return repr(head) if head.labels else ""

    def fingerprint(self) -> str:
        """Hash the weights."""
        return self._folder.fingerprint()

    def mixes_rows(self, layer: nn.Module) -> bool:
        """In 8 bits, columns with outliers are looked for in the whole batch."""
        return self._folder.mixes_rows(layer)

    def blocks(self, module: nn.Module) -> Blocks:
        """Find the transformer's blocks."""
        return self._folder.blocks(module)

    def save(self, model: Model, folder: Path) -> None:
        """Write a PEFT adapter where there is one, else the whole model."""
        self._folder.save(model, folder)

    def restore(self, saved: Path, objectives: Collection[Objective]) -> Model:
        """Load the base, and put an adapter, or whole weights, onto it."""
        return self._folder.restore(saved, objectives)

    def export(
        self, saved: Path, folder: Path, objectives: Collection[Objective], merge: bool, dtype: str | None
    ) -> Exported:
        """Write an adapter of PEFT's, or whole weights, and the tokenizer."""
        return self._folder.export(saved, folder, objectives, merge, dtype)


@hookimpl
def myosotis_models() -> Mapping[str, type[ModelFactory]]:
    """Give the model factory."""
    return {"nano": Nano}
