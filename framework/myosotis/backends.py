"""The backends by their names: each is imported, with the packages that it needs, only where it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from myosotis.backend import Backend
from myosotis.errors import ConfigurationError
from myosotis.options import Options

BACKENDS: Mapping[str, str] = {
    "ray": "myosotis.ray_backend:RayBackend",
    "slurm": "myosotis.slurm_backend:SlurmBackend",
}


def start_backend(options: Options) -> Backend | None:
    """Start what runs a study's trials; None where that is this machine.

    Raises:
        ConfigurationError: its packages are not installed, or it cannot run them.
    """
    if options.backend == "local":
        return None
    module, _, name = BACKENDS[options.backend].partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"hydra.launcher.backend={options.backend} must have {error.name}, but it is not installed; "
            f"pip install 'myosotis[{options.backend}]'"
        ) from error
    backend: Backend = kind(options)
    return backend
