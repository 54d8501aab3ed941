"""A study on a Ray cluster of two nodes: the numbers of this machine, whatever befalls workers, nodes, commands."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from myosotis.errors import ConfigurationError
from myosotis.ledger import StudyRecord, read_entries, read_json, status
from tests.core.commands import SLOW, run_at, search_path, toy
from tests.core.test_cohort import MODULES, SWEEP, tables

WAIT_SECONDS = 90.0
Cluster = Any


@pytest.fixture(scope="module")
def variables() -> Iterator[None]:
    """Keep Ray's files in a short folder of their own, and no token in the home folder."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture(scope="module")
def cluster(variables: None) -> Iterator[Cluster]:
    """Start two nodes with a core each."""
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 1, "object_store_memory": 80 << 20}
    started = Cluster(initialize_head=True, head_node_args={**arguments, "include_dashboard": False})
    started.add_node(**arguments)
    yield started
    started.shutdown()


def command(cluster: Cluster, *overrides: str, cohort: int | str = 1) -> list[str]:
    keys = {override.split("=")[0] for override in overrides}
    kept = [each for each in toy(*SWEEP) if each.split("=")[0] not in keys]
    where = (
        "hydra.launcher.backend=ray",
        f"hydra.launcher.ray.address={cluster.address}",
        f"hydra.launcher.cohort={cohort}",
    )
    return [*kept, *overrides, *where]


def run(
    cluster: Cluster, folder: Path, *overrides: str, cohort: int | str = 1, modules: str = MODULES
) -> StudyRecord:
    return run_at(folder, *command(cluster, *overrides, cohort=cohort), modules=modules)


def run_locally(folder: Path, *overrides: str, cohort: int = 1, modules: str = MODULES) -> StudyRecord:
    keys = {override.split("=")[0] for override in overrides}
    kept = [each for each in toy(*SWEEP) if each.split("=")[0] not in keys]
    here = (f"hydra.launcher.cohort={cohort}", "hydra.launcher.workers=1")
    return run_at(folder, *kept, *overrides, *here, modules=modules)


@pytest.mark.parametrize("cohort", [1, 4])
def test_the_numbers_are_those_of_this_machine_to_the_bit(
    cluster: Cluster, tmp_path: Path, cohort: int
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here = tables(run_locally(tmp_path / "here", cohort=cohort))
    assert tables(run(cluster, tmp_path / "there", cohort=cohort)) == here
    assert len(here) > 4
