"""Hydra's launcher for this project: a study's trials together, in this process, in workers or on a cluster.

Hydra imports this module at the start of every Hydra program of the environment: no dataclasses, no
postponed annotations, no import of the core up here.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class MyosotisLauncher(Launcher):
    """Runs a study's trials, sharing what they have in common.

    Args:
        settings: what `myosotis.options.Options` describes.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives.

        Raises:
            ConfigurationError: a parameter is not what it must be.
        """
        from myosotis.options import Options

        settings: Any = OmegaConf.to_container(OmegaConf.create(self.settings))
        self.options = Options.of(settings)
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; one that fails does not end the others."""
        from myosotis.trial_task import TrialTask

        assert isinstance(self.task_function, TrialTask), "this launcher runs studies of myosotis only"
        return self.task_function.launch(job_overrides, self.options)
