"""A search: Optuna suggests trials by what the earlier ones scored, in rounds of several at once."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from myosotis.backends import start_backend
from myosotis.config import Composer, plain
from myosotis.data_record import FILE, keep
from myosotis.errors import ConfigurationError, DataError, ModelError, TrialError, in_one_line
from myosotis.layout import Layout, PlannedTrial, plan, run_folder, study_folder
from myosotis.ledger import StudyRecord, status
from myosotis.points import Point
from myosotis.pruning import Pruning
from myosotis.search_check import check_search
from myosotis.search_journal import Outcome, SearchJournal, Suggestion
from myosotis.search_objective import SearchObjective
from myosotis.search_options import SearchOptions
from myosotis.search_space import Space
from myosotis.storage import check_writable
from myosotis.study import finish, folder_of_studies, launched
from myosotis.trial_task import TrialTask

WAIT_SECONDS = 1.0
"""How often to look whether another command has ended a suggestion."""


def search(
    arguments: Sequence[str],
    params: Mapping[str, Any],
    options: SearchOptions,
    master: DictConfig,
    launcher: Launcher,
    loader: Any,
    task: TrialTask,
) -> StudyRecord:
    """Run the search that a command describes, or what is left of it, and write its report.

    Args:
        arguments: the command's overrides.
        params: the study file's common sweep.
        options: how it asks for trials.
        master: the composed configuration of the study as a whole.
        launcher: runs the trials.
        loader: Hydra's configuration loader.
        task: what runs one trial.

    Raises:
        ConfigurationError: before anything is run.
        TrialsFailed: after every other trial has run.
    """
    options.check_installed()
    if getattr(getattr(launcher, "options", None), "detach", False):
        raise ConfigurationError(
            "hydra.launcher.detach must be false in a search, which suggests trials by what the earlier ones score"
        )
    if plain(master.arms):
        raise ConfigurationError(
            "a search must have no arms, for it chooses by itself; write them as choices, such as method=[A],[A,B]"
        )
    if master.force:
        raise ConfigurationError("force=true has nothing to begin anew in a search; give another study=NAME")
    compose = Composer(loader)
    space = Space(compose, task.config_name, params, arguments)
    folder = study_folder(compose, arguments, master, task.workspace.studies)
    corners = [
        plan(compose, task.config_name, points, folder, task.resolver, force=False)
        for points in space.corners()
    ]
    directions = check_search(options, space, [each.config for corner in corners for each in corner])
    journal = SearchJournal(folder, options, space, directions)
    if not journal.look():
        return finish(folder, task.workspace.registry, [], ran=False)
    running = Search(arguments, compose, journal, launcher, task)
    return running.run(corners, master.data_check)


@final
class Search:
    """A search while it runs.

    Args:
        arguments: the command's overrides.
        compose: composes trials.
        journal: what was suggested and told.
        launcher: runs the trials.
        task: what runs one trial.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        compose: Composer,
        journal: SearchJournal,
        launcher: Launcher,
        task: TrialTask,
    ) -> None:
        self.arguments = arguments
        self.compose = compose
        self.journal = journal
        self.launcher = launcher
        self.task = task
        self.folder = journal.folder
        self.options = journal.options
        self.replicates = 1
        self.failures: list[JobReturn] = []

    def run(self, corners: Sequence[Sequence[PlannedTrial]], looks_at_data: bool) -> StudyRecord:
        """Ask for suggestions, run their trials and tell what came of them, until all there shall be have ended.

        Args:
            corners: suggestions that stand for all others, which are checked in their stead.
            looks_at_data: whether to look for what is wrong with the data.

        Raises:
            ConfigurationError: a trial cannot run; nothing is written.
            TrialsFailed: after every other trial has run.
        """
        with folder_of_studies():
            check_writable(self.folder)
        self.replicates = max(map(len, corners))
        checked = list({each.entry.id: each for corner in corners for each in corner}.values())
        self.task.begin(Layout(self.folder, [], []), unknown=self.journal.look() * self.replicates)
        with self.task.progress.shown(), self._backend():
            self.task.take(Layout(self.folder, checked, checked))
            records = self.task.check(looks_at_data)
            with folder_of_studies():
                self.journal.open()
                keep(self.folder / FILE, records)
            try:
                self._rounds()
            finally:
                self.journal.close()
        return finish(self.folder, self.task.workspace.registry, self.failures, ran=True)

    def _rounds(self) -> None:
        waits = False
        while True:
            if suggestions := self.journal.take():
                self._round(suggestions)
                if self.failures and getattr(self._launch_options, "fail_fast", False):
                    return
            elif elsewhere := self.journal.elsewhere():
                if not waits:
                    self.task.progress.note(
                        f"another command works on {elsewhere} suggestions; this one waits for it"
                    )
                waits = True
                time.sleep(WAIT_SECONDS)
            else:
                return

    @contextlib.contextmanager
    def _backend(self) -> Iterator[None]:
        """Reach the machines that trials run on before anything is written, and keep to them between rounds."""
        backend = start_backend(self._launch_options) if self._launch_options is not None else None
        try:
            yield
        finally:
            if backend is not None:
                backend.close()

    @property
    def _launch_options(self) -> Any:
        return getattr(self.launcher, "options", None)

    def _round(self, suggestions: Sequence[Suggestion]) -> None:
        """Run the trials of some suggestions together, and tell what came of each."""
        planned: dict[int, Sequence[PlannedTrial]] = {}
        for each in suggestions:
            try:
                planned[each.number] = self._planned(each.points)
            except ConfigurationError as error:
                self._refuse(each.number, error)
        for number, trials in planned.items():
            self.journal.note_trials(number, [each.entry.id for each in trials])
        self.task.pruning = {
            each.entry.id: self._pruning(number)
            for number, trials in reversed(planned.items())
            for each in trials
            if self.options.prunes
        }
        self._launch(planned)

    def _planned(self, points: Sequence[Point]) -> list[PlannedTrial]:
        task = self.task
        return plan(self.compose, task.config_name, points, self.folder, task.resolver, force=False)

    def _pruning(self, number: int) -> Pruning:
        [objective] = self.journal.directions
        return Pruning(
            self.folder.absolute(),
            self.journal.name,
            number,
            objective,
            self.options.pruner,
            self.options.pruner_options,
        )

    def _launch(self, planned: Mapping[int, Sequence[PlannedTrial]]) -> None:
        """Run trials together; where one of them cannot run, each suggestion's by themselves."""
        trials = {each.entry.id: each for own in planned.values() for each in own}
        left = [each for each in trials.values() if self._ending(each) not in {"finished", "pruned"}]
        layout = Layout(self.folder, list(trials.values()), left)
        self.task.take(layout)
        self.task.progress.add(layout.trials(), unknown=self.journal.to_come() * self.replicates)
        with self.task.warm(self._launch_options):
            if refusal := self._refusal():
                returns: Sequence[JobReturn] = []
            else:
                returns = launched(layout, self.arguments, {}, self.launcher)
        if refusal:
            self._sort_out(planned, refusal)
            return
        self.failures += [each for each in returns if each.status == JobStatus.FAILED]
        for number, own in planned.items():
            self._tell(number, own)

    def _refusal(self) -> ConfigurationError | None:
        """Check the trials of a round; give what is wrong with the values that were suggested."""
        try:
            self.task.check(looks_at_data=False)
        except (DataError, ModelError):
            raise  # it is not what was suggested that is wrong
        except ConfigurationError as error:
            return error
        return None

    def _sort_out(self, planned: Mapping[int, Sequence[PlannedTrial]], refusal: ConfigurationError) -> None:
        """Run those suggestions that can run, each by itself."""
        if len(planned) == 1:
            self._refuse(next(iter(planned)), refusal)
            return
        for number, own in planned.items():
            self._launch({number: own})

    def _ending(self, trial: PlannedTrial) -> str:
        return status(run_folder(self.folder, trial.entry))

    def _refuse(self, number: int, error: ConfigurationError) -> None:
        """Take a suggestion for failed whose values cannot be together."""
        if isinstance(error, DataError | ModelError):
            raise error
        self.task.progress.note(f"suggestion {number} cannot run: {error}")
        failure = JobReturn(status=JobStatus.FAILED, overrides=[f"suggestion {number}"])
        failure.return_value = TrialError(f"suggestion {number}: {in_one_line(error)}")
        self.failures.append(failure)
        self.journal.tell(number, "failed")

    def _tell(self, number: int, trials: Sequence[PlannedTrial]) -> None:
        """Tell what came of a suggestion; one that something has kept from its end is left for another command."""
        outcome = self._outcome(trials)
        if not isinstance(outcome, str) and outcome is not None and any(map(math.isnan, outcome)):
            self.task.progress.note(
                f"suggestion {number} is taken for failed: its trials finished without a value"
            )
            outcome = "failed"
        if outcome is not None:
            self.journal.tell(number, outcome)

    def _outcome(self, trials: Sequence[PlannedTrial]) -> Outcome | None:
        endings = {self._ending(each) for each in trials}
        if "failed" in endings:
            return "failed"
        if "pruned" in endings:
            return "pruned"
        if endings != {"finished"}:
            return None
        folders = [run_folder(self.folder, each.entry) for each in trials]
        return [
            math.fsum(SearchObjective(name).value(folder) for folder in folders) / len(folders)
            for name in self.journal.directions
        ]
