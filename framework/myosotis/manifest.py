"""What a trial ran with and on: versions, plugins, git, hardware, and what of the model trained."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from myosotis.interfaces import Plugin
from myosotis.plugins import Registry, source_hash
from myosotis.resolve import TrialConfig

PACKAGES = (
    "myosotis",
    "torch",
    "lightning",
    "transformers",
    "peft",
    "bitsandbytes",
    "hydra-core",
    "omegaconf",
    "numpy",
)


def environment(registry: Registry, config: TrialConfig) -> dict[str, Any]:
    """Describe the process: versions, hardware, threads, git state, and the plugins in use."""
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "plugins": _plugins(registry, config),
        "git": git_state(),
        "hardware": {
            "platform": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _plugins(registry: Registry, config: TrialConfig) -> dict[str, dict[str, Any]]:
    used: dict[str, Plugin] = {"model": config.model}
    used |= {f"method.{name}": method for name, method in config.methods.items()}
    used |= {f"{task.role}.{task.name}": task.dataset for task in config.tasks.values()}
    origins = {found.cls: found for found in registry}
    return {
        path: {
            "class": f"{type(plugin).__module__}.{type(plugin).__qualname__}",
            "origin": str(origins.get(type(plugin), "not registered")),
            "version": plugin.version,
            "source": source_hash(type(plugin)),
        }
        for path, plugin in used.items()
    }


def git_state() -> dict[str, Any] | None:
    """Give the commit of the working folder and whether it has changes; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    commit, _, dirty = done.stdout.strip().partition("-")
    return {"commit": commit, "dirty": bool(dirty)}


def parameters_by_module(parameters: Mapping[str, nn.Parameter]) -> dict[str, int]:
    """Count the parameters that train, by the module that they belong to."""
    counts: dict[str, int] = {}
    for name, parameter in parameters.items():
        module = name.rpartition(".")[0] or name
        counts[module] = counts.get(module, 0) + parameter.numel()
    return counts


def peak_memory(device: torch.device) -> int:
    """Give the most memory used so far: the device's on a GPU, else the process's; bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
