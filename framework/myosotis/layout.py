"""Which trials a study has, where each lies, and which are left."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from myosotis.config import Composer, is_name
from myosotis.course import State, TrialCourse
from myosotis.errors import ConfigurationError
from myosotis.ledger import TrialEntry, list_attempts, place, status
from myosotis.points import Point, default_name
from myosotis.resolve import Resolver, TrialConfig


@dataclass(frozen=True)
class PlannedTrial:
    """A trial with its configuration, its id and its place on disk."""

    entry: TrialEntry
    config: TrialConfig
    overrides: tuple[str, ...]


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
            each.entry.id: TrialCourse(trial_name(each.entry), state(each), len(each.config.stages))
            for each in self.planned
        }


def study_folder(compose: Composer, arguments: Sequence[str], master: DictConfig, studies: Path) -> Path:
    """Give the folder of the study that a command means.

    Raises:
        ConfigurationError: its name can be no folder's.
    """
    name = master.study or default_name(compose, arguments)
    if not is_name(name):
        raise ConfigurationError(
            f"study must be a name of letters, digits, '.', '_' and '-', but got {name!r}"
        )
    return studies / name


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


def overrides_of(planned: PlannedTrial, study: str) -> list[str]:
    """Give the overrides that a trial is launched with."""
    arm = planned.entry.arm.replace("\\", "\\\\").replace("'", "\\'")
    return [*planned.overrides, f"study={study}", f"arm='{arm}'"]


def trial_name(entry: TrialEntry) -> str:
    """Give what a trial is called in progress and logs."""
    return f"{entry.configuration} seed={entry.seed}"


def run_folder(study: Path, entry: TrialEntry) -> Path:
    """Give a trial's run folder, where its study's folder need not be there yet."""
    return Path(os.path.normpath(study.resolve() / entry.folder))
