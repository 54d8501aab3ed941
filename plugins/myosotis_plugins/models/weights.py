"""A model's weights on disk: safetensors only, all of them, and of the right shapes."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from myosotis.errors import ModelError, first_line
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


def check_weights(module: nn.Module, folder: Path, head_may_lack: bool = False) -> tuple[str, ...]:
    """Hold the shapes of a folder's tensors against a module's; give the modules of its head that lack weights.

    Args:
        module: what is to be loaded; may be on the meta device.
        folder: where the weights are.
        head_may_lack: whether the module's head may be new.

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
    # A tied tensor is in the files under one of its names.
    given = {id(state[name]) for name in named if name in expected}
    missing = {name for name, value in state.items() if id(value) not in given}
    new = _in_head(module, missing) if head_may_lack else set()
    # Under names that the model does not have, transformers may find what seems to lack.
    if named.keys() <= expected.keys():
        _check_complete(folder, missing - new)
    return _modules(new)


def load_weights(
    kind: Any, folder: Path, like: nn.Module | None = None, head_may_lack: bool = False, **arguments: Any
) -> tuple[nn.Module, tuple[str, ...]]:
    """Load a model of a kind with all its weights; give the modules of its head that are new, too.

    New weights are the same every time, whatever the random state.

    Args:
        kind: a class with `from_pretrained`.
        folder: where the weights are.
        like: a model whose type and attention the loaded one takes over.
        head_may_lack: whether the module's head may be new.
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
        with quiet_libraries(), torch.random.fork_rng():
            torch.manual_seed(0)
            module, info = kind.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **arguments
            )
    except LOADING_ERRORS as error:
        raise not_loaded(folder, error) from error
    missing = set(info["missing_keys"])
    new = _in_head(module, missing) if head_may_lack else set()
    _check_complete(folder, missing - new)
    return module, _modules(new)


def _in_head(module: nn.Module, names: Set[str]) -> set[str]:
    """Choose the parameters that are not the body's; what pools the body's outputs goes with the head."""
    prefix = str(getattr(module, "base_model_prefix", ""))
    return {name for name in names if not name.startswith(f"{prefix}.") or ".pooler." in name}


def _modules(parameters: Set[str]) -> tuple[str, ...]:
    """Name the modules that parameters belong to, in an order that is always the same.

    What PEFT takes for a head, by its name, is one module.
    """
    heads = ("classifier", "score")
    owners = {name.rpartition(".")[0] for name in parameters}
    return tuple(sorted({head if (head := name.split(".")[0]) in heads else name for name in owners}))


def _check_complete(folder: Path, missing: Set[str]) -> None:
    if missing:
        raise ModelError(
            f"the weights in {folder} must be complete, but lack {len(missing)}, such as {min(missing)}"
        )


def not_loaded(folder: Path, error: Exception) -> ModelError:
    """Say that a model cannot be loaded, and why."""
    return ModelError(f"the model in {folder} cannot be loaded: {first_line(error)}")
