"""How a search asks for trials: its sampler, its pruner, how many, and what for."""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from myosotis.errors import ConfigurationError, unknown_name

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

SAMPLERS: Mapping[str, str] = {
    "tpe": "TPESampler",
    "cmaes": "CmaEsSampler",
    "random": "RandomSampler",
    "grid": "GridSampler",
    "nsgaii": "NSGAIISampler",
}
"""Optuna's class of each sampler."""
PRUNERS: Mapping[str, str] = {
    "none": "NopPruner",
    "asha": "SuccessiveHalvingPruner",
    "median": "MedianPruner",
}
"""Optuna's class of each pruner."""
PRESET: Mapping[str, Mapping[str, Any]] = {
    "tpe": {"constant_liar": True},  # several suggestions at once must not be near each other
    "cmaes": {"warn_independent_sampling": False},
    "asha": {"min_resource": 1},  # an evaluation
}
"""Arguments that differ from Optuna's defaults."""
OURS = ("self", "seed", "search_space")
"""Arguments that are not the user's to give."""


@dataclass(frozen=True)
class SearchOptions:
    """The sweeper's parameters.

    Attributes:
        sampler: `tpe`, `cmaes`, `random`, `grid` or `nsgaii`.
        sampler_options: arguments of Optuna's class of that sampler.
        pruner: `none`, `asha` or `median`.
        pruner_options: arguments of Optuna's class of that pruner; a step is an evaluation.
        objectives: what is searched for, each as `learned`, `forgotten`, `forgotten_base` or `TASK.METRIC`.
        n_trials: how many suggestions the study has in total.
        n_jobs: how many are asked for at once.
        seed: the sampler's.
    """

    sampler: str = "tpe"
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    pruner: str = "none"
    pruner_options: Mapping[str, Any] = field(default_factory=dict)
    objectives: Sequence[str] = ("learned",)
    n_trials: int = 20
    n_jobs: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            value = str(getattr(self, name))
            if value not in known:
                raise ConfigurationError(f"hydra.sweeper.{name}: " + unknown_name(name, value, known))
        for name, least in (("n_trials", 1), ("n_jobs", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigurationError(f"hydra.sweeper.{name} must be at least {least}, but got {value!r}")
        self._check_objectives()

    def _check_objectives(self) -> None:
        names = list(self.objectives)
        if not names or len(set(names)) < len(names):
            raise ConfigurationError(
                f"hydra.sweeper.objective must name one number or several different ones, but got {names}"
            )
        if len(names) > 1 and self.prunes:
            raise ConfigurationError(
                f"hydra.sweeper.pruner must be none where there are several objectives, but got {self.pruner}: "
                f"{', '.join(names)} may disagree on which trial is hopeless; leave one, or prune nothing"
            )
        if len(names) > 1 and self.sampler == "cmaes":
            raise ConfigurationError(
                f"hydra.sweeper.sampler=cmaes must have one objective, but got {', '.join(names)}; take nsgaii "
                "or tpe"
            )

    @property
    def prunes(self) -> bool:
        """Whether hopeless trials end early."""
        return self.pruner != "none"

    def check_installed(self) -> None:
        """Refuse a search that lacks a package, or that gives Optuna's classes what they do not take.

        Raises:
            ConfigurationError: says what to install, or which arguments there are.
        """
        for package in ("optuna", *(["cmaes"] if self.sampler == "cmaes" else [])):
            if importlib.util.find_spec(package) is None:
                raise ConfigurationError(
                    f"hydra/sweeper=search must have the package {package}, but it is not installed; "
                    "pip install 'myosotis[search]'"
                )
        import optuna

        for name, cls, given in (
            ("sampler", getattr(optuna.samplers, SAMPLERS[self.sampler]), self.sampler_options),
            ("pruner", getattr(optuna.pruners, PRUNERS[self.pruner]), self.pruner_options),
        ):
            known = set(inspect.signature(cls.__init__).parameters) - {*OURS, "args", "kwargs"}
            for each in given:
                if each not in known:
                    path = f"hydra.sweeper.{name}_options"
                    raise ConfigurationError(
                        f"{path}: " + unknown_name(f"argument of {cls.__name__}", each, known)
                    )

    def make_sampler(self, number: int, grid: Mapping[str, Sequence[Any]] | None) -> BaseSampler:
        """Make what gives the suggestion of a number.

        A seed of its own for each: whoever asks for it, and after however many interruptions, the same number after
        the same results gets the same suggestion, and no two start alike.

        Args:
            number: the suggestion's, from 0.
            grid: each parameter's values, for the sampler that tries them all.

        Raises:
            ConfigurationError: Optuna refuses the options.
        """
        if self.sampler == "grid":
            # What a number means comes of the seed.
            return cast(
                "BaseSampler", _made("sampler", SAMPLERS["grid"], {"search_space": grid, "seed": self.seed})
            )
        options = {**PRESET.get(self.sampler, {}), **self.sampler_options, "seed": self.seed + number}
        return cast("BaseSampler", _made("sampler", SAMPLERS[self.sampler], options))

    def make_pruner(self) -> BasePruner:
        """Make what tells which trials are hopeless.

        Raises:
            ConfigurationError: Optuna refuses the options.
        """
        options = {**PRESET.get(self.pruner, {}), **self.pruner_options}
        return cast("BasePruner", _made("pruner", PRUNERS[self.pruner], options))


def _made(kind: str, name: str, options: Mapping[str, Any]) -> Any:
    import optuna

    cls = getattr(optuna.samplers if kind == "sampler" else optuna.pruners, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is new in Optuna says so
        try:
            return cls(**options)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"hydra.sweeper.{kind}_options: {name}: {error}") from error
