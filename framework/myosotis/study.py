"""A study: which trials answer its question, which of them are done, and running the rest."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig

from myosotis.config import Composer, composer, explained, is_name, plain
from myosotis.errors import ConfigurationError, MyosotisError, PluginError, TrialError, TrialsFailed
from myosotis.ledger import (
    StudyRecord,
    TrialEntry,
    find_study,
    place,
    read_entries,
    read_study,
    status,
    write_study,
)
from myosotis.plugins import Registry, load_registry
from myosotis.points import QUICKSTART, Point, default_name, expand, says_nothing, whole_study
from myosotis.progress import Progress
from myosotis.resolve import Resolver, TrialConfig


@dataclass(frozen=True)
class PlannedTrial:
    """A trial with its configuration, its id and its place on disk."""

    entry: TrialEntry
    config: TrialConfig
    overrides: tuple[str, ...]


def run(overrides: Sequence[str], config_name: str = "config") -> StudyRecord:
    """Run the study that overrides describe, or what is left of it, and write its report.

    Args:
        overrides: Hydra's override grammar, as on the command line.
        config_name: the primary configuration.

    Raises:
        ConfigurationError: before anything is run.
        TrialsFailed: after every other trial has run.
    """
    arguments = list(overrides)
    with composer() as compose, explained():
        if config_name == "config" and says_nothing(compose.parse(arguments)):
            arguments.append(QUICKSTART)
        master = compose.master(config_name, list(whole_study(compose.parse(arguments))))
        registry = load_registry()
        _check_sweeper(master)
        sweeper = Plugins.instance().instantiate_sweeper(
            config=master,
            hydra_context=_hydra_context(compose, master),
            task_function=TrialTask(registry, Path(master.studies).absolute(), config_name),
        )
        return sweeper.sweep(arguments)  # type: ignore[no-any-return]


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
    compose = Composer(loader)
    config_name = task.config_name
    points = expand(compose, config_name, arguments, plain(master.arms) or {}, params)
    name = master.study or default_name(compose, arguments)
    if not is_name(name):
        raise ConfigurationError(
            f"study must be a name of letters, digits, '.', '_' and '-', but got {name!r}"
        )
    folder = task.workspace.studies / name
    planned = plan(compose, config_name, points, folder, task.resolver, bool(master.force))
    left = [each for each in planned if status(folder / each.entry.folder) != "finished"]
    task.begin(name, len(planned), left)
    task.check(left)
    try:
        write_study(folder, arguments, [each.entry for each in planned])
    except OSError as error:
        raise ConfigurationError(f"studies must be a folder that can be written to: {error}") from error
    jobs = [_job(each, name) for each in left]
    returns = launcher.launch(jobs, initial_job_idx=0) if jobs else []
    return finish(folder, task.workspace.registry, returns, bool(left))


def _job(planned: PlannedTrial, study: str) -> list[str]:
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
    for point in points:
        config = compose.compose(config_name, point.overrides)
        trial = resolver.resolve(config)
        if trial.id in planned:
            continue
        entry = TrialEntry(
            id=trial.id,
            folder=place(folder.parent, folder.name, trial.id, force),
            arm=point.arm or " + ".join(trial.methods) or "base",
            swept=point.swept,
            seed=trial.seed,
            order=trial.order,
        )
        planned[trial.id] = PlannedTrial(entry, trial, tuple(point.lines))
    return list(planned.values())


# Running them


class TrialTask:
    """Hydra's task function: runs the trial of one composed configuration."""

    def __init__(self, registry: Registry, studies: Path, config_name: str) -> None:
        from myosotis.workspace import Workspace

        self.config_name = config_name
        self.workspace = Workspace(studies, registry)
        self.resolver = Resolver(registry)
        self.progress = Progress(0)

    def check(self, planned: Sequence[PlannedTrial]) -> None:
        """Find what would stop these trials, before anything trains."""
        from myosotis.trial import check_trial

        for each in planned:
            where = f"in the trial {' '.join(each.overrides) or 'by default'}"
            try:
                check_trial(each.config, self.workspace)
            except MyosotisError as error:
                raise type(error)(f"{error} ({where})") from error
            except Exception as error:  # a plugin's own, which must not be a traceback either
                raise PluginError(f"{type(error).__name__}: {error} ({where})") from error

    def begin(self, study: str, total: int, left: Sequence[PlannedTrial]) -> None:
        """Say what is about to run."""
        self.progress = Progress(len(left))
        self.progress.study(study, total, total - len(left))

    def __call__(self, config: DictConfig) -> None:
        """Run the trial in the place that its study gave it."""
        from myosotis.trial import run_trial

        trial = self.resolver.resolve(config)
        folder = self.workspace.studies / str(config.study)
        entry = next((each for each in read_entries(folder) if each.id == trial.id), None)
        if entry is None:
            raise TrialError(
                f"the trial must be one that study {folder.name} lists, but its id came out as {trial.id}: a "
                "configuration file or data changed while the study ran. Run the command again"
            )
        name = f"{entry.configuration} seed={entry.seed}"
        run_folder = (folder / entry.folder).resolve()
        try:
            with self.progress.trial(name) as progress:
                run_trial(trial, run_folder, folder.name, name, self.workspace, progress)
        except Exception as error:
            text = os.path.relpath(run_folder / "error.txt")
            raise TrialError(f"{name}: {_first_line(error)}\n    {text}") from error


def launch_local(
    job_overrides: Sequence[Sequence[str]], master: DictConfig, loader: Any, task: Any
) -> list[JobReturn]:
    """Run jobs one after another in this process; one that fails does not end the others."""
    returns = []
    for overrides in job_overrides:
        job = JobReturn(overrides=list(overrides), status=JobStatus.UNKNOWN)
        try:
            config = loader.load_sweep_config(master, list(overrides))
            job.cfg = config
            job.return_value = task(config)
            job.status = JobStatus.COMPLETED
        except Exception as error:  # whatever befell a trial; the others go on
            job.return_value = error
            job.status = JobStatus.FAILED
        returns.append(job)
    return returns


def finish(folder: Path, registry: Registry, returns: Sequence[JobReturn], ran: bool) -> StudyRecord:
    """Close a study: its report, and an error that names the trials that failed.

    Raises:
        TrialsFailed: names them and their errors.
    """
    from myosotis.report import write_report

    if ran:
        registry.hook.myosotis_study_finished(study=folder.name, folder=folder)
    record = read_study(folder)
    if ran or not (folder / "report.html").is_file():
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
        return f"  {' '.join(job.overrides or [])}: {_first_line(error)}"
    return ""


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
