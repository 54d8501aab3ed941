"""Looking at this environment: what works, what does not, and what to do."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import platform
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement

from myosotis.errors import first_line
from myosotis.ledger import cache_folder
from myosotis.storage import size

SMALL_BYTES = 2_000_000_000
"""Less free memory or disk than this is told as something to look at."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found of one part of the environment.

    Attributes:
        part: what was looked at.
        state: `problem` where studies fail, `note` where something that they may want is not there.
        found: what is there.
        advice: what to do, where there is something.
    """

    part: str
    state: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""


def diagnoses(studies: Path) -> Iterator[Diagnosis]:
    """Look at every part, one after another; what cannot be looked at is a problem of its own.

    Args:
        studies: where studies would be written.
    """
    parts: Sequence[tuple[str, Callable[[], Iterator[Diagnosis]]]] = [
        ("python", _python),
        ("packages", _packages),
        ("devices", _devices),
        ("bitsandbytes", _bitsandbytes),
        ("memory", _memory),
        ("disk", lambda: _disk(studies)),
        ("wandb", _wandb),
        ("plugins", _plugins),
        ("clusters", _clusters),
    ]
    for part, look in parts:
        try:
            yield from look()
        except Exception as error:  # the very thing that a doctor is called for
            yield Diagnosis(
                part, "problem", first_line(error), "install anew: pip install --force-reinstall myosotis"
            )


def _python() -> Iterator[Diagnosis]:
    version = platform.python_version()
    yield Diagnosis("python", "ok", f"{version} on {platform.system()} {platform.machine()}")


def _packages() -> Iterator[Diagnosis]:
    """Hold what is installed against what this distribution asks for, and each extra of it."""
    missing: dict[str, list[str]] = defaultdict(list)
    extras = metadata.metadata("myosotis").get_all("Provides-Extra") or []
    for text in metadata.requires("myosotis") or []:
        requirement = Requirement(text)
        for extra in ["", *extras]:
            asked = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            if asked and not (extra and requirement.marker is None) and (lack := _lack(requirement)):
                missing[extra].append(lack)
    if missing[""]:
        advice = "the install may have been interrupted: pip install --upgrade myosotis"
        yield Diagnosis("packages", "problem", ", ".join(missing[""]), advice)
    else:
        yield Diagnosis("packages", "ok", f"myosotis {metadata.version('myosotis')} and all that it requires")
    for extra in extras:
        if missing[extra]:
            yield Diagnosis(
                f"extra {extra}", "note", ", ".join(missing[extra]), f"pip install 'myosotis[{extra}]'"
            )


def _lack(requirement: Requirement) -> str:
    """Say what is wrong with the package that a requirement asks for; nothing where it is there."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} {version} is not {requirement.specifier}"


def _devices() -> Iterator[Diagnosis]:
    import torch

    from myosotis.workers import available_cores

    cores = f"torch {torch.__version__}, {available_cores()} cores, {torch.get_num_threads()} threads"
    if not torch.cuda.is_available():
        advice = ""
        if shutil.which("nvidia-smi"):
            advice = "there is a driver, but this build of torch does not see a GPU: install torch for CUDA"
        yield Diagnosis(
            "devices", "note" if advice else "ok", f"{cores}, no GPU: trials train on the CPU", advice
        )
        return
    yield Diagnosis("devices", "ok", cores)
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Diagnosis(f"GPU {index}", "ok", f"{name}, {size(free)} of {size(total)} free")


def _bitsandbytes() -> Iterator[Diagnosis]:
    """Quantize a matrix, as `model.quantization=nf4` does."""
    import torch

    with contextlib.redirect_stderr(io.StringIO()):  # it tells of faster kernels that it does not need
        import bitsandbytes

    weights = torch.linspace(-1, 1, 64 * 64).reshape(64, 64)
    packed, state = bitsandbytes.functional.quantize_4bit(weights, quant_type="nf4")
    worst = (bitsandbytes.functional.dequantize_4bit(packed, state) - weights).abs().max()
    if worst > 0.2:
        yield Diagnosis("bitsandbytes", "problem", "4 bits lose more than they must", "install it anew")
    else:
        yield Diagnosis("bitsandbytes", "ok", f"{bitsandbytes.__version__}, quantizes here")


def _memory() -> Iterator[Diagnosis]:
    memory = psutil.virtual_memory()
    small = memory.available < SMALL_BYTES
    found = f"{size(memory.available)} of {size(memory.total)} free"
    yield Diagnosis("memory", "note" if small else "ok", found, "close other programs" if small else "")


def _disk(studies: Path) -> Iterator[Diagnosis]:
    for part, folder, setting in [
        ("studies", studies, "give another folder as studies=FOLDER"),
        ("cache", cache_folder(), "name another folder in MYOSOTIS_CACHE"),
    ]:
        there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            yield Diagnosis(part, "problem", f"{folder}: {error.strerror or error}", setting)
            continue
        free = shutil.disk_usage(there).free
        small = free < SMALL_BYTES
        yield Diagnosis(
            part, "note" if small else "ok", f"{folder}: {size(free)} free", setting if small else ""
        )


def _wandb() -> Iterator[Diagnosis]:
    from myosotis.tracking import wandb_mode

    os.environ.setdefault("WANDB_SILENT", "true")
    mode = wandb_mode()
    found = f"{metadata.version('wandb')}, runs are logged {mode}"
    if mode == "online":
        yield Diagnosis("wandb", "ok", found)
    else:
        yield Diagnosis("wandb", "note", found, "wandb login, or WANDB_MODE=online; logger=none does without")


def _plugins() -> Iterator[Diagnosis]:
    from myosotis.errors import PluginError
    from myosotis.plugins import load_registry

    try:
        registry = load_registry()
    except PluginError as error:
        yield Diagnosis("plugins", "problem", str(error), "mend it, or uninstall its package")
        return
    packages = sorted({each.distribution for each in registry})
    yield Diagnosis("plugins", "ok", f"{len(list(registry))} of {', '.join(packages)}")
    for broken in registry.broken:
        yield Diagnosis("plugins", "problem", str(broken), "mend it, or uninstall its package")


def _clusters() -> Iterator[Diagnosis]:
    """Say which backends there are beside this machine."""
    from myosotis import slurm

    ray = importlib.util.find_spec("ray") is not None
    found = [f"Ray {metadata.version('ray')}" if ray else "no Ray"]
    if shutil.which("sbatch") is None:
        yield Diagnosis("clusters", "ok", f"{found[0]}, no SLURM")
        return
    try:
        partitions = sorted({node.partition for node in slurm.nodes()})
    except slurm.SlurmError as error:
        yield Diagnosis("clusters", "note", f"{found[0]}, SLURM does not answer: {error}", "ask who runs it")
        return
    yield Diagnosis("clusters", "ok", f"{found[0]}, SLURM with the partitions {', '.join(partitions)}")
