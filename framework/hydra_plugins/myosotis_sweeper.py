"""Hydra's sweeper for this project: arms times sweeps, a parameter only where its plugin is.

Hydra imports this module at the start of every Hydra program of the environment: no dataclasses, no
postponed annotations, no import of the core up here.
"""

from typing import Any, Optional

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class MyosotisSweeper(Sweeper):
    """Plans a study and hands its unfinished trials to the launcher.

    Args:
        params: the common sweep of a study file, as for Hydra's own sweeper.
    """

    def __init__(self, params: Optional[dict[str, Any]] = None) -> None:
        self.params = params or {}
        self.launcher: Optional[Launcher] = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives, and make the launcher."""
        from hydra.core.plugins import Plugins

        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the study that the arguments describe."""
        from myosotis.study import sweep
        from myosotis.trial_task import TrialTask

        assert self.launcher is not None
        assert self.hydra_context is not None
        assert self.config is not None
        assert isinstance(self.task_function, TrialTask), "this sweeper runs studies of myosotis only"
        loader = self.hydra_context.config_loader
        return sweep(arguments, self.params, self.config, self.launcher, loader, self.task_function)
