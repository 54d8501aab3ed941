"""Hydra's sweeper for this project that searches: Optuna suggests trials by what the earlier ones scored.

Hydra imports this module at the start of every Hydra program of the environment: no dataclasses, no
postponed annotations, no import of the core up here.
"""

from typing import Any, Optional

from hydra_plugins.myosotis_sweeper import MyosotisSweeper


class MyosotisSearch(MyosotisSweeper):
    """Searches with Optuna, and hands what it suggests to the launcher.

    Args:
        sampler: `tpe`, `cmaes`, `random`, `grid` or `nsgaii`.
        sampler_options: arguments of Optuna's class of that sampler.
        pruner: `none`, `asha` or `median`.
        pruner_options: arguments of Optuna's class of that pruner.
        objective: what is searched for, one name or a list.
        n_trials: how many suggestions the study has in total.
        n_jobs: how many are asked for at once.
        seed: the sampler's.
        params: the common sweep of a study file, as for Hydra's own sweeper.
    """

    def __init__(
        self,
        sampler: str = "tpe",
        sampler_options: Optional[dict[str, Any]] = None,
        pruner: str = "none",
        pruner_options: Optional[dict[str, Any]] = None,
        objective: Any = "learned",
        n_trials: int = 20,
        n_jobs: int = 4,
        seed: int = 0,
        params: Optional[dict[str, Any]] = None,
    ) -> None:
        super().__init__(params)
        self.settings: dict[str, Any] = {
            "sampler": sampler,
            "sampler_options": dict(sampler_options or {}),
            "pruner": pruner,
            "pruner_options": dict(pruner_options or {}),
            "objectives": [objective] if isinstance(objective, str) else list(objective or []),
            "n_trials": n_trials,
            "n_jobs": n_jobs,
            "seed": seed,
        }

    def sweep(self, arguments: list[str]) -> Any:
        """Run the search that the arguments describe."""
        from myosotis.search import search
        from myosotis.search_options import SearchOptions
        from myosotis.trial_task import TrialTask

        assert self.launcher is not None
        assert self.hydra_context is not None
        assert self.config is not None
        assert isinstance(self.task_function, TrialTask), "this sweeper runs studies of myosotis only"
        return search(
            arguments,
            self.params,
            SearchOptions(**self.settings),
            self.config,
            self.launcher,
            self.hydra_context.config_loader,
            self.task_function,
        )
