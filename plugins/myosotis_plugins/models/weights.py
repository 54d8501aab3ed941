"""A model's weights on disk: safetensors only, all of them, and of the right shapes."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from myosotis.errors import ModelError
from myosotis_plugins.quiet import quiet_libraries

WEIGHTS = "*.safetensors"
LOADING_ERRORS = (OSError, RuntimeError, ValueError, KeyError, SafetensorError)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def weight_files(folder: Path) -> list[Path]:
    """Find a folder's weights.

    Raises:
        ModelError: there are none, or they are pickles, which can run code when they are loaded.
    """
    files = sorted(folder.glob(WEIGHTS))
    if files:
        return files
    pickles = [path.name for pattern in PICKLES for path in sorted(folder.glob(pattern))]
    if pickles:
        raise ModelError(
            f"{folder} must have its weights as safetensors, but has {', '.join(pickles[:3])}, a pickle, which "
            "can run code when it is loaded. Convert it where you trust it: load it there with transformers, "
            "and save it with model.save_pretrained(FOLDER)"
        )
    state = "has no weights (*.safetensors)" if folder.is_dir() else "is no folder"
    raise ModelError(f"a model's folder must have weights, but {folder} {state}")


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of a folder's tensors, without the tensors.

    Raises:
        ModelError: a file is not whole.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(f"{path} must be a safetensors file, but cannot be read: {error}") from error
    return found


def check_weights(module: nn.Module, folder: Path) -> None:
    """Hold the shapes of a folder's tensors against a module's.

    Raises:
        ModelError: they do not fit.
    """
    state = module.state_dict(keep_vars=True)
    expected = {name: tuple(value.shape) for name, value in state.items()}
    prefix = getattr(module, "base_model_prefix", "")
    found = shapes(folder)
    # Some checkpoints hold the body alone, without its prefix.
    named = {name if name in expected else f"{prefix}.{name}": shape for name, shape in found.items()}
    if not expected.keys() & named.keys():
        raise ModelError(
            f"the weights in {folder} must be those of a {type(module).__name__}, but none of their names fit; "
            f"they begin with {min(found, default='nothing')}"
        )
    for name, shape in named.items():
        if name in expected and expected[name] != shape:
            raise ModelError(
                f"{folder}: {name} must have the shape {list(expected[name])} that config.json gives, but has "
                f"{list(shape)}"
            )
    # Under names that the model does not have, transformers may find what seems to lack.
    if named.keys() <= expected.keys():
        given = {id(state[name]) for name in named}  # a tied tensor is in the files under one of its names
        _check_complete(folder, {name for name, value in state.items() if id(value) not in given})


def load_weights(kind: Any, folder: Path, like: nn.Module | None, **arguments: Any) -> nn.Module:
    """Load a model of a kind with all its weights.

    Args:
        kind: a class with `from_pretrained`.
        folder: where the weights are.
        like: a model whose type and attention the loaded one takes over.
        arguments: passed on.

    Raises:
        ModelError: weights are missing or do not fit.
    """
    if like is not None:
        arguments = {
            "dtype": like.dtype,
            "attn_implementation": like.config._attn_implementation,  # type: ignore[union-attr]
            **arguments,
        }
    try:
        with quiet_libraries():
            module, info = kind.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **arguments
            )
    except LOADING_ERRORS as error:
        raise not_loaded(folder, error) from error
    _check_complete(folder, set(info["missing_keys"]))
    loaded: nn.Module = module
    return loaded


def _check_complete(folder: Path, missing: Set[str]) -> None:
    if missing:
        raise ModelError(
            f"the weights in {folder} must be complete, but lack {len(missing)}, such as {min(missing)}"
        )


def not_loaded(folder: Path, error: Exception) -> ModelError:
    """Say that a model cannot be loaded, and why."""
    first = str(error).strip().split("\n")[0]
    return ModelError(f"the model in {folder} cannot be loaded: {first}")
