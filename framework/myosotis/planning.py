"""A study before it runs: what is done of it, how the rest would run, what that takes, whether it fits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from myosotis.arranger import Basis
from myosotis.errors import ConfigurationError
from myosotis.estimates import Estimate, Estimator
from myosotis.launching import Launch
from myosotis.provenance import Settings
from myosotis.standing import Standing, standing
from myosotis.storage import size

if TYPE_CHECKING:
    from myosotis.layout import PlannedTrial


@dataclass(frozen=True)
class TrialPlan:
    """A trial, its configuration with its sources, and what is left of it; None where nothing is estimated."""

    id: str
    name: str
    folder: Path
    standing: Standing
    settings: Settings
    estimate: Estimate | None = None


@dataclass(frozen=True)
class CohortPlan:
    """Trials that will train together, by their ids."""

    trials: tuple[str, ...]
    threads: int
    estimate: Estimate | None = None


@dataclass(frozen=True)
class StudyPlan:
    """A study before it runs.

    Attributes:
        workers: processes at once.
        basis: by what cohorts and workers were chosen.
        estimate: of all that is left, from start to report; None where nothing is estimated.
        free_disk_bytes: where the study will lie.
        price_per_hour: of the machine, in whatever money.
    """

    name: str
    folder: Path
    trials: Sequence[TrialPlan]
    free_disk_bytes: int
    price_per_hour: float | None
    cohorts: Sequence[CohortPlan] = ()
    workers: int = 0
    basis: Basis = "recorded"
    estimate: Estimate | None = None

    @property
    def money(self) -> float | None:
        """What the study costs, at the price that was given."""
        if self.estimate is None or self.price_per_hour is None:
            return None
        return self.estimate.seconds / 3600 * self.price_per_hour

    def money_of(self, estimate: Estimate | None) -> float | None:
        """Give the part of the money that some trials cost: as much as of the trials' seconds."""
        if self.money is None or estimate is None:
            return None
        whole = sum(each.estimate.seconds for each in self.trials if each.estimate is not None)
        return self.money * estimate.seconds / whole


def make_plan(
    folder: Path,
    planned: Sequence[PlannedTrial],
    settings: Callable[[PlannedTrial], Settings],
    launch: Launch,
    start_seconds: float,
    price_per_hour: float | None = None,
) -> StudyPlan:
    """Say what is done of a study, how the rest would run, and what that takes.

    Args:
        folder: the study's folder.
        planned: all its trials.
        settings: gives a trial's configuration with its sources.
        launch: would run the trials that are left; where it may not measure, nothing is estimated.
        start_seconds: what a command takes until it knows its trials.
        price_per_hour: of the machine.

    Raises:
        ConfigurationError: something of it cannot fit.
    """
    trials = [_trial(folder, each, settings(each)) for each in planned]
    plan = StudyPlan(folder.name, folder, trials, free_disk(folder), price_per_hour)
    if not launch.jobs:
        return plan
    estimator = Estimator(launch, {each.id: each.standing.at for each in trials})
    if launch.measures:
        estimator.measure()
    formation = launch.form()
    made = [CohortPlan(each.trials, each.threads) for each in formation.cohorts]
    plan = replace(plan, cohorts=made, workers=formation.at_once, basis=formation.basis)
    if not launch.measures:
        return plan
    found = estimator.estimates(formation, start_seconds)
    plan = replace(
        plan,
        trials=[replace(each, estimate=found.trials.get(each.id)) for each in trials],
        cohorts=[replace(each, estimate=own) for each, own in zip(made, found.cohorts, strict=True)],
        estimate=found.whole,
    )
    _check_disk(found.whole, plan)
    return plan


def _trial(folder: Path, planned: PlannedTrial, settings: Settings) -> TrialPlan:
    entry = planned.entry
    run = Path(folder, entry.folder).resolve()
    name = f"{entry.configuration} seed={entry.seed}"
    return TrialPlan(entry.id, name, run, standing(folder, run), settings)


def free_disk(folder: Path) -> int:
    """Give the bytes that are free where a folder is or will be."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    return shutil.disk_usage(there).free


def _check_disk(estimate: Estimate, plan: StudyPlan) -> None:
    needed = estimate.disk_bytes + estimate.checkpoint_bytes
    if needed > plan.free_disk_bytes:
        raise ConfigurationError(
            f"the study must fit on the disk, but {plan.folder} needs about {size(needed)}, "
            f"{size(estimate.checkpoint_bytes)} of it for checkpoints until its trials are finished, and "
            f"{size(plan.free_disk_bytes)} are free; keep no adapters and weights with trainer.save=false, save "
            "less often with trainer.checkpoint_every_n_steps=0, or give another folder as studies=FOLDER"
        )
