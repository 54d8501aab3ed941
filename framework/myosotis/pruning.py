"""Ending a search's hopeless trials early, from wherever they run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from myosotis.journal import open_journal
from myosotis.ledger import Score
from myosotis.resolve import TrialConfig
from myosotis.search_objective import SearchObjective
from myosotis.search_options import SearchOptions

if TYPE_CHECKING:
    from optuna.storages import JournalStorage
    from optuna.study import Study

PRUNED = "pruned"
"""The attribute of a suggestion that was given up: the evaluation at which it was."""


@dataclass(frozen=True)
class Pruning:
    """By what a trial is held against those of other suggestions, as plain values.

    Attributes:
        journal: the study's folder, where the journal lies.
        name: the search's name in it.
        suggestion: the number of the trial's own.
        objective: what is compared.
        pruner: which rule.
        options: its arguments.
    """

    journal: Path
    name: str
    suggestion: int
    objective: str
    pruner: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def watch(self, config: TrialConfig) -> Watch:
        """Open the journal for a trial."""
        return Watch(self, config)


def points(scores: Sequence[Score]) -> int:
    """Count a trial's evaluations, without that of the base: what an evaluation is numbered by."""
    return len({(each.stage, each.step) for each in scores if each.stage > 0})


@final
class Watch:
    """A trial's line to the journal of its search.

    A suggestion has a trial a seed and order; what counts is their mean, over those that have come as far.

    Args:
        pruning: what is compared, and how.
        config: the trial.
    """

    def __init__(self, pruning: Pruning, config: TrialConfig) -> None:
        import optuna

        self.pruning = pruning
        self.config = config
        self.storage: JournalStorage = open_journal(pruning.journal)
        options = SearchOptions(pruner=pruning.pruner, pruner_options=pruning.options)
        self.study: Study = optuna.load_study(
            study_name=pruning.name,
            storage=self.storage,
            sampler=optuna.samplers.RandomSampler(),
            pruner=options.make_pruner(),
        )
        study = self.storage.get_study_id_from_name(pruning.name)
        self._id = self.storage.get_trial_id_from_study_id_trial_number(study, pruning.suggestion)

    def report(self, scores: Sequence[Score]) -> None:
        """Tell how good the trial is at its latest evaluation; nothing where that has no value yet."""
        value, point = SearchObjective(self.pruning.objective).so_far(self.config, scores), points(scores)
        if math.isnan(value) or self._over():
            return
        self.storage.set_trial_user_attr(self._id, f"{point} {self.config.id}", value)
        own = [
            each
            for name, each in self.storage.get_trial(self._id).user_attrs.items()
            if name.startswith(f"{point} ")
        ]
        self.storage.set_trial_intermediate_value(self._id, point, sum(own) / len(own))

    def is_hopeless(self) -> bool:
        """Tell whether to give the trial up, by what was reported last; once so, for all of the suggestion."""
        if self.is_given_up() or self._over():
            return self.is_given_up()
        trial = self.storage.get_trial(self._id)
        hopeless = trial.last_step is not None and self.study.pruner.prune(self.study, trial)
        if hopeless:
            self.storage.set_trial_user_attr(self._id, PRUNED, trial.last_step)
        return hopeless

    def is_given_up(self) -> bool:
        """Tell whether another trial of the suggestion was hopeless."""
        return PRUNED in self.storage.get_trial(self._id).user_attrs

    def _over(self) -> bool:
        return bool(self.storage.get_trial(self._id).state.is_finished())
