"""Hydra's launcher for this project: a study's trials together, in this process or in workers.

Hydra imports this module at the start of every Hydra program of the environment: no dataclasses, no
postponed annotations, no import of the core up here.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class MyosotisLauncher(Launcher):
    """Runs a study's trials, sharing what they have in common.

    Args:
        backend: where trials run; `local` is this machine.
        cohort: the most trials that train together on one base; `auto` measures.
        workers: processes at once; `auto` measures.
        retries: how often a trial is begun again after its worker died or memory ran out.
        fail_fast: whether the first failure ends the study.
    """

    def __init__(
        self,
        backend: str = "local",
        cohort: Any = "auto",
        workers: Any = "auto",
        retries: int = 1,
        fail_fast: bool = False,
    ) -> None:
        self.backend = backend
        self.settings = {"cohort": cohort, "workers": workers, "retries": retries, "fail_fast": fail_fast}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives.

        Raises:
            ConfigurationError: there is no such backend, or a parameter is not what it must be.
        """
        from myosotis.errors import ConfigurationError, unknown_name
        from myosotis.options import Options

        if self.backend != "local":
            raise ConfigurationError(
                "hydra.launcher.backend: " + unknown_name("backend", self.backend, ["local"])
            )
        self.options = Options(**self.settings)
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; one that fails does not end the others."""
        from myosotis.study import TrialTask

        assert isinstance(self.task_function, TrialTask), "this launcher runs studies of myosotis only"
        return self.task_function.launch(job_overrides, self.options)
