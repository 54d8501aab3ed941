"""Putting what a training left behind onto its base: adapters of PEFT, bottleneck adapters, or whole weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from myosotis.errors import ModelError, first_line
from myosotis.interfaces import Model
from myosotis_plugins.methods.bottleneck import SETTINGS, load_bottlenecks
from myosotis_plugins.methods.peft_adapters import check_bare
from myosotis_plugins.methods.virtual_tokens import VirtualTokens
from myosotis_plugins.models.weights import check_weights, load_weights
from myosotis_plugins.quiet import quiet_libraries

ADAPTER = "adapter_config.json"
"""The file by which a folder of PEFT's is known."""
VIRTUAL = ("PREFIX_TUNING", "PROMPT_TUNING")
"""PEFT's kinds that are tokens, not layers."""


def put_on(model: Model, folder: Path, outline: bool = False) -> nn.Module:
    """Load an adapter onto the base, or whole weights instead of the base's.

    Args:
        model: the base; it is changed.
        folder: what was saved.
        outline: whether the base is on the meta device and stays there.

    Raises:
        ModelError: the weights do not fit the base.
        ConfigurationError: the base has adapters already.
    """
    if (folder / ADAPTER).is_file():
        return _with_adapter(model, folder)
    if (folder / SETTINGS).is_file():
        check_bare(model.module)
        return load_bottlenecks(model.module, folder)
    _fill(model.module, folder, outline)
    return model.module


def is_whole(folder: Path) -> bool:
    """Tell a folder of whole weights from one of adapters."""
    return not any((folder / name).is_file() for name in (ADAPTER, SETTINGS))


def check_adapter(folder: Path) -> None:
    """Refuse what is no adapter of layers by PEFT.

    Raises:
        ModelError: it is none.
    """
    if not (folder / ADAPTER).is_file():
        raise ModelError(f"adapter must be the folder of an adapter of PEFT's, but {folder} has no {ADAPTER}")
    kind = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("peft_type")
    if kind in VIRTUAL:
        raise ModelError(
            f"adapter must be one of layers, but {folder} holds virtual tokens, which cannot be merged"
        )


def merged(model: Model, folder: Path) -> nn.Module:
    """Add an adapter to the base's weights.

    Raises:
        ModelError: it does not fit.
    """
    tuned: Any = _with_adapter(model, folder)
    whole: nn.Module = tuned.merge_and_unload()
    return whole


def _fill(module: Any, folder: Path, outline: bool) -> None:
    if getattr(module, "is_quantized", False):
        raise ModelError(
            f"whole weights must go into a base that is not quantized, but this one is; give {folder} "
            "as model.path, or set model.quantization=none"
        )
    check_weights(module, folder)
    if not outline:
        # Into the base's own parameters: what other methods freeze of them stays frozen.
        module.load_state_dict(load_weights(type(module), folder, module)[0].state_dict())
        module.name_or_path = str(folder.resolve())  # what PEFT writes down as an adapter's base


def _with_adapter(model: Model, folder: Path) -> nn.Module:
    check_bare(model.module)
    try:
        with quiet_libraries():
            from peft import PeftConfig, PeftModel

            # PEFT does not train loaded virtual tokens further.
            virtual = PeftConfig.from_pretrained(str(folder)).is_prompt_learning
            adapted: nn.Module = PeftModel.from_pretrained(
                model.module, str(folder), is_trainable=not virtual
            )
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"the adapter in {folder} does not fit the model: {first_line(error)}") from error
    return VirtualTokens(adapted) if virtual else adapted
