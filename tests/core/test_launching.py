"""What a launch knows before anything is loaded, and what it starts ahead."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from myosotis import launching, study_check
from myosotis.checkpoint import START
from myosotis.course import Course
from myosotis.errors import MyosotisError
from myosotis.grouping import Cohort
from myosotis.launching import Launch
from myosotis.options import Options
from myosotis.plugins import load_registry
from myosotis.progress import PlainLines
from myosotis.resolve import Resolver
from myosotis.study_check import StudyCheck
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
    registry = load_registry()
    workspace = Workspace(tmp_path, registry)
    launch = Launch(
        tmp_path, [], [config], {}, Resolver(registry), workspace, PlainLines(Course({})), Options()
    )
    assert launch._most_steps(config) == Workload(workspace)(config, START).steps


@pytest.mark.parametrize(("devices", "workers"), [(1, ["0", "1", "2", "3", "4"]), (2, ["0,1", "2,3"])])
def test_each_worker_has_as_many_gpus_as_a_trial_asks_for(
    devices: int, workers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Launch, "_gpus", lambda self: ["0", "1", "2", "3", "4"])
    configs = resolved(f"trainer.devices={devices}", "seed=0,1,2")
    launch = Launch(
        tmp_path,
        [],
        configs,
        {},
        Resolver(load_registry()),
        None,
        PlainLines(Course({})),
        Options(),  # type: ignore[arg-type]
    )
    assert launch._environments() == [{"CUDA_VISIBLE_DEVICES": each} for each in workers]
    if devices == 2:
        ids = [[config.id] for config in configs]
        assert launch._arrangement(configs, ids).workers == 2
        assert launch._arrangement(configs, ids).cohort == 1


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
    read = launching.read_json
    monkeypatch.setattr(launching, "read_json", lambda path: (read(path), time.sleep(0.1))[0])

    def record(trial: str) -> None:
        launch = Launch(
            *(tmp_path, [], [], {}, Resolver(load_registry()), Workspace(tmp_path, load_registry())),
            *(PlainLines(Course({})), Options(cohort=1, workers=1)),
        )
        launch._record([Cohort((trial,), 1)], 1)

    trials = [f"trial{number}" for number in range(4)]
    with ThreadPoolExecutor(len(trials)) as pool:
        list(pool.map(record, trials))
    found = [each["trials"] for each in read(tmp_path / "cohorts.json")["cohorts"]]
    assert sorted(found) == [[trial] for trial in trials]
