"""Running the trials of a study that are left: Hydra's task function."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from myosotis.course import Course
from myosotis.data_record import DataRecord
from myosotis.errors import TrialError
from myosotis.layout import Layout, PlannedTrial, run_folder, trial_name
from myosotis.ledger import status
from myosotis.live import progress_of
from myosotis.options import Options
from myosotis.plugins import Registry
from myosotis.progress import PlainLines, Progress
from myosotis.resolve import Resolver, TrialConfig

if TYPE_CHECKING:
    from myosotis.job import Job
    from myosotis.launching import Launch
    from myosotis.pruning import Pruning
    from myosotis.workers import ForkServer


class TrialTask:
    """Hydra's task function: runs the trial of one composed configuration, or a study's trials together."""

    def __init__(
        self, registry: Registry, studies: Path, config_name: str, server: ForkServer | None = None
    ) -> None:
        from myosotis.workspace import Workspace

        self.config_name = config_name
        self.server = server
        self.workspace = Workspace(studies, registry)
        self.resolver = Resolver(registry)
        self.study = ""
        self.left: Sequence[PlannedTrial] = ()
        self.stackable: dict[str, bool] = {}
        self.pruning: Mapping[str, Pruning] = {}
        self.progress: Progress = PlainLines(Course({}))
        self._warm: Launch | None = None

    def begin(self, layout: Layout, unknown: int = 0) -> None:
        """Take what is about to run, and show it.

        Args:
            layout: the study's trials.
            unknown: how many more will come that nobody knows yet.
        """
        self.take(layout)
        self.progress = progress_of(Course(layout.trials(), layout.folder.name, unknown))

    def take(self, layout: Layout) -> None:
        """Take what is about to run, where the study is shown already."""
        self.study, self.left = layout.folder.name, layout.left

    @contextlib.contextmanager
    def warm(self, options: Options | None) -> Iterator[None]:
        """Start what takes long to be ready before the trials are checked; what launches them uses it."""
        if self.left and options is not None:
            self._warm = self.prepared(self.left, options)
        try:
            yield
        finally:
            if self._warm is not None:
                self._warm.close()
                self._warm = None

    def check(self, looks_at_data: bool) -> Mapping[str, DataRecord]:
        """Find what would stop the trials that are left, before anything trains; say what is wrong with the data.

        Raises:
            ConfigurationError: says what would stop which trial.
            DataError: nothing should be trained on its data.
        """
        from myosotis.report import warm_up

        asked = [" ".join(each.overrides) for each in self.left]
        found = self._warm.check(asked, looks_at_data, meanwhile=warm_up) if self._warm is not None else None
        if found is None:
            from myosotis.study_check import check_study

            trials = list(zip(asked, [each.config for each in self.left], strict=True))
            found = check_study(trials, self.workspace, looks_at_data)
        self.stackable.update(found.stackable)
        for note in found.notes():
            self.progress.note(note)
        return found.data

    def __call__(self, config: DictConfig) -> None:
        """Run one trial in the place that its study gave it: what any of Hydra's launchers calls."""
        trial = self.resolver.resolve(config)
        planned = next((each for each in self.left if each.entry.id == trial.id), None)
        if planned is None:
            raise TrialError(
                f"the trial must be one that study {self.study} lists, but its id came out as {trial.id}: a "
                "configuration file or data changed while the study ran. Run the command again"
            )
        failed = self._run(self.prepared([planned], Options(cohort=1, workers=1)))
        if failed:
            raise TrialError(failed[trial.id])

    def launch(self, job_overrides: Sequence[Sequence[str]], options: Options) -> list[JobReturn]:
        """Run the study's trials on this machine; what became of each stands in its return.

        Raises:
            Interrupted: asked to stop; everything is saved.
        """
        failed = self._run(self._warm or self.prepared(self.left, options))
        folder = self.workspace.studies / self.study
        returns = []
        for planned, overrides in zip(self.left, job_overrides, strict=True):
            job = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
            if not self._has_ended(planned, folder):
                if options.detach and planned.entry.id not in failed:
                    returns.append(JobReturn(overrides=list(overrides)))  # it is the cluster's now
                    continue
                job.status = JobStatus.FAILED
                job.return_value = TrialError(
                    failed.get(planned.entry.id, f"{trial_name(planned.entry)}: not run")
                )
            returns.append(job)
        return returns

    def _has_ended(self, planned: PlannedTrial, folder: Path) -> bool:
        state = status(run_folder(folder, planned.entry))
        return state == "finished" or (state == "pruned" and planned.entry.id in self.pruning)

    def prepared(self, planned: Sequence[PlannedTrial], options: Options) -> Launch:
        """Give what would run trials."""
        from myosotis.backends import start_backend
        from myosotis.launching import Launch

        folder = self.workspace.studies / self.study
        return Launch(
            folder,
            [job_of(each, folder, self.pruning.get(each.entry.id)) for each in planned],
            [each.config for each in planned],
            self.stackable,
            self.resolver,
            self.workspace,
            self.progress,
            options,
            start_backend(options) if planned else None,
            ahead=self._server_ahead(),
        )

    def _server_ahead(self) -> ForkServer | None:
        """Give the process that was started ahead, once: what uses it ends it."""
        server, self.server = self.server, None
        return server

    def _run(self, launch: Launch) -> dict[str, str]:
        names = {job.id: job for job in launch.jobs}
        return {
            trial: f"{names[trial].name}: {error}\n    " + os.path.relpath(names[trial].folder / "error.txt")
            for trial, error in launch.run().items()
        }


def job_of(planned: PlannedTrial, folder: Path, pruning: Pruning | None = None) -> Job:
    """Give a trial of a study as what runs it takes it."""
    from myosotis.job import Job

    own = run_folder(folder, planned.entry)
    config = whole_config(planned.config)
    return Job(planned.entry.id, trial_name(planned.entry), own, folder.name, config, pruning)


def whole_config(config: TrialConfig) -> dict[str, Any]:
    """Give a trial's resolved configuration, with the logger's node."""
    return {**config.resolved, "logger": OmegaConf.to_container(config.logger)}
