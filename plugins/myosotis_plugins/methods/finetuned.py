"""An existing fine-tune in the base's place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ModelError
from myosotis.interfaces import Context, Method, Model, file_hash
from myosotis_plugins.methods.bottleneck import SETTINGS, load_bottlenecks
from myosotis_plugins.methods.peft_adapters import check_bare
from myosotis_plugins.methods.virtual_tokens import VirtualTokens
from myosotis_plugins.models.huggingface import check_weights, load_weights, weight_files
from myosotis_plugins.quiet import quiet_libraries

MYOSOTIS_API = 1


class Finetuned(Method):
    """Put what an earlier training gave onto the base: a PEFT adapter, or whole weights.

    Cost: an adapter's products in every forward pass; of whole weights, none.

    Args:
        path: the folder of the adapter or of the weights.
    """

    locations = frozenset({"path"})

    def __init__(self, path: str) -> None:
        self.folder = Path(path)
        if not self.folder.is_dir():
            raise ModelError(f"path must be a folder with an adapter or weights, but there is no {path}")
        self.files = weight_files(self.folder)

    def fingerprint(self) -> str:
        """Hash the weights and their configuration, in which an adapter's scale stands."""
        return file_hash([*self.files, *sorted(self.folder.glob("*.json"))])

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Load the adapter onto the base, or the weights instead of the base's.

        Raises:
            ModelError: the weights do not fit the base.
            ConfigurationError: another method has put adapters in.
        """
        if (self.folder / "adapter_config.json").is_file():
            return self._with_adapter(model)
        if (self.folder / SETTINGS).is_file():
            check_bare(model.module)
            return load_bottlenecks(model.module, self.folder)
        self._fill(model.module, context.outline)
        return model.module

    def _fill(self, module: nn.Module, outline: bool) -> None:
        if getattr(module, "is_quantized", False):
            raise ModelError(
                f"whole weights must go into a base that is not quantized, but this one is; give {self.folder} "
                "as model.path, or set model.quantization=none"
            )
        check_weights(module, self.folder)
        if not outline:
            # Into the base's own parameters: what other methods freeze of them stays frozen.
            module.load_state_dict(load_weights(type(module), self.folder, module).state_dict())

    def _with_adapter(self, model: Model) -> nn.Module:
        check_bare(model.module)
        try:
            with quiet_libraries():
                from peft import PeftConfig, PeftModel

                # PEFT does not train loaded virtual tokens further.
                virtual = PeftConfig.from_pretrained(str(self.folder)).is_prompt_learning
                adapted: nn.Module = PeftModel.from_pretrained(
                    model.module, str(self.folder), is_trainable=not virtual
                )
        except (RuntimeError, ValueError) as error:
            first = str(error).strip().split("\n")[0]
            raise ModelError(f"the adapter in {self.folder} does not fit the model: {first}") from error
        return VirtualTokens(adapted) if virtual else adapted


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"finetuned": Finetuned}
