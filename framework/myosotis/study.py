"""A study: which trials answer its question, which of them are done, and running the rest."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig

from myosotis.config import PLUGIN_GROUPS, Composer, composer, explained, is_name, is_value, plain
from myosotis.errors import ConfigurationError, MyosotisError, TrialError, TrialsFailed, unknown_name
from myosotis.ledger import (
    StudyRecord,
    TrialEntry,
    content_hash,
    find_study,
    place,
    read_entries,
    read_study,
    status,
    write_study,
)
from myosotis.plugins import Registry, load_registry
from myosotis.progress import Progress
from myosotis.resolve import Resolver

REPLICATES = frozenset({"seed", "curriculum.order"})
"""Swept keys over which results aggregate."""
NAMES_NO_STUDY = ("study", "studies", "force", "hydra", "logger")
"""Keys that do not change which study a command means."""
QUICKSTART = "+experiments=quickstart"


@dataclass(frozen=True)
class Point:
    """One trial of a study before its configuration is composed.

    Attributes:
        arm: the name of its arm, or None where the study names none.
        overrides: what sets it apart from the default, in Hydra's grammar.
        swept: the swept keys and their values, without those that only replicate.
    """

    arm: str | None
    overrides: tuple[Override, ...]
    swept: Mapping[str, Any]

    @property
    def lines(self) -> list[str]:
        """The overrides as texts."""
        return [str(override.input_line) for override in self.overrides]


@dataclass(frozen=True)
class PlannedTrial:
    """A trial with its id and its place on disk."""

    entry: TrialEntry
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
        parsed = compose.parse(arguments)
        if config_name == "config" and all(_key(each).split(".")[0] in NAMES_NO_STUDY for each in parsed):
            arguments.append(QUICKSTART)
            parsed = compose.parse(arguments)
        master = compose.master(config_name, list(_whole(parsed)))
        registry = load_registry()
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


def _hydra_context(compose: Composer, master: DictConfig) -> HydraContext:
    from hydra._internal.callbacks import Callbacks  # the only place where Hydra has it

    return HydraContext(config_loader=compose.loader, callbacks=Callbacks(master))


def _key(override: Override) -> str:
    return str(override.key_or_group).lstrip("/")


def _whole(overrides: Sequence[Override]) -> Iterator[str]:
    """Give what concerns the study as a whole; of swept groups the first choice, for all to be there."""
    for override in overrides:
        if override.is_sweep_override() and not is_value(override):
            yield f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
        elif not override.is_sweep_override() and not (is_value(override) and "." in _key(override)):
            yield str(override.input_line)


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
    task.check(compose, config_name, points, {each.entry.id for each in left})
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


def expand(
    compose: Composer,
    config_name: str,
    arguments: Sequence[str],
    arms: Mapping[str, Mapping[str, Any]],
    params: Mapping[str, Any],
) -> list[Point]:
    """List a study's trials: the union of its arms, times its sweeps, each one once.

    A parameter of a plugin goes only to the trials that have the plugin.

    Raises:
        ConfigurationError: a parameter that no trial has, or arms that are not overrides.
    """
    points: dict[tuple[str | None, tuple[str, ...]], Point] = {}
    given: dict[str, Override] = {}
    used: set[str] = set()
    _check_arms(arms)
    for arm, own in arms.items() if arms else [(None, {})]:
        lines = [*_rendered(params), *_rendered(own), *arguments]
        overrides = {str(each.get_key_element()): each for each in compose.parse(lines)}
        given |= overrides
        for chosen in itertools.product(*(_choices(compose, each) for each in overrides.values())):
            base = compose.chosen(config_name, [override for override, _ in chosen])
            kept = [(override, swept) for override, swept in chosen if _has_plugin(base, override)]
            used |= {str(override.get_key_element()) for override, _ in kept}
            point = Point(arm, tuple(override for override, _ in kept), _swept(kept, arm))
            points.setdefault((arm, tuple(point.lines)), point)
    for key in given.keys() - used:
        raise ConfigurationError(_unused(key, load_registry()))
    return list(points.values())


def _check_arms(arms: Any) -> None:
    if not isinstance(arms, Mapping) or not all(isinstance(own, Mapping) for own in arms.values()):
        raise ConfigurationError(
            f"arms must map each arm's name to its overrides, such as {{tuned: {{method: [NAME]}}}}, "
            f"but got {arms!r}"
        )


def _rendered(values: Mapping[str, Any]) -> list[str]:
    """Write a study file's values as overrides: lists and texts in Hydra's grammar."""
    return [f"{key}={_grammar(value)}" for key, value in values.items()]


def _grammar(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_grammar(each) for each in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_grammar(each)}" for key, each in value.items()) + "}"
    return "null" if value is None else str(value)


def _choices(compose: Composer, override: Override) -> list[tuple[Override, bool]]:
    if not override.is_sweep_override():
        return [(override, False)]
    if not override.is_discrete_sweep():
        raise ConfigurationError(
            f"{override.input_line} must be a list of values, such as 1,2,4 or range(1,5), to be swept; "
            "an interval needs a search"
        )
    key = override.get_key_element()
    return [(compose.parse([f"{key}={value}"])[0], True) for value in override.sweep_string_iterator()]


def _has_plugin(base: DictConfig, override: Override) -> bool:
    group, _, rest = _key(override).partition(".")
    if not is_value(override) or group not in PLUGIN_GROUPS or not PLUGIN_GROUPS[group][1]:
        return True
    return rest.partition(".")[0] in base[group]


def _swept(chosen: Sequence[tuple[Override, bool]], arm: str | None) -> dict[str, Any]:
    # Without named arms, the methods name the arm.
    left_out = REPLICATES if arm is not None else REPLICATES | {"method"}
    return {
        _key(override): _plain_value(override.value())
        for override, swept in chosen
        if swept and _key(override) not in left_out
    }


def _plain_value(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool | type(None)) else str(value)


def _unused(key: str, registry: Registry) -> str:
    group, _, rest = key.partition(".")
    name = rest.partition(".")[0]
    kind, _ = PLUGIN_GROUPS.get(group, (None, False))
    if kind is not None and name not in registry.plugins[kind]:
        return f"{key}: " + unknown_name(group, name, registry.plugins[kind])
    return f"{key} has nothing to set: no trial of this study has the {group} {name!r}; add it to {group}=[…]"


def default_name(compose: Composer, arguments: Sequence[str]) -> str:
    """Name a study by its command: the same command means the same study."""
    parsed = compose.parse(arguments)
    lines = sorted(str(each.input_line) for each in parsed if _key(each).split(".")[0] not in NAMES_NO_STUDY)
    return "quickstart" if lines == [QUICKSTART] else f"study-{content_hash(lines, size=4)}"


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
        planned[trial.id] = PlannedTrial(entry, tuple(point.lines))
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

    def check(self, compose: Composer, config_name: str, points: Sequence[Point], ids: set[str]) -> None:
        """Find what would stop the trials of these ids, before anything trains."""
        from myosotis.trial import check_trial

        for point in points:
            trial = self.resolver.resolve(compose.compose(config_name, point.overrides))
            if trial.id in ids:
                try:
                    check_trial(trial, self.workspace)
                except MyosotisError as error:
                    raise type(error)(
                        f"{error} (in the trial {' '.join(point.lines) or 'by default'})"
                    ) from error

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
