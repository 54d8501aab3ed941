"""Hopeless trials end early: as Optuna judges them, and without a trace in those that go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from safetensors.torch import load_file

from myosotis.cleaning import Choice, leftovers
from myosotis.course import Course, TrialCourse
from myosotis.events import Event
from myosotis.ledger import StudyRecord, read_json, read_scores, read_search, status
from myosotis.report.aggregate import configurations
from myosotis.report.table import summary_table
from myosotis.standing import standing
from tests.core.commands import run_at, toy
from tests.core.extras import CALLS

MODULES = "tests.toy,tests.core.hazards,tests.core.extras"
RATE = "optimizer.learning_rate=tag(log,interval(1e-5,1e-1))"
PLAIN = (
    "method=[side]",
    "method.side.width=2",
    "trainer.max_steps=9",
    "evaluation.every=2",
    "study=found",
    "hydra.launcher.workers=1",
)
ASHA = ("hydra.sweeper.pruner=asha", "hydra.sweeper.pruner_options={reduction_factor: 2}")
MEDIAN = ("hydra.sweeper.pruner=median", "hydra.sweeper.pruner_options={n_startup_trials: 2}")


def search(folder: Path, *overrides: str, cohort: int = 1, report: bool = False) -> StudyRecord:
    command = toy("hydra/sweeper=search", *PLAIN, *overrides, f"hydra.launcher.cohort={cohort}")
    return run_at(folder, *command, modules=MODULES, report=report)


def loaded(folder: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "studies" / "found" / "search.journal"))
    return optuna.load_study(study_name="found", storage=optuna.storages.JournalStorage(backend))


def learned_so_far(run: Path, point: int) -> float:
    """Compute the mean gain over the base at an evaluation from the run folder's scores alone."""
    scores = [each for each in read_scores(run / "scores.jsonl") if each.metric == "hits"]
    moments = sorted({(each.stage, each.step) for each in scores})  # the base's is the first
    stage, step = moments[point]
    value = {(each.task, each.stage, each.step): each.value for each in scores}
    last = max(moment for moment in moments if moment[0] == 1)
    # The first task is trained in the first stage, and was learned as well as it was at its end.
    gains = [value["right", *min(last, (stage, step))] - value["right", 0, 0]]
    if stage == 2:
        gains.append(value["up", stage, step] - value["up", 0, 0])
    return sum(gains) / len(gains)


@pytest.mark.parametrize(
    ("options", "pruner"),
    [
        (ASHA, optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)),
        (MEDIAN, optuna.pruners.MedianPruner(n_startup_trials=2)),
    ],
    ids=["asha", "median"],
)
def test_trials_end_where_optuna_ends_them(
    tmp_path: Path, options: tuple[str, ...], pruner: optuna.pruners.BasePruner
) -> None:
    search(tmp_path, RATE, *options, "hydra.sweeper.n_trials=10", "hydra.sweeper.n_jobs=1")
    study = optuna.create_study(direction="maximize", pruner=pruner)
    ends, expected = [], []
    for own in loaded(tmp_path).trials:
        trial = study.ask()
        for point, value in own.intermediate_values.items():
            trial.report(value, point)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                expected.append((own.number, point))
                break
        else:
            study.tell(trial, own.value)
        if own.state.name == "PRUNED":
            ends.append((own.number, own.last_step))
    assert ends == expected
    assert 2 <= len(ends) <= 8


def test_what_is_compared_is_the_headline_so_far(tmp_path: Path) -> None:
    search(tmp_path, RATE, *MEDIAN, "hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=1")
    study = tmp_path / "studies" / "found"
    lengths = []
    for own in loaded(tmp_path).trials:
        [trial] = own.user_attrs["trials"]
        lengths.append(len(own.intermediate_values))
        for point, value in own.intermediate_values.items():
            assert value == pytest.approx(learned_so_far(study / trial, point)), (own.number, point)
        if own.state.name == "COMPLETE":
            # Four within each stage and the end of the first; at the end of the last there is nothing to save.
            assert list(own.intermediate_values) == list(range(1, 10))
    assert max(lengths) == 9


