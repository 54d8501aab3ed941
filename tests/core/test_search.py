"""A search: the suggestions are Optuna's, its total is the study's, and what cannot be is refused beforehand."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from myosotis.errors import ConfigurationError, TrialsFailed
from myosotis.journal import JournalLock, mend, open_journal
from myosotis.ledger import StudyRecord, read_search
from myosotis.report.history import history_charts, history_points
from tests.core.commands import SLOW, run_at, search_path, toy

RATE = "optimizer.learning_rate=tag(log,interval(1e-3,1e-1))"
QUICK = ("trainer.max_steps=2", "trainer.save=false", "hydra.launcher.cohort=1", "hydra.launcher.workers=1")


def asked(*overrides: str) -> list[str]:
    """Give the command of a quick search."""
    return toy("hydra/sweeper=search", *QUICK, "study=found", *overrides)


def search(folder: Path, *overrides: str, modules: str = "tests.toy", report: bool = False) -> StudyRecord:
    return run_at(folder, *asked(*overrides), modules=modules, report=report)


def suggestions(folder: Path) -> list[dict[str, Any]]:
    return list(read_search(folder / "studies" / "found")["suggestions"])


def loaded(folder: Path) -> optuna.Study:
    """Open the journal as any user of Optuna does."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "studies" / "found" / "search.journal"))
    return optuna.load_study(study_name="found", storage=optuna.storages.JournalStorage(backend))


# What is suggested


def by_hand(
    sampler: Callable[[int], Any], count: int, values: Sequence[Sequence[float]], directions: Sequence[str]
) -> list[dict[str, Any]]:
    """Ask Optuna in memory, one after another, and tell it the same values."""
    study = optuna.create_study(directions=list(directions))
    params = []
    for number in range(count):
        study.sampler = sampler(number)
        trial = study.ask()
        trial.suggest_float("optimizer.learning_rate", 1e-3, 1e-1, log=True)
        trial.suggest_int("model.width", 2, 32)
        params.append(trial.params)
        study.tell(trial, list(values[number]))
    return params


@pytest.mark.parametrize(
    ("sampler", "options", "made"),
    [
        ("random", "null", lambda number: optuna.samplers.RandomSampler(seed=3 + number)),
        (
            "tpe",
            "{n_startup_trials: 3}",
            lambda number: optuna.samplers.TPESampler(seed=3 + number, n_startup_trials=3),
        ),
        ("cmaes", "null", lambda number: optuna.samplers.CmaEsSampler(seed=3 + number)),
        (
            "nsgaii",
            "{population_size: 3}",
            lambda number: optuna.samplers.NSGAIISampler(seed=3 + number, population_size=3),
        ),
    ],
)
def test_suggestions_are_optunas(
    tmp_path: Path, sampler: str, options: str, made: Callable[[int], Any]
) -> None:
    objectives = ["learned", "forgotten"] if sampler == "nsgaii" else ["learned"]
    search(
        tmp_path,
        RATE,
        "model.width=int(interval(2,32))",
        f"hydra.sweeper.sampler={sampler}",
        f"hydra.sweeper.sampler_options={options}",
        f"hydra.sweeper.objective=[{','.join(objectives)}]",
        "hydra.sweeper.n_trials=9",
        "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.seed=3",
    )
    found = suggestions(tmp_path)
    directions = ["maximize", "minimize"][: len(objectives)]
    expected = by_hand(made, 9, [each["values"] for each in found], directions)
    assert [each["params"] for each in found] == expected
    if sampler != "nsgaii":  # which lets the best live on
        assert len({each["params"]["optimizer.learning_rate"] for each in found}) == 9


def test_a_grid_is_every_combination_once(tmp_path: Path) -> None:
    search(
        tmp_path,
        "optimizer.learning_rate=0.01,0.1",
        "model.width=range(2,8,2)",
        "method=[plain],[still]",
        "hydra.sweeper.sampler=grid",
        "hydra.sweeper.n_trials=100",
        "hydra.sweeper.n_jobs=5",
    )
    found = [
        tuple(each["params"][key] for key in ("optimizer.learning_rate", "model.width", "method"))
        for each in suggestions(tmp_path)
    ]
    assert sorted(found) == sorted(itertools.product([0.01, 0.1], [2, 4, 6], ["[plain]", "[still]"]))


