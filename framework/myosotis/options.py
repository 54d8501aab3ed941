"""How a study's trials are run: the launcher's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from myosotis.errors import ConfigurationError, check_parameters, unknown_name
from myosotis.slurm_options import SlurmOptions

BACKENDS = ("local", "ray", "slurm")


@dataclass(frozen=True)
class RayOptions:
    """Which Ray cluster runs the trials.

    Attributes:
        address: where its head is, as host:port; None is the one that `RAY_ADDRESS` names, else one that is
            started on this machine for the command.
    """

    address: str | None = None

    def __post_init__(self) -> None:
        if self.address is not None and not isinstance(self.address, str):
            raise ConfigurationError(f"hydra.launcher.ray.address must be text, but got {self.address!r}")


@dataclass(frozen=True)
class Options:
    """How a study's trials are run.

    Attributes:
        backend: where they run; `local` is this machine.
        cohort: the most trials that train together; `auto` measures.
        workers: processes at once; `auto` measures, or takes all that a cluster has room for.
        retries: how often a trial is begun again after its worker died or memory ran out.
        fail_fast: whether the first failure ends the study.
        cpus: cores of each worker on a cluster.
        gpus: GPUs of each worker on a cluster.
        memory_gigabytes: memory that each worker on a cluster may have; None asks for none.
        detach: whether to leave the trials to the cluster once they are submitted.
        ray: which Ray cluster.
        slurm: what SLURM is told of the jobs.
    """

    backend: str = "local"
    cohort: int | Literal["auto"] = "auto"
    workers: int | Literal["auto"] = "auto"
    retries: int = 1
    fail_fast: bool = False
    cpus: int = 1
    gpus: float = 0
    memory_gigabytes: float | None = None
    detach: bool = False
    ray: RayOptions = field(default_factory=RayOptions)
    slurm: SlurmOptions = field(default_factory=SlurmOptions)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Make them of plain values, as a configuration has them.

        Raises:
            ConfigurationError: one is not what it must be.
        """
        ray = values.get("ray") or {}
        check_parameters("hydra.launcher", values, [each.name for each in fields(cls)])
        check_parameters("hydra.launcher.ray", ray, [each.name for each in fields(RayOptions)])
        slurm = SlurmOptions.of(values.get("slurm") or {})
        return cls(**{**values, "ray": RayOptions(**ray), "slurm": slurm})

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ConfigurationError(
                "hydra.launcher.backend: " + unknown_name("backend", str(self.backend), BACKENDS)
            )
        for name in ("cohort", "workers"):
            value = getattr(self, name)
            if value != "auto" and not _is_count(value, 1):
                raise ConfigurationError(
                    f"hydra.launcher.{name} must be auto or at least 1, but got {value!r}"
                )
        for name, least in (("retries", 0), ("cpus", 1)):
            if not _is_count(getattr(self, name), least):
                raise ConfigurationError(
                    f"hydra.launcher.{name} must be at least {least}, but got {getattr(self, name)!r}"
                )
        if not _is_amount(self.gpus) or self.gpus < 0:
            raise ConfigurationError(f"hydra.launcher.gpus must be at least 0, but got {self.gpus!r}")
        memory = self.memory_gigabytes
        if memory is not None and (not _is_amount(memory) or memory <= 0):
            raise ConfigurationError(f"hydra.launcher.memory_gigabytes must be above 0, but got {memory!r}")
        if self.detach and self.backend != "slurm":
            raise ConfigurationError(
                f"hydra.launcher.detach=true must be with hydra.launcher.backend=slurm, but got {self.backend}: "
                "nothing else keeps the trials when the command has ended; leave it out"
            )
        if self.backend == "local":
            self._check_local()

    def _check_local(self) -> None:
        """Refuse what this machine does not heed: here workers share its cores, and each has a GPU of its own."""
        defaults = {each.name: each.default for each in fields(Options)}
        for name in ("cpus", "gpus", "memory_gigabytes"):
            value = getattr(self, name)
            if value != defaults[name]:
                raise ConfigurationError(
                    f"hydra.launcher.{name} is for clusters, but got {value!r} with hydra.launcher.backend=local; "
                    f"give one of {', '.join(BACKENDS[1:])}, or leave it out: here workers share the cores, and "
                    "each has one of the GPUs"
                )

    def resources(self) -> str:
        """Say what a worker on a cluster asks for."""
        asked = [f"cpus={self.cpus}", f"gpus={self.gpus:g}"]
        if self.memory_gigabytes is not None:
            asked.append(f"memory_gigabytes={self.memory_gigabytes:g}")
        return ", ".join(f"hydra.launcher.{each}" for each in asked)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
