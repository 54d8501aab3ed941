"""Rows of the untouched base: measured once, whoever asks at the same time, and whatever happened to the file."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from myosotis import workspace
from myosotis.evaluation import choose_runtime
from myosotis.ledger import Score
from myosotis.plugins import load_registry
from myosotis.workspace import Workspace
from tests.core.commands import resolved, run_at, toy

Measure = Callable[[], list[Score]]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that were measured, each time that takes a while."""
    measured: list[str] = []
    predict = workspace.predict

    def slow(task: Any, *arguments: Any) -> Any:
        measured.append(task.name)
        time.sleep(0.2)
        return predict(task, *arguments)

    monkeypatch.setattr(workspace, "predict", slow)
    return measured


@pytest.fixture
def base(tmp_path: Path) -> Measure:
    """A function that asks for the row of one task, as another process would: with nothing in memory."""
    [config] = resolved()
    task, identities = config.tasks["right"], config.identities
    model = config.model.load(config.objectives)
    runtime = choose_runtime("cpu", "32-true")

    def ask() -> list[Score]:
        fresh = Workspace(tmp_path, load_registry())
        return fresh.base_scores(
            task, identities[task.name], model, identities["model"], config.evaluation, runtime
        )

    return ask


def test_row_is_measured_once_by_all_who_ask_together(base: Measure, measured: list[str]) -> None:
    together = threading.Barrier(4)

    def ask(_: int) -> list[Score]:
        together.wait()
        return base()

    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(ask, range(4)))
    assert measured == ["right"]
    assert rows[0] == rows[1] == rows[2] == rows[3]
    assert {score.stage for score in rows[0]} == {0}
    assert base() == rows[0]
    assert measured == ["right"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-30],
        lambda text: "",
        lambda text: "[]",
        lambda text: '{"stage": 0}',
        lambda text: "[1]",
        lambda text: text.replace('"value"', '"worth"'),
        lambda text: json.dumps([{"stage": 0}]),
    ],
    ids=["half", "empty", "no score", "mapping", "number", "other key", "few keys"],
)
def test_damaged_row_is_measured_again(  # type: ignore[no-untyped-def]
    base: Measure, measured: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, damage
) -> None:
    row = base()
    [path] = (tmp_path / ".base").glob("*.json")
    whole = path.read_bytes()
    path.write_text(damage(path.read_text()))
    with caplog.at_level(logging.WARNING, "myosotis"):
        assert base() == row
    assert measured == ["right", "right"]
    assert caplog.messages == [f"{path} was damaged; the base's row is measured again"]
    assert path.read_bytes() == whole


def test_the_same_data_under_two_names_have_a_row_each(tmp_path: Path) -> None:
    again = ("+dataset@dataset.again=points", "dataset.again.angle=90", "method=[]", "curriculum=none")
    record = run_at(tmp_path, *toy(*again))
    base = record.scores[record.scores.stage == 0].set_index(["task", "metric"]).value
    assert {"right", "up", "again"} <= set(base.index.get_level_values("task"))
    for metric in base["up"].index:
        assert base["again", metric] == base["up", metric]