def test_a_suggestion_is_judged_by_the_mean_of_its_seeds(tmp_path: Path) -> None:
    replicates = ("seed=0,1,2", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2")
    record = search(tmp_path, RATE, *MEDIAN, *replicates, cohort=6)
    states = []
    for own in loaded(tmp_path).trials:
        runs = [record.folder / trial for trial in own.user_attrs["trials"]]
        assert len(runs) == 3
        for point, value in own.intermediate_values.items():
            assert value == pytest.approx(sum(learned_so_far(run, point) for run in runs) / 3)
        # All of them leave at the same evaluation.
        ends = {status(run) for run in runs}
        assert ends == {"pruned"} if own.state.name == "PRUNED" else {"finished"}
        if own.state.name == "PRUNED":
            at = {
                (read_json(run / "pruned.json")["stage"], read_json(run / "pruned.json")["step"])
                for run in runs
            }
            assert len(at) == 1
        states.append(own.state.name)
    assert set(states) == {"COMPLETE", "PRUNED"}


def test_seeds_one_after_another_leave_with_the_first_that_is_hopeless(tmp_path: Path) -> None:
    replicates = ("seed=0,1", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=1")
    record = search(tmp_path, RATE, *MEDIAN, *replicates)
    pruned = [each for each in loaded(tmp_path).trials if each.state.name == "PRUNED"]
    assert pruned
    for own in pruned:
        ends = [status(record.folder / trial) for trial in own.user_attrs["trials"]]
        assert "pruned" in ends
        if ends[0] == "pruned":  # the second has seen no batch
            assert ends[1] == "pruned"
            assert read_json(record.folder / own.user_attrs["trials"][1] / "pruned.json")["stage"] == 0


def contents(run: Path) -> dict[str, Any]:
    """Give what a trial has come to, but not how long it took."""
    weights = load_file(run / "adapter" / "model.safetensors")
    return {
        "scores": read_scores(run / "scores.jsonl"),
        "losses": [json.loads(line)["loss"] for line in (run / "metrics.jsonl").open()],
        **{name: value.tolist() for name, value in weights.items()},
    }


def test_those_that_go_on_have_the_numbers_that_they_have_without_the_pruned(tmp_path: Path) -> None:
    together, apart = tmp_path / "together", tmp_path / "apart"
    for folder in (together, apart):
        folder.mkdir()
    record = search(together, RATE, *ASHA, "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=4", cohort=4)
    [formed] = read_json(record.folder / "cohorts.json")
    [cohort] = formed["cohorts"]
    assert len(cohort["trials"]) == 4
    states = dict(zip(record.trials.trial, record.trials.status, strict=True))
    kept = [trial for trial, state in states.items() if state == "finished"]
    assert 0 < len(kept) < 4
    rates = ",".join(
        repr(record.trials.set_index("trial").swept[trial]["optimizer.learning_rate"]) for trial in kept
    )
    alone = run_at(
        apart, *toy(*PLAIN, f"optimizer.learning_rate={rates}", "hydra.launcher.cohort=1"), modules=MODULES
    )
    assert sorted(alone.trials.trial) == sorted(kept)
    for trial in kept:
        assert contents(record.folder / trial) == contents(alone.folder / trial)


def test_looking_for_an_early_stop_does_not_bring_it_back(tmp_path: Path) -> None:
    held_out = ("dataset.right.held_out=true", "dataset.up.held_out=true")
    stopping = ("trainer.early_stopping.patience=9", "trainer.early_stopping.every_n_steps=2")
    often = ("trainer.log_every_n_steps=1", "hydra.sweeper.n_trials=4")
    record = search(tmp_path, RATE, *ASHA, *held_out, *stopping, *often, cohort=4)
    pruned = record.trials[record.trials.status == "pruned"]
    assert len(pruned)
    for folder in pruned.folder:
        told = read_json(record.folder / folder / "pruned.json")
        log = [json.loads(line) for line in (record.folder / folder / "metrics.jsonl").open()]
        assert max((each["stage"], each["step"]) for each in log) == (told["stage"], told["step"])


# What is left of a pruned trial


@pytest.fixture
def pruned(tmp_path: Path) -> tuple[StudyRecord, Mapping[str, Any]]:
    """A search with a pruned trial, and that trial's row."""
    CALLS.clear()
    record = search(
        tmp_path,
        RATE,
        *ASHA,
        "hydra.sweeper.n_trials=4",
        "trainer.checkpoint_every_n_steps=1",
        cohort=4,
        report=True,
    )
    return record, record.trials[record.trials.status == "pruned"].iloc[0].to_dict()


def test_a_pruned_trial_keeps_its_scores_and_no_result(pruned: tuple[StudyRecord, Mapping[str, Any]]) -> None:
    record, trial = pruned
    run = record.folder / trial["folder"]
    names = {path.name for path in run.iterdir()}
    assert {"pruned.json", "scores.jsonl", "config.yaml"} <= names
    assert not names & {"result.json", "error.txt", "checkpoints", "adapter"}
    told = read_json(run / "pruned.json")
    scores = read_scores(run / "scores.jsonl")
    assert (told["stage"], told["step"]) == (scores[-1].stage, scores[-1].step)
    point = len({(each.stage, each.step) for each in scores}) - 1
    assert told["so_far"]["learned"] == pytest.approx(learned_so_far(run, point))
    assert pd.isna(trial["learned"])
    assert trial["seconds"] == pytest.approx(told["seconds"])
    assert len(record.scores[record.scores.trial == trial["trial"]]) > 0
    assert not [each for each in leftovers(record.folder, Choice()) if "checkpoint" in each.what]


def test_it_is_told_as_pruned(pruned: tuple[StudyRecord, Mapping[str, Any]], call: Any) -> None:
    record, trial = pruned
    run = record.folder / trial["folder"]
    assert standing(record.folder, run.resolve()).status == "pruned"
    assert ("trial_finished", trial["trial"], run.resolve(), "pruned") in CALLS
    rows = configurations(record).set_index("configuration")
    assert rows.loc[trial["configuration"], ["n", "pruned", "failed", "unfinished"]].tolist() == [0, 1, 0, 0]
    assert summary_table(record)["pruned"].sum() == (record.trials.status == "pruned").sum()
    page = (record.folder / "report.html").read_text()
    count = (record.trials.status == "pruned").sum()
    assert f"Left out of all means: {count} pruned." in page
    code, shown, _ = call("status", "found")
    assert code == 0
    assert f"{count} pruned" in shown
    states = {each["number"]: each["state"] for each in read_search(record.folder)["suggestions"]}
    assert list(states.values()).count("pruned") == count


def test_the_same_command_leaves_it_and_a_plain_one_runs_it_to_its_end(
    pruned: tuple[StudyRecord, Mapping[str, Any]], tmp_path: Path
) -> None:
    record, trial = pruned
    run = record.folder / trial["folder"]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    search(tmp_path, RATE, *ASHA, "hydra.sweeper.n_trials=5", "trainer.checkpoint_every_n_steps=1", cohort=4)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    rate = trial["swept"]["optimizer.learning_rate"]
    whole = run_at(tmp_path, *toy(*PLAIN, f"optimizer.learning_rate={rate!r}"), modules=MODULES)
    assert status(run) == "finished"
    assert not (run / "pruned.json").exists()
    assert set(whole.trials[whole.trials.trial == trial["trial"]].status) == {"finished"}


def test_a_course_counts_it_as_over() -> None:
    course = Course({"a": TrialCourse("a")}, "study", unknown=1)
    course.take(Event("a", "begins"))
    course.take(Event("a", "pruned"))
    assert course.counts() == {"pruned": 1}
    assert course.trials["a"].over
    assert not course.over
    course.add({"b": TrialCourse("b", "reused")}, unknown=0)
    assert course.over
    assert course.to_run == 1


@pytest.mark.slow
def test_the_processes_of_a_trial_leave_together(tmp_path: Path) -> None:
    """Only the first asks; the others would wait for it without end where they decided for themselves."""
    two = ("trainer.devices=2", "trainer.accelerator=cpu", "trainer.batch_size=4")
    more = ("hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=1", "evaluation.every=4")
    record = search(tmp_path, RATE, *ASHA, *more, *two)
    assert sorted(record.trials.status) == ["finished", "finished", "pruned", "pruned"]
    for own in loaded(tmp_path).trials:
        [trial] = own.user_attrs["trials"]
        assert status(record.folder / trial) == ("pruned" if own.state.name == "PRUNED" else "finished")
        # Of a pruned one, as many as were told of before it was.
        assert (own.last_step == 5) == (own.state.name == "COMPLETE")
