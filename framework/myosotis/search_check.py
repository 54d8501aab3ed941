"""What cannot be searched, found before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from myosotis.errors import ConfigurationError
from myosotis.resolve import TrialConfig
from myosotis.search_objective import SearchObjective
from myosotis.search_options import SearchOptions
from myosotis.search_space import Space
from myosotis.trial_data import DEFAULT_STEPS


def check_search(
    options: SearchOptions, space: Space, configs: Sequence[TrialConfig]
) -> dict[str, Literal["maximize", "minimize"]]:
    """Refuse what cannot be searched; give which way is better, by the objective.

    Args:
        options: how the search asks for trials.
        space: what it varies.
        configs: trials that stand for all.

    Raises:
        ConfigurationError: says what does not fit.
    """
    options.make_sampler(0, space.grid() if options.sampler == "grid" else None)
    options.make_pruner()
    if options.sampler == "cmaes" and not space.is_numeric:
        raise ConfigurationError(
            "hydra.sweeper.sampler=cmaes must have a parameter that is a number, such as 'KEY=interval(0,1)', but "
            "all are choices; take another sampler, such as tpe"
        )
    for config in configs if options.prunes else ():
        _check_evaluated(options.pruner, config)
    return {name: SearchObjective(name).direction(configs) for name in options.objectives}


def _check_evaluated(pruner: str, config: TrialConfig) -> None:
    """Refuse to prune where nothing is scored before a stage's end."""
    every, trainer = config.evaluation.every, config.trainer
    steps = trainer.max_steps or DEFAULT_STEPS
    known = trainer.max_epochs is None and trainer.max_tokens is None
    if every == 0 or (known and every >= steps):
        end = f", and a stage has {steps} steps" if every else ""
        raise ConfigurationError(
            f"hydra.sweeper.pruner={pruner} must have evaluations within a stage to judge by, but evaluation.every "
            f"is {every}{end}; set it to fewer steps than a stage has"
        )
