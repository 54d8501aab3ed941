"""What a plan says, held against what the same command then does."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from myosotis import cli, estimates, planning
from myosotis.arrangement import Arrangement, Measured
from myosotis.checkpoint import END, Position
from myosotis.errors import ConfigurationError
from myosotis.estimates import MOST_SHAPES, Pace, makespan
from myosotis.launching import Launch
from myosotis.ledger import StudyRecord, read_json
from myosotis.locks import TrialLock
from myosotis.measure import Cost, TrialCost
from myosotis.planning import StudyPlan
from myosotis.standing import standing
from myosotis.study import load_study, plan_study
from tests.core.commands import SLOW, python, run_at, search_path, toy

MODULES = "tests.toy,tests.core.hazards"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured in one test is not known in another."""
    monkeypatch.setenv("MYOSOTIS_CACHE", str(tmp_path_factory.mktemp("cache")))


def plan(*overrides: str, **given: Any) -> StudyPlan:
    return plan_study(toy(*overrides), **given)


def one_at_a_time(*overrides: str) -> list[str]:
    return toy("hydra.launcher.cohort=1", "hydra.launcher.workers=1", *overrides)


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


# What is done


def test_plan_lists_the_trials_that_run_then_has_and_writes_nothing(tmp_path: Path) -> None:
    command = one_at_a_time("method=[plain],[pull]", "seed=0,1", "study=s")
    planned = plan_study(command)
    assert everything(tmp_path) == set()
    assert [each.standing.status for each in planned.trials] == ["new"] * 4
    record = run_at(tmp_path, *command)
    assert [each.id for each in planned.trials] == list(record.trials.trial)
    before = everything(tmp_path)
    again = plan_study(command)
    assert everything(tmp_path) == before
    assert [each.standing.status for each in again.trials] == ["finished"] * 4
    assert again.cohorts == ()
    assert again.estimate is None


