"""What a search has suggested, what came of it, and who works on it: kept in the study's journal."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from myosotis.errors import ConfigurationError
from myosotis.journal import FILE, open_journal
from myosotis.ledger import SEARCH, write_json
from myosotis.locks import FOLDER, Lock
from myosotis.points import Point
from myosotis.search_options import SearchOptions
from myosotis.search_space import Space

if TYPE_CHECKING:
    from optuna.storages import JournalStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

RECORD, TRIALS = "space", "trials"
"""Attributes: of a search, what may change a number; of a suggestion, its trials."""
PATIENCE = 60.0
Outcome = Sequence[float] | Literal["pruned", "failed"]


@dataclass(frozen=True)
class Suggestion:
    """What Optuna calls a trial, and its trials here: one a seed and order."""

    number: int
    points: Sequence[Point]


@final
class SearchJournal:
    """A search's suggestions; several commands may work on them at once.

    A lock tells who works on a suggestion. The kernel takes it back from whoever dies, and the suggestion is then
    anybody's, with the same values.

    Args:
        folder: the study's.
        options: how it asks.
        space: what it varies.
        directions: which way is better, by the objective.
    """

    def __init__(
        self,
        folder: Path,
        options: SearchOptions,
        space: Space,
        directions: Mapping[str, Literal["maximize", "minimize"]],
    ) -> None:
        self.folder = folder
        self.options = options
        self.space = space
        self.directions = directions
        self.name = folder.name
        self.total = options.n_trials
        self._grid = space.grid() if options.sampler == "grid" else None
        if self._grid is not None:
            self.total = min(self.total, math.prod(len(each) for each in self._grid.values()))
        self._held: dict[int, Lock] = {}
        self._study: Study | None = None
        self._storage: JournalStorage | None = None

    @property
    def record(self) -> dict[str, str]:
        """What may change a number."""
        return {**self.space.record(), "hydra.sweeper.objective": ",".join(self.directions)}

    # Before anything runs

    def look(self) -> int:
        """Count the suggestions that are still to be made or to end; writes nothing.

        Raises:
            ConfigurationError: the journal is of another search, and how that differs.
        """
        if not (self.folder / FILE).is_file():
            return self.total
        import optuna

        storage = open_journal(self.folder)
        names = optuna.get_all_study_names(storage)
        if not names:
            return self.total
        self.name = names[0]  # its folder may have been renamed
        study = optuna.load_study(study_name=self.name, storage=storage)
        self._check_same(study.user_attrs.get(RECORD, {}))
        ended = [each for each in study.get_trials(deepcopy=False) if each.state.is_finished()]
        return max(0, self.total - len(ended))

    def _check_same(self, before: Mapping[str, str]) -> None:
        now = self.record
        changed = [
            f"  {key}: was {before.get(key, 'not given')}, is {now.get(key, 'not given')}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise ConfigurationError(
                f"the search of study {self.folder.name} must be the same as when it began, for its scores to "
                "compare, but:\n" + "\n".join(changed) + "\ngive another study=NAME, or what it was"
            )

    def open(self) -> None:
        """Begin the search, or go on with it.

        Raises:
            ConfigurationError: as `look`, where another command has begun it meanwhile.
        """
        import optuna

        (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
        with self._alone():
            self._storage = open_journal(self.folder)
            self._study = optuna.create_study(
                study_name=self.name,
                storage=self._storage,
                directions=list(self.directions.values()),
                load_if_exists=True,
            )
            if RECORD in self._study.user_attrs:
                self._check_same(self._study.user_attrs[RECORD])
                return
            self._study.set_user_attr(RECORD, self.record)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is new in Optuna says so
                self._study.set_metric_names(list(self.directions))

    @property
    def study(self) -> Study:
        """The search, as Optuna has it."""
        assert self._study is not None, "the journal is not open yet"
        return self._study

    @property
    def storage(self) -> JournalStorage:
        """The journal."""
        assert self._storage is not None, "the journal is not open yet"
        return self._storage

    # While it runs

    def take(self) -> list[Suggestion]:
        """Give suggestions to work on: those whose command has died, then new ones; none where all are made."""
        import optuna

        with self._alone():
            free = (each for each in self._trials("RUNNING") if self._hold(each.number))
            taken = [
                self._suggested(optuna.trial.Trial(self._with_sampler(each.number), self._id(each.number)))
                for each in itertools.islice(free, self.options.n_jobs)
            ]
            while self.to_come() and len(taken) < self.options.n_jobs:
                trial = self._with_sampler(self._made()).ask()
                self._hold(trial.number)
                taken.append(self._suggested(trial))
            return taken

    def _with_sampler(self, number: int) -> Study:
        self.study.sampler = self.options.make_sampler(number, self._grid)
        return self.study

    def _suggested(self, trial: Trial) -> Suggestion:
        return Suggestion(trial.number, self.space.suggested(lambda wanted: wanted.suggest(trial)))

    def _trials(self, *states: str) -> list[FrozenTrial]:
        """List the suggestions in these states; one that waits was put there by somebody else."""
        return [each for each in self.study.get_trials(deepcopy=False) if each.state.name in states]

    def _id(self, number: int) -> int:
        study = self.storage.get_study_id_from_name(self.name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, number)

    def _hold(self, number: int) -> bool:
        """Take a suggestion, where no other command and no earlier round of this one has it."""
        if number in self._held:
            return False
        path = self.folder / FOLDER / f"suggestion-{number}.lock"
        lock = Lock(path, f"suggestion {number} of study {self.folder.name}", patience=0)
        if not lock.take():
            return False
        self._held[number] = lock
        return True

    def to_come(self) -> int:
        """Count the suggestions that are still to be made."""
        return max(0, self.total - self._made())

    def _made(self) -> int:
        return len(self._trials("RUNNING", "COMPLETE", "PRUNED", "FAIL"))

    def elsewhere(self) -> int:
        """Count the suggestions that other commands work on."""
        return sum(each.number not in self._held for each in self._trials("RUNNING"))

    def note_trials(self, number: int, trials: Sequence[str]) -> None:
        """Write down which trials are those of a suggestion."""
        self.storage.set_trial_user_attr(self._id(number), TRIALS, list(trials))

    def tell(self, number: int, outcome: Outcome) -> None:
        """Write down what came of a suggestion: a value an objective, or how it ended without."""
        import optuna

        states = {"pruned": optuna.trial.TrialState.PRUNED, "failed": optuna.trial.TrialState.FAIL}
        self.study.sampler = optuna.samplers.RandomSampler()  # the one that has no say in what is told
        if isinstance(outcome, str):
            self.study.tell(number, state=states[outcome])
        else:
            self.study.tell(number, list(outcome))
        self._held.pop(number).remove()
        self._write_summary()

    def _write_summary(self) -> None:
        """Write what a report shows, so that it needs no Optuna."""
        found = [_summary(each) for each in self.study.get_trials(deepcopy=False)]
        write_json(self.folder / SEARCH, {"directions": dict(self.directions), "suggestions": found})

    def close(self) -> None:
        """Leave the suggestions that have not ended to whoever comes next."""
        for lock in self._held.values():
            lock.release()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other command ask meanwhile: a number's suggestion comes of what was told before it."""
        with Lock(self.folder / FOLDER / "search.lock", f"the search of study {self.folder.name}", PATIENCE):
            yield


def _summary(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "values": trial.values,
        "params": trial.params,
        TRIALS: trial.user_attrs.get(TRIALS, []),
    }
