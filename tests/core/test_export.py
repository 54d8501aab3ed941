"""Exporting, comparing and looking at data where plugins have no way to: each says so, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.commands import run_at, toy

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


def test_an_objective_without_answers_is_refused(trial: str, call: Call) -> None:
    code, _, error = call("compare", trial, "--prompt", "hello")
    assert code == 2
    assert f"trial {trial}: the objective PointObjective gives no answers to prompts" in error


def test_rows_that_are_no_text_are_refused(trial: str, call: Call) -> None:
    code, _, error = call("data", "show", *toy("method=[plain]"))
    assert code == 2
    assert "the objective PointObjective has no rows of text that could be shown" in error
