"""From what a training saved to a folder that transformers or PEFT loads by itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from myosotis.errors import ModelError
from myosotis.interfaces import Model
from myosotis_plugins.methods.bottleneck import SETTINGS
from myosotis_plugins.models.saved import ADAPTER, VIRTUAL, merged, put_on
from myosotis_plugins.objectives.turns import end_of_turn
from myosotis_plugins.quiet import quiet_libraries

DTYPES = ("float32", "bfloat16", "float16")
BASE = "base"
"""The folder in an adapter's, for a base that is nowhere else."""


def check_export(saved: Path, merge: bool, dtype: str | None) -> None:
    """Refuse what no other library could load, and what cannot be merged.

    Raises:
        ModelError: it is one of these.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ModelError(f"--dtype must be {' or '.join(DTYPES)}, but got {dtype}")
    if (saved / SETTINGS).is_file():
        raise ModelError(
            "what is exported must be loadable by transformers or PEFT, which have no bottleneck adapters; "
            "these stand between the layers, so that they cannot be merged either. The method `finetuned` "
            f"loads {saved}"
        )
    if not is_adapter(saved) and not list(saved.glob("*.safetensors")):
        stages = ", ".join(sorted(path.name for path in saved.iterdir() if is_adapter(path)))
        raise ModelError(
            "what is exported must be one model, but this trial has an adapter for each stage"
            f" ({stages}); copy the one you want from {saved}, an ordinary PEFT folder"
        )
    if merge and not is_adapter(saved):
        raise ModelError("--merge must have an adapter, but this trial trained whole weights; leave it out")
    if merge and _settings(saved)["peft_type"] in VIRTUAL:
        raise ModelError("--merge must have an adapter of layers, but this trial trained virtual tokens")


def export_adapter(saved: Path, folder: Path, base: str, revision: str | None, dtype: str | None) -> None:
    """Copy an adapter, which names its base in its configuration."""
    settings = {**_settings(saved), "base_model_name_or_path": base, "revision": revision}
    (folder / ADAPTER).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights = "adapter_model.safetensors"
    if dtype is None:
        shutil.copyfile(saved / weights, folder / weights)
        return
    from safetensors.torch import load_file, save_file

    tensors = {name: each.to(getattr(torch, dtype)) for name, each in load_file(saved / weights).items()}
    save_file(tensors, folder / weights, metadata={"format": "pt"})


def export_whole(base: Model, saved: Path, folder: Path, dtype: str | None, tokenizer: Any) -> None:
    """Write whole weights: the tuned ones, or the base's with the adapter added.

    A quantized base is written in full, as the numbers that its codes stand for: those the adapter was
    trained beside.
    """
    module: Any = base.module
    with quiet_libraries():
        if getattr(module, "is_quantized", False):
            module = module.dequantize()
        plain = Model(module, base.tokenizer)
        tuned: Any = merged(plain, saved) if is_adapter(saved) else put_on(plain, saved)
    write_whole(tuned, folder, dtype, tokenizer)


def write_whole(module: Any, folder: Path, dtype: str | None, tokenizer: Any) -> None:
    """Write a model that ends its answers as they were trained to end."""
    whole = module if dtype is None else module.to(getattr(torch, dtype))
    if whole.can_generate():
        whole.generation_config.eos_token_id = ends(whole.generation_config.eos_token_id, tokenizer)
    with quiet_libraries():
        whole.save_pretrained(folder)


def ends(known: int | list[int] | None, tokenizer: Any) -> int | list[int] | None:
    """Add the token by which the tokenizer's template ends an answer to those that a model knows."""
    found = known if isinstance(known, list) else [] if known is None else [known]
    own = end_of_turn(tokenizer) if tokenizer.chat_template else None
    return known if own is None or own in found else [*found, own]


def licence_of(folder: Path) -> str | None:
    """Read the licence that a model's own card names."""
    from huggingface_hub import ModelCard

    if not (folder / "README.md").is_file():
        return None
    try:
        named = ModelCard.load(folder / "README.md").data.license
    except ValueError:  # front matter that is not what the Hub reads
        return None
    return str(named) if named else None


def is_adapter(saved: Path) -> bool:
    """Tell a folder of PEFT's."""
    return (saved / ADAPTER).is_file()


def _settings(saved: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((saved / ADAPTER).read_text(encoding="utf-8"))
    return settings