def test_an_objective_is_the_mean_over_seeds_and_orders(tmp_path: Path) -> None:
    replicates = ("seed=0,1", "curriculum.order=[right,up],[up,right]")
    objective = "hydra.sweeper.objective=[forgotten,side.surprise]"
    record = search(tmp_path, RATE, *replicates, objective, "hydra.sweeper.n_trials=2")
    assert len(record.trials) == 8
    for each in suggestions(tmp_path):
        own = record.trials[record.trials.trial.isin(each["trials"])]
        assert len(own) == 4
        assert own.configuration.nunique() == 1
        scores = record.scores[record.scores.trial.isin(each["trials"])].query(
            "task == 'side' and metric == 'surprise'"
        )
        last = scores[scores.stage == 2].groupby("trial")["value"].last()
        assert each["values"] == pytest.approx([own.forgotten.mean(), last.mean()])
    assert read_search(tmp_path / "studies" / "found")["directions"] == {
        "forgotten": "minimize",
        "side.surprise": "minimize",
    }


def test_suggestions_without_a_plugin_have_none_of_its_parameters(tmp_path: Path) -> None:
    lines = ("method=[plain],[pull]", "method.pull.strength=interval(0,1)", "hydra.sweeper.n_trials=8")
    record = search(tmp_path, *lines, "hydra.sweeper.sampler=random")
    for each in suggestions(tmp_path):
        assert ("method.pull.strength" in each["params"]) == (each["params"]["method"] == "[pull]")
    strengths = [
        swept.get("method.pull.strength") for swept in record.trials[record.trials.arm == "pull"].swept
    ]
    assert len(set(strengths)) == len(strengths) > 1
    # What comes out the same is trained once.
    assert (
        (record.trials.arm == "plain").sum()
        == 1
        < sum(each["params"]["method"] == "[plain]" for each in suggestions(tmp_path))
    )


def test_the_front_of_two_objectives(tmp_path: Path) -> None:
    search(
        tmp_path,
        RATE,
        "hydra.sweeper.sampler=nsgaii",
        "hydra.sweeper.objective=[learned,forgotten]",
        "hydra.sweeper.n_trials=8",
        "trainer.max_steps=8",
    )
    found = suggestions(tmp_path)
    values = np.array([each["values"] for each in found])

    def beaten(own: Any) -> bool:
        return any(
            other[0] >= own[0] and other[1] <= own[1] and (other[0] > own[0] or other[1] < own[1])
            for other in values
        )

    front = {each["number"] for each in found if not beaten(np.array(each["values"]))}
    assert {each.number for each in loaded(tmp_path).best_trials} == front


# How many, and going on


