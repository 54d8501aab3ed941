"""A study: which trials answer its question, which of them are done, and running the rest."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from myosotis.config import Composer, composer, explained, is_name, plain
from myosotis.course import Course, State, TrialCourse
from myosotis.data_record import FILE, DataRecord, keep
from myosotis.errors import (
    ConfigurationError,
    StorageError,
    TrialError,
    TrialsFailed,
    in_one_line,
)
from myosotis.ledger import (
    PREFIX_FOLDER,
    StudyRecord,
    TrialEntry,
    find_study,
    list_attempts,
    place,
    read_study,
    status,
    write_study,
)
from myosotis.live import progress_of
from myosotis.locks import StudyLock
from myosotis.options import Options
from myosotis.plugins import Registry, load_registry
from myosotis.points import Point, default_name, expand, whole
from myosotis.progress import PlainLines, Progress
from myosotis.resolve import Resolver, TrialConfig
from myosotis.storage import check_writable

if TYPE_CHECKING:
    from myosotis.job import Job
    from myosotis.launching import Launch
    from myosotis.planning import StudyPlan
    from myosotis.pruning import Pruning
    from myosotis.workers import ForkServer


@dataclass(frozen=True)
class PlannedTrial:
    """A trial with its configuration, its id and its place on disk."""

    entry: TrialEntry
    config: TrialConfig
    overrides: tuple[str, ...]


def run(
    overrides: Sequence[str], config_name: str = "config", server: ForkServer | None = None
) -> StudyRecord:
    """Run the study that overrides describe, or what is left of it, and write its report.

    Args:
        overrides: Hydra's override grammar, as on the command line.
        config_name: the primary configuration.
        server: a process that workers can come from, where one was started ahead.

    Raises:
        ConfigurationError: before anything is run.
        TrialsFailed: after every other trial has run.
    """
    with composer() as compose, explained():
        arguments, master = _whole(compose, overrides, config_name)
        sweeper = Plugins.instance().instantiate_sweeper(
            config=master,
            hydra_context=_hydra_context(compose, master),
            task_function=TrialTask(load_registry(), Path(master.studies).absolute(), config_name, server),
        )
        return sweeper.sweep(arguments)  # type: ignore[no-any-return]


def plan_study(
    overrides: Sequence[str],
    price_per_hour: float | None = None,
    measures: bool = True,
    config_name: str = "config",
) -> StudyPlan:
    """Say what `run` would do with the same overrides, and what that takes; writes nothing.

    Args:
        overrides: Hydra's override grammar, as on the command line.
        price_per_hour: of the machine, in whatever money.
        measures: whether a few steps are timed; without, nothing is estimated.
        config_name: the primary configuration.

    Raises:
        ConfigurationError: the study cannot run, or something of it cannot fit.
    """
    from myosotis.planning import make_plan
    from myosotis.provenance import Provenance

    begun = time.perf_counter()
    with composer() as compose, explained():
        arguments, master = _whole(compose, overrides, config_name)
        if "n_trials" in master.hydra.sweeper:
            raise ConfigurationError(
                "plan must have trials that are known beforehand, but a search finds them by what the earlier ones "
                "score; plan without hydra/sweeper=search and with a few values of each parameter"
            )
        params, arms = plain(master.hydra.sweeper.get("params")) or {}, plain(master.arms) or {}
        task = TrialTask(load_registry(), Path(master.studies).absolute(), config_name)
        layout = lay_out(arguments, params, master, compose.loader, task)
        task.study, task.left = layout.folder.name, layout.left
        task.check(looks_at_data=False)
        provenance = Provenance(compose, config_name, task.workspace.registry, arguments, params, arms)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=_hydra_context(compose, master), task_function=task, config=master
        )
        # Another launcher than this project's calls the task for one trial at a time.
        options = getattr(launcher, "options", Options(cohort=1, workers=1))
        with contextlib.closing(task.prepared(layout.left, options)) as launch:
            launch.measures = measures
            return make_plan(
                layout.folder,
                layout.planned,
                lambda each: provenance.settings(each.entry.arm, each.overrides, _whole_config(each.config)),
                launch,
                time.perf_counter() - begun,
                price_per_hour,
            )


def _whole(compose: Composer, overrides: Sequence[str], config_name: str) -> tuple[list[str], DictConfig]:
    """Give the overrides of a command and the configuration of its study as a whole, where its sweeper is ours."""
    arguments, master = whole(compose, overrides, config_name)
    _check_sweeper(master)
    return arguments, master


def load_study(study: str | Path, studies: str | Path = "studies") -> StudyRecord:
    """Read a study by its path or its name.

    Raises:
        ConfigurationError: there is none.
    """
    return read_study(find_study(study, Path(studies)))


def _check_sweeper(master: DictConfig) -> None:
    target = str(master.hydra.sweeper._target_)
    if target.startswith("hydra._internal."):
        raise ConfigurationError(
            f"hydra/sweeper must be one that knows studies, such as myosotis, but got Hydra's own ({target}); "
            "leave it out"
        )
    further = [str(key) for key in master.hydra.sweeper if key not in {"_target_", "params"}]
    if target == "hydra_plugins.myosotis_sweeper.MyosotisSweeper" and further:
        raise ConfigurationError(
            f"hydra.sweeper.{further[0]} must be of a search, but this is a sweep; add hydra/sweeper=search "
            "to the command"
        )


def _hydra_context(compose: Composer, master: DictConfig) -> HydraContext:
    from hydra._internal.callbacks import Callbacks  # the only place where Hydra has it

    return HydraContext(config_loader=compose.loader, callbacks=Callbacks(master))


# Which trials


def sweep(
    arguments: Sequence[str],
    params: Mapping[str, Any],
    master: DictConfig,
    launcher: Launcher,
    loader: Any,
    task: TrialTask,
) -> StudyRecord:
    """Plan a study, check its trials, launch those that are left, and write its report.

    Args:
        arguments: the command's overrides.
        params: the study file's common sweep.
        master: the composed configuration of the study as a whole.
        launcher: runs the trials.
        loader: Hydra's configuration loader.
        task: what runs one trial.
    """
    layout = lay_out(arguments, params, master, loader, task)
    folder, left = layout.folder, layout.left
    if left:
        with folder_of_studies():
            check_writable(folder)
    task.begin(layout)
    with task.progress.shown(), task.warm(getattr(launcher, "options", None)):
        returns = launched(layout, arguments, task.check(master.data_check), launcher)
    return finish(folder, task.workspace.registry, returns, bool(left))


def launched(
    layout: Layout, arguments: Sequence[str], records: Mapping[str, DataRecord], launcher: Launcher
) -> Sequence[JobReturn]:
    """List checked trials in their study, and launch those that are left.

    Args:
        layout: the trials.
        arguments: the command's overrides.
        records: what was found in their data.
        launcher: runs them.
    """
    with folder_of_studies(), StudyLock(layout.folder):
        write_study(layout.folder, arguments, [each.entry for each in layout.planned])
        keep(layout.folder / FILE, records)
    jobs = [_overrides(each, layout.folder.name) for each in layout.left]
    return launcher.launch(jobs, initial_job_idx=0) if jobs else []


@contextlib.contextmanager
def folder_of_studies() -> Iterator[None]:
    """Say of what cannot be written that it is the folder of studies."""
    try:
        yield
    except (OSError, StorageError) as error:
        raise ConfigurationError(f"studies must be a folder that can be written to: {error}") from error


@dataclass(frozen=True)
class Layout:
    """A study before it runs: its folder, all its trials, and those that are left."""

    folder: Path
    planned: Sequence[PlannedTrial]
    left: Sequence[PlannedTrial]

    def trials(self) -> dict[str, TrialCourse]:
        """Give the course of each trial, at its beginning."""
        left = {each.entry.id for each in self.left}

        def state(each: PlannedTrial) -> State:
            if each.entry.id in left:
                return "waiting"
            own = run_folder(self.folder, each.entry)
            if status(own) == "pruned":
                return "pruned"
            return "finished" if own.parent == self.folder.resolve() else "reused"

        return {
            each.entry.id: TrialCourse(_name(each.entry), state(each), len(each.config.stages))
            for each in self.planned
        }


def lay_out(
    arguments: Sequence[str], params: Mapping[str, Any], master: DictConfig, loader: Any, task: TrialTask
) -> Layout:
    """Plan a study: nothing is written.

    Raises:
        ConfigurationError: a trial's configuration is not what it must be.
    """
    compose = Composer(loader)
    points = expand(compose, task.config_name, arguments, plain(master.arms) or {}, params)
    folder = study_folder(compose, arguments, master, task)
    planned = plan(compose, task.config_name, points, folder, task.resolver, bool(master.force))
    left = [each for each in planned if status(run_folder(folder, each.entry)) != "finished"]
    return Layout(folder, planned, left)


def study_folder(compose: Composer, arguments: Sequence[str], master: DictConfig, task: TrialTask) -> Path:
    """Give the folder of the study that a command means.

    Raises:
        ConfigurationError: its name can be no folder's.
    """
    name = master.study or default_name(compose, arguments)
    if not is_name(name):
        raise ConfigurationError(
            f"study must be a name of letters, digits, '.', '_' and '-', but got {name!r}"
        )
    return task.workspace.studies / name


def _overrides(planned: PlannedTrial, study: str) -> list[str]:
    arm = planned.entry.arm.replace("\\", "\\\\").replace("'", "\\'")
    return [*planned.overrides, f"study={study}", f"arm='{arm}'"]


def plan(
    compose: Composer,
    config_name: str,
    points: Sequence[Point],
    folder: Path,
    resolver: Resolver,
    force: bool,
) -> list[PlannedTrial]:
    """Compose and check every point's configuration, and give each trial its id and place.

    Trials that come out the same are one.
    """
    planned: dict[str, PlannedTrial] = {}
    attempts = list_attempts(folder.parent)
    for point in points:
        config = compose.compose(config_name, point.overrides)
        trial = resolver.resolve(config)
        if trial.id in planned:
            continue
        entry = TrialEntry(
            id=trial.id,
            folder=place(folder.parent, folder.name, trial.id, force, attempts),
            arm=point.arm or " + ".join(trial.methods) or "base",
            swept=point.swept,
            seed=trial.seed,
            order=trial.order,
        )
        planned[trial.id] = PlannedTrial(entry, trial, tuple(point.lines))
    return list(planned.values())


# Running them


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
                    failed.get(planned.entry.id, f"{_name(planned.entry)}: not run")
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
            [_job(each, folder, self.pruning.get(each.entry.id)) for each in planned],
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


def _name(entry: TrialEntry) -> str:
    return f"{entry.configuration} seed={entry.seed}"


def _job(planned: PlannedTrial, folder: Path, pruning: Pruning | None = None) -> Job:
    from myosotis.job import Job

    own = run_folder(folder, planned.entry)
    config = _whole_config(planned.config)
    return Job(planned.entry.id, _name(planned.entry), own, folder.name, config, pruning)


def _whole_config(config: TrialConfig) -> dict[str, Any]:
    return {**config.resolved, "logger": OmegaConf.to_container(config.logger)}


def run_folder(study: Path, entry: TrialEntry) -> Path:
    """Give a trial's run folder, where its study's folder need not be there yet."""
    return Path(os.path.normpath(study.resolve() / entry.folder))


def finish(folder: Path, registry: Registry, returns: Sequence[JobReturn], ran: bool) -> StudyRecord:
    """Close a study: its report, and an error that names the trials that failed.

    Raises:
        TrialsFailed: names them and their errors.
    """
    from myosotis.report import write_report

    goes_on = any(job.status == JobStatus.UNKNOWN for job in returns)  # without this process
    if ran and not goes_on:
        registry.hook.myosotis_study_finished(study=folder.name, folder=folder)
    record = read_study(folder)
    if record.trials.empty or record.trials.status.isin({"finished", "pruned"}).all():
        shutil.rmtree(folder / PREFIX_FOLDER, ignore_errors=True)
    if not goes_on and (ran or not (folder / "report.html").is_file()):
        write_report(record)
    failures = [_failure(job) for job in returns if job.status == JobStatus.FAILED]
    if failures:
        raise TrialsFailed(f"{len(failures)} of {len(record.trials)} trials failed:\n" + "\n".join(failures))
    return record


def _failure(job: JobReturn) -> str:
    try:
        # Raises what befell the job, and would print its overrides.
        with contextlib.redirect_stderr(io.StringIO()):
            _ = job.return_value
    except TrialError as error:
        return f"  {error}"
    except Exception as error:
        return f"  {' '.join(job.overrides or [])}: {in_one_line(error)}"
    return ""
