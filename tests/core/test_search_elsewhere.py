"""A search in workers and on Ray: the suggestions, the numbers and the pruned of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from myosotis.errors import ConfigurationError
from myosotis.ledger import read_search
from tests.core.commands import run_at, search_path, toy

MODULES = "tests.toy,tests.core.hazards"
SEARCH = (
    "hydra/sweeper=search",
    "optimizer.learning_rate=tag(log,interval(1e-5,1e-1))",
    "method=[side]",
    "method.side.width=2",
    "seed=0,1",
    "study=found",
    "trainer.max_steps=12",
    "hydra.sweeper.n_trials=4",
    "hydra.sweeper.n_jobs=2",
    "hydra.launcher.cohort=2",
)


def command(*overrides: str) -> list[str]:
    return toy(*SEARCH, *overrides)


def found(folder: Path) -> list[dict[str, Any]]:
    return list(read_search(folder / "studies" / "found")["suggestions"])


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The search in one process."""
    folder = tmp_path_factory.mktemp("here")
    run_at(folder, *command("hydra.launcher.workers=1"), modules=MODULES)
    return found(folder)


def assert_same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    for each, twin in zip(one, other, strict=True):
        assert each["params"] == twin["params"]
        assert each["trials"] == twin["trials"]
        assert each["values"] == pytest.approx(twin["values"], abs=1e-6)


@pytest.mark.slow
def test_workers_run_round_after_round(tmp_path: Path, here: list[dict[str, Any]]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "myosotis", "run", *command("hydra.launcher.workers=2")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": search_path(), "MYOSOTIS_PLUGINS": MODULES, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(": begins") == 8
    assert_same(found(tmp_path), here)


@pytest.fixture
def ray_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Say that trials run on a Ray that the command starts."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", search_path())
    return ("hydra.launcher.backend=ray",)


@pytest.mark.slow
def test_ray_runs_a_search_and_prunes_there(
    tmp_path: Path, here: list[dict[str, Any]], ray_at: tuple[str, ...]
) -> None:
    run_at(tmp_path, *command(*ray_at), modules=MODULES)
    assert_same(found(tmp_path), here)
    pruned = tmp_path / "pruned"
    pruned.mkdir()
    asha = (
        "evaluation.every=2",
        "hydra.sweeper.pruner=asha",
        "hydra.sweeper.pruner_options={reduction_factor: 2}",
    )
    record = run_at(pruned, *command(*ray_at, *asha, "hydra.sweeper.n_trials=6"), modules=MODULES)
    assert {each["state"] for each in found(pruned)} == {"complete", "pruned"}
    assert set(record.trials.status) == {"finished", "pruned"}


def test_a_backend_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    away = ("hydra.launcher.backend=ray", "hydra.launcher.ray.address=127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="does not answer"):
        run_at(tmp_path, *command(*away), modules=MODULES)
    assert not list(tmp_path.rglob("*"))
