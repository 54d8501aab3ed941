"""Exporting, comparing and looking at data where plugins have no way to: each says so, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from myosotis.interfaces import Exported
from tests.core.commands import run_at, toy
from tests.toy import ToyModel

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    [found] = run_at(tmp_path, *toy("method=[plain]", "trainer.max_steps=2", "study=one")).trials.trial
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYOSOTIS_PLUGINS", "tests.toy")
    return str(found)


def test_a_model_without_a_way_out_is_refused(trial: str, call: Call) -> None:
    before = sorted(Path().iterdir())
    code, _, error = call("export", trial, "--to", "out")
    assert (code, error.strip()) == (2, "error: ToyModel cannot be exported, for it has no export")
    assert sorted(Path().iterdir()) == before


def test_a_model_is_written_on_the_weights_that_a_method_put_in_the_bases_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    given: list[object] = []

    def export(self: ToyModel, *arguments: object) -> Exported:
        given.extend(arguments)
        return Exported("toy", "points", None, "model = 3")

    command = toy("method=[plain,diary],[plain]", "trainer.max_steps=2", "study=one")
    trials = run_at(tmp_path, *command, modules="tests.toy,tests.core.extras").trials
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYOSOTIS_PLUGINS", "tests.toy,tests.core.extras")
    monkeypatch.setattr(ToyModel, "export", export)
    for arm, weights in {"plain + diary": Path("tuned"), "plain": None}.items():
        [trial] = trials[trials.arm == arm].trial
        assert call("export", trial, "--to", arm)[0] == 0
        assert given.pop() == weights


def test_an_objective_without_answers_is_refused(trial: str, call: Call) -> None:
    code, _, error = call("compare", trial, "--prompt", "hello")
    assert code == 2
    assert f"trial {trial}: the objective PointObjective gives no answers to prompts" in error


def test_rows_that_are_no_text_are_refused(trial: str, call: Call) -> None:
    code, _, error = call("data", "show", *toy("method=[plain]"))
    assert code == 2
    assert "the objective PointObjective has no rows of text that could be shown" in error
