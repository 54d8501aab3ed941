"""The process that workers come from is there before the trials are known, and only where it may be of use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from myosotis import ahead, launching
from myosotis.ahead import started_ahead
from myosotis.study import run
from myosotis.workers import ForkServer
from tests.core.commands import toy


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ForkServer]:
    """The servers that are started."""
    happened: list[ForkServer] = []
    start = ForkServer.__init__

    def noted(self: ForkServer, *arguments: object) -> None:
        start(self, ())
        happened.append(self)

    monkeypatch.setattr(ForkServer, "__init__", noted)
    return happened


@pytest.mark.parametrize(
    "overrides",
    [[], ["seed=0,1"], ["method.lora.rank=range(1,5)"], ["+experiments=quickstart"]],
)
def test_a_sweep_has_one_that_ends_with_it(
    overrides: list[str], started: list[ForkServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "available_cores", lambda: 2)
    with started_ahead(overrides) as server:
        assert started == [server]
        assert server is not None
        assert server._process.poll() is None
    assert server._process.poll() is not None


@pytest.mark.parametrize(
    ("logger", "first"), [("logger=wandb", "wandb.sdk.launch"), ("logger=none", "lightning.pytorch")]
)
def test_wandb_is_imported_before_all_else_or_not_at_all(
    logger: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def noted(self: ForkServer, modules: Sequence[str]) -> None:
        asked.extend(modules)
        start(self, ())

    start = ForkServer.__init__
    monkeypatch.setattr(ForkServer, "__init__", noted)
    monkeypatch.setattr(ahead, "available_cores", lambda: 2)
    with started_ahead(["seed=0,1", logger]):
        assert asked[0] == first
        assert any("wandb" in each for each in asked) == (logger == "logger=wandb")


@pytest.mark.parametrize(("cores", "overrides"), [(2, ["seed=3", "method=[lora]"]), (1, ["seed=0,1"])])
def test_one_trial_or_one_core_has_none(
    cores: int, overrides: list[str], started: list[ForkServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "available_cores", lambda: cores)
    with started_ahead(overrides) as server:
        assert server is None
    assert started == []


@pytest.mark.slow
def test_a_study_takes_the_one_that_is_there(
    started: list[ForkServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYOSOTIS_PLUGINS", "tests.toy")
    command = toy("seed=0,1", "trainer.max_steps=2", "hydra.launcher.workers=2")
    with ForkServer() as server:
        record = run(command, server=server)
    assert started == [server]
    assert set(record.trials.status) == {"finished"}


def test_one_that_nothing_comes_from_ends_before_the_trials(
    started: list[ForkServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYOSOTIS_PLUGINS", "tests.toy")
    seen = []
    run_here = launching.run_here

    def noted(*arguments: Any) -> None:
        seen.append(started[0]._process.poll())
        run_here(*arguments)

    monkeypatch.setattr(launching, "run_here", noted)
    with ForkServer() as server:
        record = run(toy("seed=0,1", "trainer.max_steps=2", "hydra.launcher.workers=1"), server=server)
    assert len(seen) == 1
    assert seen[0] is not None
    assert set(record.trials.status) == {"finished"}
