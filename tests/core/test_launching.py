"""What a launch knows before anything is loaded, and what it starts ahead."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from myosotis import cohort_record, study_check
from myosotis.arranger import Arranger
from myosotis.checkpoint import START
from myosotis.cohort_record import CohortRecord
from myosotis.course import Course
from myosotis.errors import MyosotisError
from myosotis.grouping import Cohort
from myosotis.job import Job
from myosotis.launching import Launch
from myosotis.ledger import write_json
from myosotis.options import Options
from myosotis.plugins import load_registry
from myosotis.progress import PlainLines
from myosotis.resolve import Resolver
from myosotis.study_check import StudyCheck
from myosotis.trial_task import whole_config
from myosotis.workers import ForkServer
from myosotis.workload import Workload
from myosotis.workspace import Workspace
from tests.core.commands import resolved, run_at, toy


@pytest.mark.parametrize(
    "lengths",
    [
        ["trainer.max_steps=7"],
        ["trainer.max_steps=null"],
        ["trainer.max_steps=null", "trainer.max_epochs=3"],
        ["trainer.max_steps=null", "trainer.max_tokens=77", "trainer.accumulate_grad_batches=2"],
        ["trainer.max_steps=20", "trainer.max_epochs=1", "trainer.max_tokens=1000"],
        ["curriculum=joint", "trainer.max_steps=null", "trainer.max_epochs=2"],
        [
            *("curriculum=joint", "curriculum.temperature=2", "curriculum.stopping_strategy=all_exhausted"),
            *("dataset.up.rows=16", "trainer.max_steps=null", "trainer.max_epochs=2"),
        ],
    ],
)
def test_most_steps_are_the_steps_where_an_example_is_one_row_of_one_token(
    lengths: list[str], tmp_path: Path
) -> None:
    [config] = resolved(*lengths)
    workspace = Workspace(tmp_path, load_registry())
    progress = PlainLines(Course({}))
    arranger = Arranger([], [config], Options(), workspace, progress, lambda arrangement, jobs: None)
    assert arranger._most_steps(config) == Workload(workspace)(config, START).steps


@pytest.mark.parametrize(("devices", "workers"), [(1, ["0", "1", "2", "3", "4"]), (2, ["0,1", "2,3"])])
def test_each_worker_has_as_many_gpus_as_a_trial_asks_for(
    devices: int, workers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Launch, "_gpus", lambda self: ["0", "1", "2", "3", "4"])
    configs = resolved(f"trainer.devices={devices}", "seed=0,1,2")
    study = tmp_path / "study"
    jobs = [Job(each.id, each.id, study / each.id, "study", whole_config(each)) for each in configs]
    launch = Launch(
        study,
        jobs,
        configs,
        dict.fromkeys((each.id for each in configs), True),
        Resolver(load_registry()),
        Workspace(tmp_path, load_registry()),
        PlainLines(Course({})),
        Options(),
        measures=False,
    )
    assert launch._environments() == [{"CUDA_VISIBLE_DEVICES": each} for each in workers]
    if devices == 2:
        formation = launch.form()
        assert (formation.workers, formation.basis) == (2, "alone")
        assert [len(each.trials) for each in formation.cohorts] == [1, 1, 1]


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What happens when: the servers that are started, and "check" where this process checks the trials."""
    happened: list[Any] = []
    start, check = ForkServer.__init__, study_check.check_study

    def started(self: ForkServer, *arguments: Any) -> None:
        start(self, *arguments)
        happened.append(self)

    def checked(*arguments: Any) -> StudyCheck:
        happened.append("check")
        return check(*arguments)

    monkeypatch.setattr(ForkServer, "__init__", started)
    monkeypatch.setattr(study_check, "check_study", checked)
    return happened


def sweep(workers: int, *overrides: str) -> list[str]:
    return toy("seed=0,1", "trainer.max_steps=2", f"hydra.launcher.workers={workers}", *overrides)


@pytest.mark.slow
def test_trials_are_checked_where_workers_come_from(order: list[Any], tmp_path: Path) -> None:
    record = run_at(tmp_path, *sweep(2, "study=two"))
    assert [isinstance(each, ForkServer) for each in order] == [True]
    assert set(record.trials.status) == {"finished"}
    assert order[0]._process.poll() is not None


def test_no_process_is_started_where_there_are_no_workers(order: list[Any], tmp_path: Path) -> None:
    run_at(tmp_path, *sweep(1, "hydra.launcher.cohort=1"))
    assert order == ["check"]


def test_what_was_started_ends_with_a_failed_check(order: list[Any], tmp_path: Path) -> None:
    with pytest.raises(MyosotisError, match=r"leaves 0 of 82 parameters.*\(in the trial .*seed=0"):
        run_at(tmp_path, *sweep(2, "method=[still]", "method.still.layers=[0,3]"))
    [server] = order
    assert server._process.poll() is not None
    assert not list(tmp_path.glob("studies/*/study.json"))


def test_with_gpus_this_process_checks_the_trials(
    order: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Launch, "_gpus", lambda self: ["0", "1"])
    with pytest.raises(MyosotisError, match="leaves 0 of 82 parameters"):
        run_at(tmp_path, *sweep(2, "method=[still]", "method.still.layers=[0,3]"))
    assert [isinstance(each, ForkServer) for each in order] == [True, False]


def test_commands_that_record_their_cohorts_at_once_lose_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = cohort_record.read_json
    monkeypatch.setattr(cohort_record, "read_json", lambda path: (read(path), time.sleep(0.1))[0])
    options = [Options(cohort=cohort, workers=1) for cohort in (1, 1, 2, 2)]

    def record(number: int) -> None:
        CohortRecord(tmp_path, options[number]).add([Cohort((f"trial{number}",), 1)], number % 2 + 1)

    with ThreadPoolExecutor(len(options)) as pool:
        list(pool.map(record, range(len(options))))
    for one, other in ((0, 1), (2, 3)):  # what asked for the same is one record, beside the others
        cohorts, workers = CohortRecord(tmp_path, options[one]).read()
        assert sorted(each.trials for each in cohorts) == [(f"trial{one}",), (f"trial{other}",)]
        assert workers in {1, 2}


def test_the_record_of_a_study_from_before_is_read(tmp_path: Path) -> None:
    old = {"request": {"cohort": 2, "workers": "auto"}, "workers": 3, "cohorts": []}
    old["cohorts"] = [{"trials": ["a", "b"], "threads": 4}]
    write_json(tmp_path / "cohorts.json", old)
    assert CohortRecord(tmp_path, Options(cohort=2)).read() == ([Cohort(("a", "b"), 4)], 3)
    assert CohortRecord(tmp_path, Options(cohort=4)).read() == ([], 1)
