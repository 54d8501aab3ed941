"""A study on a Ray cluster of two nodes: the numbers of this machine, whatever befalls workers, nodes, commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from myosotis import load_study
from myosotis.backend import Surroundings
from myosotis.errors import ConfigurationError
from myosotis.job import Job
from myosotis.ledger import StudyRecord, read_json
from myosotis.measure import Cost
from tests.core.commands import SLOW, python, run_at, search_path, toy
from tests.core.test_cohort import MODULES, SWEEP, tables
from tests.ray_cluster import NODE, on_ray, ray_cluster, ray_variables

WAIT_SECONDS = 120.0
Cluster = Any


@pytest.fixture(scope="module")
def variables() -> Iterator[None]:
    with ray_variables():
        yield


@pytest.fixture(scope="module")
def cluster(variables: None) -> Iterator[Cluster]:
    """Start Ray once for all that need it."""
    with ray_cluster() as started:
        yield started


def command(*overrides: str) -> list[str]:
    keys = {override.split("=")[0] for override in overrides}
    return [*(each for each in toy(*SWEEP) if each.split("=")[0] not in keys), *overrides]


def there(cluster: Cluster, cohort: int | str = 1) -> tuple[str, ...]:
    """Say that trials run on the cluster."""
    return (*on_ray(cluster), f"hydra.launcher.cohort={cohort}")


def here(cohort: int = 1) -> tuple[str, ...]:
    """Say that trials run in this process."""
    return (f"hydra.launcher.cohort={cohort}", "hydra.launcher.workers=1")


def run(folder: Path, *overrides: str, modules: str = MODULES) -> StudyRecord:
    folder.mkdir(exist_ok=True)
    return run_at(folder, *command(*overrides), modules=modules)


@pytest.fixture
def slow(tmp_path: Path) -> tuple[str, ...]:
    """Give a study whose trials take 0.05 s a step."""
    (tmp_path / "slow.py").write_text(SLOW)
    return ("method=[side,slow]", "trainer.max_steps=60", "trainer.log_every_n_steps=5")


def started(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    """Start a command of slow trials in a process of its own."""
    path = os.pathsep.join([str(folder), search_path()])
    return subprocess.Popen(
        [sys.executable, "-m", "myosotis", "run", *command(*overrides)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "MYOSOTIS_PLUGINS": f"{MODULES},slow"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def whole(folder: Path, slow: Sequence[str]) -> dict[str, Any]:
    """Give the numbers of the slow trials on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return tables(run(folder / "here", *slow, *here(), modules=f"{MODULES},slow"))


def wait_for(process: subprocess.Popen[str], folder: Path, trials: int) -> None:
    """Wait until so many trials have saved in the middle of a stage."""
    end = time.monotonic() + WAIT_SECONDS
    while len({path.parent for path in folder.glob("studies/cohort/*/checkpoints/*.pt")}) < trials:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("cohort", [1, 4])
def test_numbers_are_those_of_this_machine_to_the_bit(cluster: Cluster, tmp_path: Path, cohort: int) -> None:
    alone = tables(run(tmp_path / "here", *here(cohort)))
    assert tables(run(tmp_path / "there", *there(cluster, cohort))) == alone
    assert len(alone) > 4


def test_how_many_train_together_is_measured_there(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from myosotis.ray_backend import RayBackend

    paces: dict[int, float] = {}
    time_there = RayBackend.time

    def time(self: RayBackend, surroundings: Surroundings, jobs: Sequence[Job]) -> Cost | None:
        cost = time_there(self, surroundings, jobs)
        assert cost is not None
        paces[len(jobs)] = cost.step_seconds / len(jobs)
        return cost

    monkeypatch.setattr(RayBackend, "time", time)
    record = run(tmp_path, *there(cluster, "auto"), "seed=0,1")
    assert set(record.trials.status) == {"finished"}
    assert len(paces) > 1
    assert min(paces.values()) > 0
    best = min(paces, key=lambda size: (paces[size], size))
    [formed] = read_json(record.folder / "cohorts.json")
    cohorts = [each["trials"] for each in formed["cohorts"]]
    assert max(len(trials) for trials in cohorts) <= best
    assert sum(len(trials) for trials in cohorts) == 8


def test_a_worker_that_is_killed_is_begun_again(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm = ("method.hazard.harm=kill", f"method.hazard.once={tmp_path / 'once'}", "method.hazard.step=8")
    (tmp_path / "once").touch()
    alone = tables(run(tmp_path / "here", *harm, *here()))
    (tmp_path / "once").unlink()
    assert tables(run(tmp_path / "there", *harm, *there(cluster))) == alone
    assert "1 trial is begun again from the last checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_a_node_that_is_lost_loses_nothing(cluster: Cluster, tmp_path: Path, slow: tuple[str, ...]) -> None:
    node = cluster.add_node(**NODE)
    process = started(tmp_path, *slow, *there(cluster))
    wait_for(process, tmp_path, trials=3)  # as many as there are cores: one of them runs on that node
    cluster.remove_node(node, allow_graceful=False)
    _, printed = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, printed
    assert "begun again from the last checkpoint" in printed
    assert tables(load_study(tmp_path / "studies/cohort")) == whole(tmp_path, slow)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_ends_goes_on_there_and_here(
    cluster: Cluster, tmp_path: Path, slow: tuple[str, ...], number: signal.Signals
) -> None:
    process = started(tmp_path, *slow, *there(cluster))
    wait_for(process, tmp_path, trials=2)
    process.send_signal(number)
    _, printed = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), printed
    assert not any((tmp_path / "studies/cohort").glob("*/result.json"))
    assert any((tmp_path / "studies/cohort").glob("*/checkpoints/*.pt"))
    last = there(cluster) if number == signal.SIGKILL else here()
    process = started(tmp_path, *slow, *last)
    _, printed = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, printed
    assert tables(load_study(tmp_path / "studies/cohort")) == whole(tmp_path, slow)


# Mistakes


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("hydra.launcher.gpus=1", "hydra.launcher.gpus=1, but the nodes have 1 cores, 0 GPUs"),
        ("hydra.launcher.cpus=2", "hydra.launcher.cpus=2"),
        ("hydra.launcher.memory_gigabytes=5000", "hydra.launcher.memory_gigabytes=5000"),
    ],
)
def test_more_than_any_node_has_is_refused(cluster: Cluster, tmp_path: Path, asked: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        run(tmp_path, *there(cluster), asked)
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [("127.0.0.1:1", "it does not answer"), ("nowhere", "not HOST:PORT"), ("7", "must be text")],
)
def test_an_address_without_a_cluster_is_refused(
    variables: None, tmp_path: Path, address: str, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        run(tmp_path, "hydra.launcher.backend=ray", f"hydra.launcher.ray.address={address}")
    assert not (tmp_path / "studies").exists()


def test_without_ray_it_says_what_to_install(tmp_path: Path) -> None:
    script = "import sys; sys.modules['ray'] = None; from myosotis.cli import main; main()"
    done = python(["-c", script, "run", *toy("hydra.launcher.backend=ray")], tmp_path)
    assert done.returncode == 2
    assert "pip install 'myosotis[ray]'" in done.stderr
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize("asked", ["cpus=2", "gpus=1", "memory_gigabytes=2"])
def test_this_machine_is_asked_for_no_resources(tmp_path: Path, asked: str) -> None:
    with pytest.raises(ConfigurationError, match="is for clusters"):
        run(tmp_path, f"hydra.launcher.{asked}")
