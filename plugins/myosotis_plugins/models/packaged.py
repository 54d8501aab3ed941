"""A model of the Hugging Face format that comes with a package."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from torch import nn

from myosotis.interfaces import Blocks, Exported, Model, ModelFactory, Objective
from myosotis_plugins.models.huggingface import HuggingFace
from myosotis_plugins.models.usage import Package


class PackagedModel(ModelFactory):
    """Is what `HuggingFace` is, in a folder of its own."""

    package: ClassVar[Package]
    """Where the folder is, for those who load what is exported."""

    @abstractmethod
    def folder(self) -> HuggingFace:
        """Give the folder's factory.

        Raises:
            ModelError: the package is not there.
        """

    def load(self, objectives: Collection[Objective]) -> Model:
        """Load weights and tokenizer."""
        return self.folder().load(objectives)

    def variant(self, objectives: Collection[Objective]) -> str:
        """Name the labels of the head, where there are some."""
        return self.folder().variant(objectives)

    def outline(self, objectives: Collection[Objective]) -> Model:
        """Build the modules on the meta device."""
        return self.folder().outline(objectives)

    def fingerprint(self) -> str:
        """Hash the weights."""
        return self.folder().fingerprint()

    def mixes_rows(self, layer: nn.Module) -> bool:
        """In 8 bits, columns with outliers are looked for in the whole batch."""
        return self.folder().mixes_rows(layer)

    def blocks(self, module: nn.Module) -> Blocks:
        """Find the transformer's blocks."""
        return self.folder().blocks(module)

    def save(self, model: Model, folder: Path) -> None:
        """Write a PEFT adapter where there is one, else the whole model."""
        self.folder().save(model, folder)

    def restore(self, saved: Path, objectives: Collection[Objective], weights: Path | None = None) -> Model:
        """Load the base, and put an adapter, or whole weights, onto it."""
        return self.folder().restore(saved, objectives, weights)

    def export(
        self,
        saved: Path,
        folder: Path,
        objectives: Collection[Objective],
        merge: bool,
        dtype: str | None,
        weights: Path | None = None,
    ) -> Exported:
        """Write an adapter of PEFT's, or whole weights, and the tokenizer."""
        return self.folder().export(saved, folder, objectives, merge, dtype, weights, self.package)