def test_finished_trials_of_another_study_are_named_as_reused(study: StudyRecord, home: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        planned = plan("method=[plain]", "seed=0,7", "study=other", measures=False)
    assert [(each.standing.status, each.standing.detail) for each in planned.trials] == [
        ("finished", "reused from study toy"),
        ("new", ""),
    ]
    assert [each.trials for each in planned.cohorts] == [(planned.trials[1].id,)]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder without anything in it."""
    folder = tmp_path / "study" / "0123456789ab"
    folder.mkdir(parents=True)
    return folder


def checkpoint(folder: Path, name: str) -> None:
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / f"{name}-{'0' * 32}.pt").touch()


def test_unfinished_trials_say_where_they_go_on(run_folder: Path) -> None:
    assert standing(run_folder.parent, run_folder).detail == "begins anew"
    checkpoint(run_folder, "stage1-end")
    assert standing(run_folder.parent, run_folder).detail == "goes on from stage 1, its end"
    checkpoint(run_folder, "stage2-step40")
    found = standing(run_folder.parent, run_folder)
    assert (found.status, found.detail) == ("unfinished", "goes on from stage 2, step 40")
    assert found.at == Position(2, 40)


def test_failed_trials_say_why(run_folder: Path) -> None:
    (run_folder / "error.txt").write_text("ValueError: no\n\nTraceback …\n", encoding="utf-8")
    checkpoint(run_folder, "stage1-end")
    found = standing(run_folder.parent, run_folder)
    assert (found.status, found.detail, found.at) == ("failed", "ValueError: no", Position(1, END))


def signed(folder: Path, pid: int, host: str) -> None:
    path = TrialLock(folder.parent, folder.name).path
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"pid": pid, "host": host, "since": "2026-01-01"}), encoding="utf-8")


def test_a_trial_is_running_while_who_signed_for_it_lives(
    run_folder: Path, other: subprocess.Popen[bytes]
) -> None:
    signed(run_folder, other.pid, socket.gethostname())
    before = everything(run_folder.parent)
    found = standing(run_folder.parent, run_folder)
    assert (found.status, f"process {other.pid} " in found.detail) == ("running", True)
    assert everything(run_folder.parent) == before
    other.kill()
    other.wait()
    assert standing(run_folder.parent, run_folder).status == "unfinished"


@pytest.mark.parametrize(
    ("pid", "host"), [(os.getpid(), socket.gethostname()), (1, "elsewhere")], ids=["this", "elsewhere"]
)
def test_neither_this_process_nor_one_elsewhere_runs_it(run_folder: Path, pid: int, host: str) -> None:
    signed(run_folder, pid, host)
    assert standing(run_folder.parent, run_folder).status == "unfinished"


# How it would run


@pytest.mark.parametrize(("cohort", "workers"), [(1, 1), (3, 1), (2, 2)])
def test_cohorts_are_those_that_run_then_forms(
    cohort: int, workers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MYOSOTIS_PLUGINS", MODULES)
    sizes = [f"hydra.launcher.cohort={cohort}", f"hydra.launcher.workers={workers}"]
    command = toy("method=[side],[pull]", "method.side.width=1,2,3", "seed=0,1", "study=s", *sizes)
    planned = plan_study(command, measures=False)
    run_at(tmp_path, *command, modules=MODULES)
    [recorded] = read_json(tmp_path / "studies" / "s" / "cohorts.json")
    assert [list(each.trials) for each in planned.cohorts] == [each["trials"] for each in recorded["cohorts"]]
    assert [each.threads for each in planned.cohorts] == [each["threads"] for each in recorded["cohorts"]]
    assert (planned.workers, planned.basis) == (recorded["workers"], "asked for")


def test_what_was_measured_for_a_plan_is_remembered() -> None:
    sweep = ["seed=0,1", "trainer.max_steps=2", "hydra.launcher.workers=1"]
    assert plan(*sweep, measures=False).basis == "nothing"
    assert plan(*sweep).basis == "measured"
    assert plan(*sweep).basis == "remembered"
    assert plan(*sweep, measures=False).basis == "remembered"
    assert plan("seed=0").basis == "alone"


# What it takes


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.batch_size=5", "trainer.accumulate_grad_batches=2"],
        ["trainer.max_steps=null", "trainer.max_epochs=3"],
        ["trainer.max_steps=null", "trainer.max_tokens=77"],
        ["trainer.max_steps=null"],
        ["curriculum=joint", "mix.up=0.7"],
        ["curriculum=progressive"],
        [
            *("curriculum=joint", "curriculum.temperature=2", "curriculum.stopping_strategy=first_exhausted"),
            *("dataset.up.rows=16", "trainer.max_steps=null", "trainer.max_epochs=3"),
        ],
    ],
)
def test_tokens_are_those_that_a_run_counts(overrides: Sequence[str], tmp_path: Path) -> None:
    command = one_at_a_time("study=s", *overrides)
    planned = plan_study(command)
    record = run_at(tmp_path, *command)
    assert [each.estimate.tokens for each in planned.trials if each.estimate] == list(record.trials.tokens)
    assert planned.estimate is not None
    assert planned.estimate.tokens == record.trials.tokens.sum()


def test_seconds_and_disk_are_close_to_a_runs(write_plugin: Any, tmp_path: Path) -> None:
    plugins = write_plugin("slow_method", SLOW).parent
    command = one_at_a_time("method=[plain,slow]", "evaluation.every=5", "seed=0,1", "study=s")
    planned = plan_study(command)
    # In a process of its own: this one holds what the tests before have used.
    variables = {
        "MYOSOTIS_PLUGINS": os.environ["MYOSOTIS_PLUGINS"],
        "PYTHONPATH": os.pathsep.join([str(plugins), search_path()]),
    }
    done = python(["-m", "myosotis", "run", *command], tmp_path, variables)
    assert done.returncode == 0, done.stderr
    record = load_study("s")
    # 24 steps of 0.05 s; 3 tasks are scored 2 + 4 times and 0.1 s.
    for each, seconds in zip(planned.trials, record.trials.seconds, strict=True):
        assert each.estimate is not None
        assert seconds > 24 * 0.05 + 18 * 0.1
        assert each.estimate.seconds == pytest.approx(seconds, rel=0.3)
        kept = sum(path.stat().st_size for path in each.folder.rglob("*") if path.is_file())
        assert each.estimate.disk_bytes == pytest.approx(kept, abs=10_000)
    assert planned.estimate is not None
    assert planned.estimate.seconds > record.trials.seconds.sum()
    assert planned.estimate.memory_bytes == pytest.approx(record.trials.peak_memory_bytes.max(), rel=0.3)


def test_only_what_is_left_of_a_trial_is_estimated(write_plugin: Any, tmp_path: Path) -> None:
    write_plugin("slow_method", SLOW)
    command = one_at_a_time("method=[plain,slow]", "study=s")
    (whole,) = plan_study(command).trials
    (tmp_path / "studies" / "s" / whole.id).mkdir(parents=True)
    checkpoint(tmp_path / "studies" / "s" / whole.id, "stage1-end")
    checkpoint(tmp_path / "studies" / "s" / whole.id, "stage2-step9")
    (left,) = plan_study(command).trials
    assert whole.estimate is not None
    assert left.estimate is not None
    assert (whole.estimate.tokens, left.estimate.tokens) == (24 * 8, 3 * 8)
    # Twenty-one steps and three scorings less.
    assert whole.estimate.seconds - left.estimate.seconds == pytest.approx(21 * 0.05 + 0.3, rel=0.3)


def measured(calls: list[str]) -> Any:
    """Give a measurement that takes no time, and notes its trial."""

    def measure(config: Any, workspace: Any) -> TrialCost:
        calls.append(config.id)
        return TrialCost(0.0, 1.0, 8.0, dict.fromkeys(config.tasks, 0.5), 1000, 100, 50, True)

    return measure


def test_as_much_is_measured_whatever_the_number_of_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(estimates, "measure_trial", measured(calls))
    sizes = ["hydra.launcher.cohort=1", "hydra.launcher.workers=1"]
    plan("method=[plain],[pull]", "seed=range(0,30)", *sizes)
    assert len(calls) == 2
    calls.clear()
    strengths = ",".join(map(str, range(1, MOST_SHAPES + 1)))
    plan("method=[pull]", f"method.pull.strength={strengths}", *sizes)
    assert len(calls) == MOST_SHAPES
    calls.clear()
    plan("method=[pull]", f"method.pull.strength={strengths},99", *sizes)
    assert len(calls) == 1


def test_the_largest_trial_of_a_shape_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setenv("MYOSOTIS_PLUGINS", MODULES)
    monkeypatch.setattr(estimates, "measure_trial", measured(calls))
    sizes = ["hydra.launcher.cohort=1", "hydra.launcher.workers=1"]
    planned = plan("method=[side]", "method.side.width=2,5,3", *sizes)
    assert calls == [planned.trials[1].id]
    # Two layers of 2 × 16 and 16 × 2, and a path beside each: 18 numbers a unit of width.
    disk = [each.estimate.disk_bytes for each in planned.trials if each.estimate]
    assert (disk[1] - disk[0], disk[1] - disk[2]) == (3 * 36 * 4, 2 * 36 * 4)


def test_times_add_up_as_the_study_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "measure_trial", measured([]))
    for name in ("TRIAL_SECONDS", "STAGE_SECONDS", "REPORT_SECONDS", "REPORTED_SECONDS"):
        monkeypatch.setattr(estimates, name, 0.0)
    planned = plan("seed=0,1,2", "hydra.launcher.cohort=1", "hydra.launcher.workers=1", price_per_hour=7200.0)
    seconds = [each.estimate.seconds for each in planned.trials if each.estimate]
    # Two stages of 12 steps of 1 s, each scored on three tasks in 0.5 s; the first trial scores the base.
    assert seconds == pytest.approx([28.5, 27.0, 27.0], abs=0.9)
    assert planned.estimate is not None
    assert planned.estimate.seconds == pytest.approx(sum(seconds), abs=20)
    assert planned.money == pytest.approx(2 * planned.estimate.seconds)
    parts = [planned.money_of(each.estimate) for each in planned.trials]
    assert sum(each or 0.0 for each in parts) == pytest.approx(planned.money)


def test_a_cohort_that_was_asked_for_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []

    def time(launch: Any, arrangement: Arrangement, jobs: Sequence[Any]) -> Cost:
        timed.append(len(jobs))
        return Cost(step_seconds=1.6, memory_bytes=0, free_bytes=0, steps=12)

    monkeypatch.setenv("MYOSOTIS_PLUGINS", MODULES)
    monkeypatch.setattr(estimates, "measure_trial", measured([]))
    monkeypatch.setattr(Launch, "_time", time)
    sizes = ["hydra.launcher.cohort=4", "hydra.launcher.workers=1"]
    planned = plan("method=[side]", "method.side.width=1,2", "seed=0,1", *sizes)
    assert timed == [4]
    (cohort,) = planned.cohorts
    assert cohort.estimate is not None
    # Four times two stages of 12 steps and three scorings of 0.5 s, in 0.4 of the time; the base's scores once.
    assert cohort.estimate.seconds == pytest.approx(4 * 27 * 0.4 + 1.5, abs=3)
    # Each trial more needs the 900 bytes that its own takes, beside the process and the base.
    assert cohort.estimate.memory_bytes == 1000 + 3 * 900


def test_base_rows_that_a_study_has_measured_cost_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_at(tmp_path, *one_at_a_time("study=first"))
    monkeypatch.setattr(estimates, "measure_trial", measured([]))
    for path in [*(tmp_path / "studies" / ".base").glob("*.json")]:
        known = plan("seed=1", "study=s").trials[0].estimate
        path.unlink()
        unknown = plan("seed=1", "study=s").trials[0].estimate
        assert known is not None
        assert unknown is not None
        assert unknown.seconds - known.seconds == pytest.approx(0.5, abs=0.2)


def test_workers_share_the_work() -> None:
    assert makespan([4.0, 3.0, 2.0, 1.0], 1) == 10.0
    assert makespan([4.0, 3.0, 2.0, 1.0], 2) == 5.0
    assert makespan([5.0, 1.0, 1.0], 3) == 5.0


def test_pace_is_what_was_measured() -> None:
    alone = Measured(Arrangement(1, 2, 1), 1.0)
    four = Measured(Arrangement(1, 2, 4), 2.0)
    workers = Measured(Arrangement(2, 1, 2), 3.0)
    assert [Pace([alone, four], 1).share(together) for together in (1, 3, 4, 9)] == [1.0, 1.0, 0.5, 0.5]
    assert [Pace([alone, workers], 2).share(together) for together in (2, 3)] == [1.5, 1.5]
    assert Pace([], 1).share(4) == 1.0


# What cannot fit


def test_a_trial_that_is_too_large_is_refused_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "free_memory", lambda runtime: 0)
    monkeypatch.setattr(estimates, "memory", lambda runtime: 100)
    monkeypatch.setattr(estimates, "measure_trial", lambda *arguments: pytest.fail("it was measured"))
    with pytest.raises(ConfigurationError) as refused:
        plan()
    # 82 numbers that train, of at least two bytes, with a gradient and two of the optimizer.
    assert "plain seed=0 needs at least 656 B" in str(refused.value)
    assert "there are 100 B" in str(refused.value)
    assert "trainer.batch_size" in str(refused.value)
    monkeypatch.setattr(estimates, "memory", lambda runtime: 656)
    with pytest.raises(pytest.fail.Exception):
        plan()


@pytest.mark.parametrize("raised", [None, MemoryError()])
def test_a_trial_whose_steps_need_too_much_is_refused(
    raised: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(config: Any, workspace: Any) -> TrialCost:
        if raised is not None:
            raise raised
        return TrialCost(0.0, 1.0, 8.0, {}, 10**15, 0, 0, True)

    monkeypatch.setattr(estimates, "measure_trial", measure)
    with pytest.raises(ConfigurationError, match=r"about 1000\.0 TB" if raised is None else "more than the"):
        plan()


def test_a_study_that_does_not_fit_on_the_disk_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planned = plan()
    assert planned.free_disk_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert planned.estimate is not None
    needed = planned.estimate.disk_bytes + planned.estimate.checkpoint_bytes
    monkeypatch.setattr(planning, "free_disk", lambda folder: needed)
    plan()
    monkeypatch.setattr(planning, "free_disk", lambda folder: needed - 1)
    with pytest.raises(ConfigurationError, match=r"must fit on the disk.*trainer\.save=false"):
        plan()


def test_not_saving_needs_less_room() -> None:
    kept, dropped = (plan(f"trainer.save={save}").trials[0].estimate for save in ("true", "false"))
    assert kept is not None
    assert dropped is not None
    assert kept.disk_bytes - dropped.disk_bytes == 82 * 4


# The command


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, ["plan", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_command_line_says_it_in_words(tmp_path: Path) -> None:
    text = printed(*one_at_a_time("method=[plain],[pull]", "seed=0,1", "study=s"), "--price-per-hour", "3")
    for told in (
        "4 trials, 4 to run",
        "plain seed=0",
        "command line (seed=0,1): seed=0 or 1",
        "at 3 an hour",
    ):
        assert told in text
    assert everything(tmp_path) == set()


def test_command_line_says_it_in_json() -> None:
    command = one_at_a_time("method=[plain],[pull]", "seed=0,1", "study=s")
    found = json.loads(printed(*command, "--json", "--price-per-hour", "3"))
    assert [each["status"] for each in found["trials"]] == ["new"] * 4
    assert found["trials"][3]["settings"]["seed"] == {"value": 1, "source": "command line (seed=0,1)"}
    assert found["trials"][3]["settings"]["method.pull"]["value"] == "tests.toy.Pull"
    assert sum(len(each["trials"]) for each in found["cohorts"]) == 4
    assert found["money"] == pytest.approx(found["estimate"]["seconds"] / 1200)
    assert sum(each["money"] for each in found["trials"]) == pytest.approx(found["money"])


def test_many_trials_are_not_all_printed() -> None:
    text = printed(*toy("seed=range(0,50)", "study=s"), "--no-measure")
    assert text.count("plain seed=") == 30
    assert "and 20 more trials; --json has all of them" in text


@pytest.mark.parametrize("mistake", [["--prise"], ["trainer.max_step=1"]])
def test_mistakes_are_refused(mistake: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"--prise|max_steps"):
        printed(*toy(*mistake))
