"""What befalls one trial, whatever it is, ends no other; only what may pass is tried again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from myosotis.course import Course, TrialCourse
from myosotis.errors import TrialsFailed
from myosotis.job import Job
from myosotis.ledger import read_study
from myosotis.local import Queue, Stopping, Unit
from myosotis.progress import PlainLines
from myosotis.resolve import Resolver
from tests.core.test_cohort import run


def states(folder: Path) -> list[str]:
    return sorted(read_study(folder / "studies" / "cohort").trials.status)


def test_a_method_that_asks_for_the_process_end_ends_its_trial_alone(tmp_path: Path) -> None:
    with pytest.raises(TrialsFailed, match=r"(?s)1 of 2 trials failed.*SystemExit: harm"):
        run(
            tmp_path,
            "method.side.width=1",
            "optimizer.learning_rate=0.01",
            "method.hazard.harm=none,exit",
        )
    assert states(tmp_path) == ["failed", "finished"]


def test_a_trial_whose_plugins_cannot_be_made_ends_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = Job.resolve

    def failing(self: Job, resolver: Resolver) -> Any:
        if "width=3" in self.name:
            raise ValueError("not today")
        return resolve(self, resolver)

    monkeypatch.setattr(Job, "resolve", failing)
    with pytest.raises(TrialsFailed, match=r"(?s)2 of 4 trials failed.*ValueError: not today"):
        run(tmp_path, cohort=4)
    assert states(tmp_path) == ["failed", "failed", "finished", "finished"]
    errors = [path.read_text() for path in (tmp_path / "studies" / "cohort").glob("*/error.txt")]
    assert ["ValueError: not today" in text for text in errors] == [True, True]


def queue(folder: Path, trials: str, retries: int) -> tuple[Queue, Unit]:
    jobs = [Job(name, name, folder / name, "study", {}) for name in trials]
    for job in jobs:
        job.folder.mkdir()
    unit = Unit(jobs, 1)
    progress = PlainLines(Course({job.id: TrialCourse(job.name) for job in jobs}))
    made = Queue([unit], progress, Stopping(), retries, fail_fast=False)
    assert made.next() is unit
    return made, unit


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_worker_that_died_is_begun_again_so_often(retries: int, tmp_path: Path) -> None:
    tried, unit = queue(tmp_path, "a", retries)
    begun = 1
    tried.died(unit, "the worker was ended")
    while (again := tried.next()) is not None:
        begun += 1
        tried.died(again, "the worker was ended")
    assert begun == 1 + retries
    assert tried.failed == {"a": "the worker was ended"}


def test_a_mistake_is_not_begun_again_but_told_apart(tmp_path: Path) -> None:
    tried, unit = queue(tmp_path, "ab", retries=5)
    tried.died(unit, "ValueError: mistake", passing=False)
    apart = [tried.next(), tried.next()]
    assert [[job.id for job in each.jobs] for each in apart if each] == [["a"], ["b"]]
    for each in apart:
        assert each is not None
        tried.died(each, "ValueError: mistake", passing=False)
    assert tried.next() is None
    assert tried.failed == dict.fromkeys("ab", "ValueError: mistake")
    assert (tmp_path / "a" / "error.txt").read_text() == "ValueError: mistake\n"
