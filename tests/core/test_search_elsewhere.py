"""A search in workers, on Ray and on SLURM: the suggestions, the numbers and the pruned of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from myosotis import load_study, slurm
from myosotis.errors import ConfigurationError
from myosotis.events import Event
from myosotis.journal import open_journal
from myosotis.ledger import read_search
from myosotis.told import Listener
from tests.core.commands import run_at, search_path, toy
from tests.core.slurm_commands import PACED, SLURM, Command, asked, cluster_for_commands, until
from tests.ray_cluster import ray_variables
from tests.slurm_cluster import Cluster

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


# On SLURM

ONE_BY_ONE = (*SEARCH[:2], "study=found", "trainer.max_steps=12", "hydra.sweeper.n_jobs=1")
"""One trial at a time: what is suggested and pruned does not depend on where it runs."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """Start SLURM once for all that need it."""
    with cluster_for_commands() as started:
        yield started


@pytest.fixture
def paced(write_plugin: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the plugin of paced steps, for this process and all that are started."""
    folder = write_plugin("paced", PACED).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([search_path(), str(folder)]))
    monkeypatch.setenv("MYOSOTIS_PLUGINS", f"{MODULES},paced")


def trained(study: Path) -> Counter[str]:
    """Count how often each trial of a search has begun in SLURM's jobs."""
    jobs = slurm.submitted(study)
    told = [each for job in jobs for each in Listener(job.told).heard() if isinstance(each, Event)]
    return Counter(each.trial for each in told if each.kind == "begins")


@pytest.mark.slow
def test_slurm_runs_a_search_that_goes_on_when_its_command_is_killed_and_prunes_there(
    nodes: Cluster, paced: None, tmp_path: Path
) -> None:
    asha = (
        *ONE_BY_ONE,
        "evaluation.every=2",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.pruner=asha",
        "hydra.sweeper.pruner_options={reduction_factor: 2}",
    )
    killed = Command(tmp_path / "there", *SLURM, *asha, pace="0.5")
    study = tmp_path / "there" / "studies" / "found"
    until(lambda: trained(study), killed)
    killed.process.kill()
    killed.process.wait()
    printed = Command(tmp_path / "there", *SLURM, *asha, pace="0").ends()
    assert "1 job of an earlier command in SLURM's queue: not submitted again" in printed
    here = tmp_path / "here"
    here.mkdir()
    run_at(here, *asked(*asha, "hydra.launcher.workers=1"), modules=os.environ["MYOSOTIS_PLUGINS"])
    assert_same(found(tmp_path / "there"), found(here))
    states = [each["state"] for each in found(tmp_path / "there")]
    assert states == [each["state"] for each in found(here)]
    assert set(states) == {"complete", "pruned"}
    assert trained(study) == {each["trials"][0]: 1 for each in found(here)}


@pytest.mark.slow
def test_commands_here_on_ray_and_on_slurm_share_a_search(
    nodes: Cluster, paced: None, tmp_path: Path
) -> None:
    shared = (*ONE_BY_ONE, "hydra.sweeper.n_trials=6")
    folder = tmp_path / "all"
    study = folder / "studies" / "found"
    with ray_variables():
        slurm_ = Command(folder, *SLURM, *shared, pace="0.3", printed="slurm.txt")
        until(lambda: slurm.submitted(study), slurm_)
        ray = Command(folder, *shared, "hydra.launcher.backend=ray", pace="0.3", printed="ray.txt")
        until(lambda: ": begins" in ray.printed.read_text(), ray)
        here = Command(folder, *shared, "hydra.launcher.workers=1", pace="0", printed="here.txt")
        printed = [each.ends() for each in (here, ray, slurm_)]
    alone = tmp_path / "alone"
    alone.mkdir()
    run_at(alone, *asked(*shared, "hydra.launcher.workers=1"), modules=os.environ["MYOSOTIS_PLUGINS"])
    assert [each["state"] for each in found(folder)] == ["complete"] * 6
    assert_same(found(folder), found(alone))
    assert list(load_study(study).trials.status) == ["finished"] * 6
    begun = [each.count(": begins") for each in printed]
    assert all(begun)
    assert sum(begun) == 6, "none is trained twice"
    assert trained(study).total() == begun[2]
    journal = optuna.load_study(study_name="found", storage=open_journal(study))
    assert [(each.number, each.values) for each in journal.trials] == [
        (each["number"], each["values"]) for each in found(folder)
    ]


def test_a_backend_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    away = ("hydra.launcher.backend=ray", "hydra.launcher.ray.address=127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="does not answer"):
        run_at(tmp_path, *command(*away), modules=MODULES)
    assert not list(tmp_path.rglob("*"))
