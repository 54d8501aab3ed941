"""A study: which trials answer its question, which of them are done, and running the rest."""

from __future__ import annotations

import contextlib
import inspect
import io
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from hydra.utils import get_class
from omegaconf import DictConfig

from myosotis.config import Composer, composer, plain
from myosotis.data_record import FILE, DataRecord, keep
from myosotis.errors import (
    ConfigurationError,
    StorageError,
    TrialError,
    TrialsFailed,
    check_parameters,
    in_one_line,
)
from myosotis.explained import explained
from myosotis.layout import Layout, overrides_of, plan, run_folder, study_folder
from myosotis.ledger import (
    PREFIX_FOLDER,
    StudyRecord,
    find_study,
    read_study,
    status,
    write_study,
)
from myosotis.locks import StudyLock
from myosotis.options import Options
from myosotis.plugins import Registry, load_registry
from myosotis.points import expand, whole
from myosotis.storage import check_writable
from myosotis.trial_task import TrialTask, whole_config

if TYPE_CHECKING:
    from myosotis.planning import StudyPlan
    from myosotis.workers import ForkServer


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
                lambda each: provenance.settings(each.entry.arm, each.overrides, whole_config(each.config)),
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


SEARCH = "hydra_plugins.myosotis_search.MyosotisSearch"


def _check_sweeper(master: DictConfig) -> None:
    target = str(master.hydra.sweeper._target_)
    if target.startswith("hydra._internal."):
        raise ConfigurationError(
            f"hydra/sweeper must be one that knows studies, such as myosotis, but got Hydra's own ({target}); "
            "leave it out"
        )
    if not target.startswith("hydra_plugins.myosotis_"):
        return  # another's, which checks what it is given
    known = inspect.signature(get_class(target)).parameters
    further = [str(key) for key in master.hydra.sweeper if key not in {"_target_", *known}]
    for name in further:
        if name in inspect.signature(get_class(SEARCH)).parameters:
            raise ConfigurationError(
                f"hydra.sweeper.{name} must be of a search, but this is a sweep; add hydra/sweeper=search "
                "to the command"
            )
    check_parameters("hydra.sweeper", further, known)


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
    jobs = [overrides_of(each, layout.folder.name) for each in layout.left]
    return launcher.launch(jobs, initial_job_idx=0) if jobs else []


def lay_out(
    arguments: Sequence[str], params: Mapping[str, Any], master: DictConfig, loader: Any, task: TrialTask
) -> Layout:
    """Plan a study: nothing is written.

    Raises:
        ConfigurationError: a trial's configuration is not what it must be.
    """
    compose = Composer(loader)
    points = expand(compose, task.config_name, arguments, plain(master.arms) or {}, params)
    folder = study_folder(compose, arguments, master, task.workspace.studies)
    planned = plan(compose, task.config_name, points, folder, task.resolver, bool(master.force))
    left = [each for each in planned if status(run_folder(folder, each.entry)) != "finished"]
    return Layout(folder, planned, left)


@contextlib.contextmanager
def folder_of_studies() -> Iterator[None]:
    """Say of what cannot be written that it is the folder of studies."""
    try:
        yield
    except (OSError, StorageError) as error:
        raise ConfigurationError(f"studies must be a folder that can be written to: {error}") from error


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
