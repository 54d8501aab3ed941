"""LoRA that begins with a part of the base's own weights, which is taken out of them: PiSSA and OLoRA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Model
from myosotis_plugins.methods.peft_adapters import LoRASettings, check_bare, linear_layers
from myosotis_plugins.methods.saved_as_one import SavedAsOne


def insert_decomposed(
    settings: LoRASettings, model: Model, context: Context, initialization: str, **options: Any
) -> SavedAsOne:
    """Insert adapters by one of PEFT's initializations that rewrite weights.

    The base's memory is shared with other trials, and PEFT may write into it: each layer that is rewritten gets
    a parameter of its own first, and lets go of the base's, so that there are not two copies of it once other
    trials have it no longer. A parameter that is another than the base's also keeps the trial out of joint
    forward passes, which would run the base's layer.

    Raises:
        ConfigurationError: the weights are quantized, transposed where that is not provided for, or smaller
            than the rank.
    """
    check_bare(model.module)
    layers = linear_layers(model, settings.targets, context.frozen)
    _check(model.module, layers, settings.rank, initialization)
    for name in layers:
        layer: Any = model.module.get_submodule(name)
        base = layer.weight
        layer.weight = nn.Parameter(base.detach().clone(), requires_grad=False)
        base.data = base.data.new_empty(0)
    # An outline has no values to decompose.
    begins = context.outline or initialization
    adapted = settings.insert(model, context, init_lora_weights=begins, **options)
    taken = {}
    for name in layers:
        path = f"base_model.model.{name}"
        layer = adapted.get_submodule(path)
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        taken[path] = (down.detach().clone(), up.detach().clone())
    return SavedAsOne(adapted, taken)


def _check(module: nn.Module, layers: Sequence[str], rank: int, initialization: str) -> None:
    from transformers.pytorch_utils import Conv1D

    # A base's weights may all train, but for quantized ones, in an outline too.
    if not all(module.get_submodule(name).weight.requires_grad for name in layers):
        raise ConfigurationError(
            f"initialization={initialization} must have a base that is not quantized: what it leaves of the "
            "weights would be quantized anew, and the adapter would not fit the untouched base. Take zero"
        )
    for name in layers:
        layer: Any = module.get_submodule(name)
        if initialization == "olora" and isinstance(layer, Conv1D):
            raise ConfigurationError(
                f"initialization=olora must have layers of the kind Linear, but {name} is a Conv1D, whose "
                "weight is transposed; take zero or pissa"
            )
        if rank > min(layer.weight.shape):
            raise ConfigurationError(
                f"rank must be at most {min(layer.weight.shape)} with initialization={initialization}, the "
                f"smaller side of {name}, but got {rank}"
            )
