"""Hydra's launcher for this project: a study's trials in one process.

Hydra imports this module at the start of every Hydra program of the environment: no dataclasses, no
postponed annotations, no import of the core up here.
"""

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class MyosotisLauncher(Launcher):
    """Runs trials one after another, sharing what they have in common.

    Args:
        backend: where trials run; `local` is this process.
    """

    def __init__(self, backend: str = "local") -> None:
        self.backend = backend

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives.

        Raises:
            ConfigurationError: there is no such backend.
        """
        from myosotis.errors import ConfigurationError, unknown_name

        if self.backend != "local":
            raise ConfigurationError(
                "hydra.launcher.backend: " + unknown_name("backend", self.backend, ["local"])
            )
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; one that fails does not end the others."""
        from myosotis.study import launch_local

        return launch_local(job_overrides, self.config, self.hydra_context.config_loader, self.task_function)
