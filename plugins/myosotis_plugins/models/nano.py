"""The embedded model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from myosotis import hookimpl
from myosotis.interfaces import ModelFactory, Objective
from myosotis_plugins.models.huggingface import HuggingFace
from myosotis_plugins.models.packaged import PackagedModel
from myosotis_plugins.models.usage import Package
from myosotis_plugins.objectives.heads import common_head

MYOSOTIS_API = 1

FOLDER = Path(__file__).parent / "nano"


class Nano(PackagedModel):
    """A small Llama-architecture model of this project's own, trained on the Python documentation's English.

    Its card lies beside its weights, its recipe in `experiments/nano.md`.

    Args:
        dtype: what the weights are loaded as.
        quantization: `8bit` or `nf4` (with double quantization), by bitsandbytes.
        attention: how attention is computed.
    """

    package = Package("myosotis", "myosotis_plugins", "models/nano")

    def __init__(
        self,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        quantization: Literal["none", "8bit", "nf4"] = "none",
        attention: Literal["sdpa", "eager"] = "sdpa",
    ) -> None:
        self._folder = HuggingFace(str(FOLDER), None, dtype, quantization, attention)

    def folder(self) -> HuggingFace:
        """Give the factory of the folder beside this file."""
        return self._folder

    def variant(self, objectives: Collection[Objective]) -> str:
        """Name the labels of the head, where there are some, without a look at the folder."""
        head = common_head(objectives, "decoder")
        return repr(head) if head.labels else ""


@hookimpl
def myosotis_models() -> Mapping[str, type[ModelFactory]]:
    """Give the model factory."""
    return {"nano": Nano}
