"""How a study's trials are run on this machine: the launcher's parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from myosotis.errors import ConfigurationError


@dataclass(frozen=True)
class Options:
    """How a study's trials are run on this machine.

    Attributes:
        cohort: the most trials that train together; `auto` measures.
        workers: processes at once; `auto` measures.
        retries: how often a trial is begun again after its worker died or memory ran out.
        fail_fast: whether the first failure ends the study.
    """

    cohort: int | Literal["auto"] = "auto"
    workers: int | Literal["auto"] = "auto"
    retries: int = 1
    fail_fast: bool = False

    def __post_init__(self) -> None:
        for name in ("cohort", "workers"):
            value = getattr(self, name)
            if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ConfigurationError(
                    f"hydra.launcher.{name} must be auto or at least 1, but got {value!r}"
                )
        if not isinstance(self.retries, int) or self.retries < 0:
            raise ConfigurationError(f"hydra.launcher.retries must be at least 0, but got {self.retries!r}")