def test_the_total_is_the_studys(tmp_path: Path) -> None:
    search(tmp_path, RATE, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2")
    first = suggestions(tmp_path)
    assert [each["state"] for each in first] == ["complete"] * 3
    search(tmp_path, RATE, "hydra.sweeper.n_trials=3")
    assert suggestions(tmp_path) == first
    search(tmp_path, RATE, "hydra.sweeper.n_trials=5")
    assert suggestions(tmp_path)[:3] == first
    assert len(suggestions(tmp_path)) == 5
    study = loaded(tmp_path)
    assert len(study.trials) == 5
    assert study.best_value == max(each["values"][0] for each in suggestions(tmp_path))
    assert study.metric_names == ["learned"]


def test_an_interrupted_search_suggests_what_it_would_have(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    options = (RATE, "hydra.sweeper.sampler_options={n_startup_trials: 2}", "hydra.sweeper.n_jobs=1")
    search(whole, *options, "hydra.sweeper.n_trials=6")
    for total in (1, 4, 6):
        search(parts, *options, f"hydra.sweeper.n_trials={total}")
    assert suggestions(whole) == suggestions(parts)


def test_the_default_name_does_not_depend_on_the_total(tmp_path: Path) -> None:
    command = [each for each in asked(RATE) if not each.startswith("study=")]
    run_at(tmp_path, *command, "hydra.sweeper.n_trials=1")
    run_at(tmp_path, *command, "hydra.sweeper.n_trials=2")
    [folder] = (tmp_path / "studies").glob("study-*")
    assert len(read_search(folder)["suggestions"]) == 2


def process(folder: Path, *overrides: str, modules: str = "tests.toy") -> subprocess.Popen[str]:
    """Begin a search in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "myosotis", "run", *asked(*overrides)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search_path(), "MYOSOTIS_PLUGINS": modules},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(folder: Path) -> int:
    return len(list((folder / "studies" / "found").glob("*/result.json")))


def waited(until: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not until():
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_command_goes_on_with_the_same_suggestions(
    tmp_path: Path, write_plugin: Callable[[str, str], Path], how: signal.Signals
) -> None:
    path = write_plugin("slowly", SLOW)
    options = (
        RATE,
        "method=[slow]",
        "hydra.sweeper.n_trials=5",
        "hydra.sweeper.n_jobs=2",
        "trainer.max_steps=6",
    )
    os.environ["PYTHONPATH"] = str(path.parent)
    try:
        killed = process(tmp_path, *options, modules="tests.toy,slowly")
        waited(lambda: finished(tmp_path) >= 3, killed)
        killed.send_signal(how)
        killed.wait()
    finally:
        del os.environ["PYTHONPATH"]
    before = {each.number: each for each in loaded(tmp_path).trials}
    running = [each for each in before.values() if each.state.name == "RUNNING"]
    assert running
    record = search(tmp_path, *options, modules="tests.toy,slowly")
    after = loaded(tmp_path).trials
    assert len(after) == 5
    assert all(each.state.name == "COMPLETE" for each in after)
    assert all(after[each.number].params == each.params for each in running)
    assert sorted(record.trials.status) == ["finished"] * 5


@pytest.mark.slow
def test_two_commands_share_a_search(tmp_path: Path, write_plugin: Callable[[str, str], Path]) -> None:
    path = write_plugin("slowly", SLOW)
    options = (RATE, "method=[slow]", "seed=0,1", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=1")
    os.environ["PYTHONPATH"] = str(path.parent)
    try:
        commands = [process(tmp_path, *options, modules="tests.toy,slowly") for _ in range(2)]
        told = [each.communicate(timeout=120)[0] for each in commands]
    finally:
        del os.environ["PYTHONPATH"]
    assert [each.returncode for each in commands] == [0, 0], told
    found = suggestions(tmp_path)
    assert [each["state"] for each in found] == ["complete"] * 4
    assert len({each["params"]["optimizer.learning_rate"] for each in found}) == 4
    assert finished(tmp_path) == 8
    begun = [{line.split("]")[1] for line in text.split("\n") if ": begins" in line} for text in told]
    assert begun[0]
    assert begun[1]
    assert not begun[0] & begun[1]


# The journal


def test_half_a_line_of_a_killed_writer_is_taken_away(tmp_path: Path) -> None:
    search(tmp_path, RATE, "hydra.sweeper.n_trials=1")
    path = tmp_path / "studies" / "found" / "search.journal"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":5,"wor')
    search(tmp_path, RATE, "hydra.sweeper.n_trials=2")
    assert len(loaded(tmp_path).trials) == 2
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize(("text", "left"), [("", ""), ("ab\ncd", "ab\n"), ("ab", ""), ("ab\n", "ab\n")])
def test_a_file_ends_with_a_whole_line(tmp_path: Path, text: str, left: str) -> None:
    path = tmp_path / "lines"
    path.write_text(text)
    mend(path)
    assert path.read_text() == left


def test_a_journal_in_a_renamed_folder_is_the_same_search(tmp_path: Path) -> None:
    search(tmp_path, RATE, "hydra.sweeper.n_trials=1")
    (tmp_path / "studies" / "found").rename(tmp_path / "studies" / "moved")
    run_at(tmp_path, *asked(RATE), "study=moved", "hydra.sweeper.n_trials=2")
    assert len(read_search(tmp_path / "studies" / "moved")["suggestions"]) == 2


def test_what_somebody_enqueued_is_tried(tmp_path: Path) -> None:
    search(tmp_path, RATE, "hydra.sweeper.n_trials=1")
    loaded(tmp_path).enqueue_trial({"optimizer.learning_rate": 0.05})
    search(tmp_path, RATE, "hydra.sweeper.n_trials=2")
    assert [each.params["optimizer.learning_rate"] for each in loaded(tmp_path).trials][1:] == [0.05]


def test_the_journals_lock_goes_with_its_holder(tmp_path: Path) -> None:
    open_journal(tmp_path)
    (tmp_path / ".locks").mkdir()
    code = f"""
import os
from pathlib import Path
from myosotis.journal import JournalLock
JournalLock(Path({str(tmp_path / "search.journal")!r})).acquire()
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    lock = JournalLock(tmp_path / "search.journal")
    begun = time.monotonic()
    assert lock.acquire()
    assert time.monotonic() - begun < 5
    lock.release()


# What goes wrong


def test_a_failed_suggestion_is_told_and_the_search_goes_on(tmp_path: Path) -> None:
    with pytest.raises(TrialsFailed, match="1 of 4 trials failed"):
        search(
            tmp_path,
            "dataset.up.broken=false,true",
            "hydra.sweeper.sampler=grid",
            "seed=0,1",
            "data_check=false",
        )
    assert sorted(each["state"] for each in suggestions(tmp_path)) == ["complete", "fail"]


def test_values_that_cannot_be_together_are_a_failed_suggestion(tmp_path: Path) -> None:
    with pytest.raises(TrialsFailed, match=r"suggestion \d+: ConfigurationError: .*mix"):
        search(
            tmp_path,
            "curriculum=joint",
            "dataset=[points]",
            "dataset.points.angle=30",
            "mix.right=0.1,0.7",
            "mix.up=0.1,0.7",
            "hydra.sweeper.sampler=grid",
        )
    states = {
        (each["params"]["mix.right"], each["params"]["mix.up"]): each["state"]
        for each in suggestions(tmp_path)
    }
    assert states == {
        (0.1, 0.1): "complete",
        (0.1, 0.7): "complete",
        (0.7, 0.1): "complete",
        (0.7, 0.7): "fail",
    }


def refused(folder: Path, *overrides: str) -> str:
    """Give what a command is refused with, which has written nothing."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigurationError) as error:
        search(folder, *overrides)
    assert sorted(folder.rglob("*")) == before
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra.sweeper.objective=lerned"], "Did you mean learned"),
        (["hydra.sweeper.objective=up.hit"], "Did you mean up.hits"),
        (
            ["hydra.sweeper.objective=forgotten", "curriculum=joint"],
            "no stage comes after a task's last training",
        ),
        (["hydra.sweeper.objective=forgotten_base", "~probe@probe.side"], "there is no probe"),
        (["hydra.sweeper.objective=[]"], "must name one number"),
        (["hydra.sweeper.objective=[learned,learned]"], "several different ones"),
        (["hydra.sweeper.sampler=tpee"], "Did you mean tpe"),
        (["hydra.sweeper.pruner=asha2"], "Did you mean asha"),
        (["hydra.sweeper.n_trials=0"], "n_trials must be at least 1, but got 0"),
        (["hydra.sweeper.n_trials=many"], "n_trials must be at least 1, but got 'many'"),
        (["hydra.sweeper.n_jobs=0"], "n_jobs must be at least 1, but got 0"),
        (["hydra.sweeper.sampler=grid"], "every one in between"),
        (["hydra.sweeper.sampler_options={n_startup: 1}"], "Did you mean n_startup_trials"),
        (
            ["hydra.sweeper.sampler=nsgaii", "hydra.sweeper.sampler_options={population_size: 1}"],
            "population_size",
        ),
        (["hydra.sweeper.pruner=median"], "evaluation.every is 0"),
        (["hydra.sweeper.pruner=asha", "evaluation.every=2"], "a stage has 2 steps"),
        (
            [
                "hydra.sweeper.pruner=asha",
                "evaluation.every=1",
                "hydra.sweeper.objective=[learned,forgotten]",
            ],
            "none where there are several objectives",
        ),
        (
            ["hydra.sweeper.sampler=cmaes", "hydra.sweeper.objective=[learned,forgotten]"],
            "must have one objective",
        ),
        (["method.pull.strength=interval(0,1)"], "no trial of this study has the method 'pull'"),
        (["model.width=interval(1,4)"], "int(interval"),
        (["model.width=int(interval(0,4))"], "width must be at least 1, but got 0"),
        (["force=true"], "force=true has nothing to begin anew"),
        (["+arms={a: {}, b: {}}"], "must have no arms"),
        (["hydra.sweeper.direction=maximize"], "direction"),
        (["hydra.launcher.backend=slurm", "hydra.launcher.detach=true"], "detach must be false in a search"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_starts(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    assert message in refused(tmp_path, RATE, *overrides)


def test_a_search_without_a_sweep_is_refused(tmp_path: Path) -> None:
    assert "must have a parameter to vary" in refused(tmp_path, "seed=0,1")


def test_cmaes_needs_a_number(tmp_path: Path) -> None:
    assert "a parameter that is a number" in refused(
        tmp_path, "model.width=2,4", "hydra.sweeper.sampler=cmaes"
    )


@pytest.mark.parametrize(("package", "sampler"), [("optuna", "tpe"), ("cmaes", "cmaes")])
def test_a_package_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, sampler: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == package else found(name, *more)
    )
    told = refused(tmp_path, RATE, f"hydra.sweeper.sampler={sampler}")
    assert f"must have the package {package}" in told
    assert "pip install 'myosotis[search]'" in told


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        (
            [RATE],
            ["optimizer.learning_rate=0.1,0.2"],
            "optimizer.learning_rate: was tag(log,interval(1e-3,1e-1)), is 0.1,0.2",
        ),
        ([RATE], [RATE, "model.width=2,4"], "model.width: was not given, is 2,4"),
        ([RATE, "seed=0,1"], [RATE, "seed=0"], "seed: was 0,1, is 0"),
        ([RATE], [RATE, "trainer.batch_size=4"], "trainer.batch_size: was not given, is 4"),
        (
            [RATE],
            [RATE, "hydra.sweeper.objective=forgotten"],
            "hydra.sweeper.objective: was learned, is forgotten",
        ),
    ],
)
def test_a_search_that_changed_is_refused_with_the_difference(
    tmp_path: Path, before: list[str], after: list[str], difference: str
) -> None:
    search(tmp_path, *before, "hydra.sweeper.n_trials=1")
    assert difference in refused(tmp_path, *after, "hydra.sweeper.n_trials=2")


def test_a_study_file_holds_a_search_that_the_command_asks_for(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    text = "hydra:\n  sweeper:\n    n_trials: 2\n    params:\n      model.width: int(interval(2,8))\n"
    (tmp_path / "experiments" / "hunt.yaml").write_text(f"# @package _global_\nstudy: hunt\n{text}")
    command = toy("+experiments=hunt", *QUICK)
    with pytest.raises(ConfigurationError, match="add hydra/sweeper=search to the command"):
        run_at(tmp_path, *command)
    run_at(tmp_path, *command, "hydra/sweeper=search")
    assert len(read_search(tmp_path / "studies" / "hunt")["suggestions"]) == 2


def test_hydras_own_launcher_runs_a_search(tmp_path: Path) -> None:
    options = ("model.width=2,4", "hydra.sweeper.sampler=grid", "hydra/launcher=basic")
    kept = [each for each in asked(*options) if not each.startswith("hydra.launcher.")]
    record = run_at(tmp_path, *kept)
    assert list(record.trials.status) == ["finished"] * 2
    assert {each["state"] for each in suggestions(tmp_path)} == {"complete"}


def test_plan_says_that_a_search_has_no_trials_yet(tmp_path: Path, call: Any) -> None:
    code, _, told = call("plan", *asked(RATE))
    assert code == 2
    assert "but a search finds them" in told


def test_a_plain_sweep_of_an_interval_names_the_search(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="an interval needs hydra/sweeper=search"):
        run_at(tmp_path, *toy(RATE))


def test_the_data_of_a_search_can_be_looked_at(tmp_path: Path, call: Any) -> None:
    code, _, errors = call("data", "check", *asked(RATE))
    assert code == 0, errors


# The report


def test_the_history_is_the_best_of_the_complete_ones_so_far(tmp_path: Path) -> None:
    values = [
        ("complete", [3.0, 5.0]),
        ("pruned", [9.0, 0.0]),
        ("fail", None),
        ("complete", [1.0, 2.0]),
        ("running", None),
    ]
    found = [
        {"number": number, "state": state, "values": own, "params": {"model.width": number}, "trials": []}
        for number, (state, own) in enumerate(values)
    ]
    directions = {"learned": "maximize", "forgotten": "minimize"}
    (tmp_path / "search.json").write_text(json.dumps({"directions": directions, "suggestions": found}))
    record = StudyRecord("found", tmp_path, pd.DataFrame(), pd.DataFrame(), pd.DataFrame())
    points = history_points(record)
    rows = points[["objective", "number", "value", "best"]].to_numpy().tolist()
    assert rows == [
        ["learned", 0, 3.0, 3.0],
        ["learned", 1, 9.0, 3.0],
        ["learned", 3, 1.0, 3.0],
        ["forgotten", 0, 5.0, 5.0],
        ["forgotten", 1, 0.0, 5.0],
        ["forgotten", 3, 2.0, 2.0],
    ]
    assert list(points["text"])[:2] == ["width=0", "width=1"]
    assert len(history_charts(points)) == 2


def test_the_report_shows_the_search(tmp_path: Path) -> None:
    record = search(tmp_path, RATE, "hydra.sweeper.n_trials=4", "trainer.max_steps=8", report=True)
    assert (record.folder / "report" / "history.svg").is_file()
    assert "The search, suggestion by suggestion" in (record.folder / "report.html").read_text()
