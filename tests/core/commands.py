"""The toy study's command, and ways to run the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import myosotis
from myosotis.config import composer
from myosotis.ledger import StudyRecord
from myosotis.plugins import load_registry
from myosotis.points import Point, expand
from myosotis.resolve import Resolver, TrialConfig

ROOT = Path(__file__).parents[2]

SETTING = (
    "model=toy",
    "dataset=[]",
    "+dataset@dataset.right=points",
    "+dataset@dataset.up=points",
    "dataset.up.angle=90",
    "probe=[]",
    "+probe@probe.side=points",
    "probe.side.angle=45",
    "method=[plain]",
    "optimizer.learning_rate=0.02",
    "trainer.max_steps=12",
    "evaluation.resamples=100",
    "logger=none",
)
"""Two tasks and a probe in the plane."""

COLUMNS = [
    "trial",
    "arm",
    "overrides",
    "seed",
    "order",
    "stage",
    "step",
    "task",
    "split",
    "metric",
    "value",
    "n",
    "low",
    "high",
    "settings",
]
"""The columns of a study's scores: one row a score."""


SLOW = """
import time

from myosotis import hookimpl
from myosotis.interfaces import Method

MYOSOTIS_API = 1


class Slow(Method):
    def after_step(self, module, context):
        time.sleep(0.05)

    def before_evaluation(self, task, context):
        time.sleep(0.1)


@hookimpl
def myosotis_methods():
    return {"slow": Slow}
"""
"""A plugin whose method takes 0.05 s a step and 0.1 s an evaluation."""


def toy(*overrides: str) -> list[str]:
    """Give the setting with further overrides; later ones stand for earlier ones of the same key."""
    keys = {override.split("=")[0] for override in overrides}
    return [each for each in SETTING if each.split("=")[0] not in keys] + list(overrides)


def points(*overrides: str) -> list[Point]:
    """Give the trials that a command means, before they are composed."""
    with composer() as compose:
        return expand(compose, "config", toy(*overrides), {}, {})


def resolved(*overrides: str) -> list[TrialConfig]:
    """Give the trials that a command means."""
    with composer() as compose:
        resolver = Resolver(load_registry())
        found = expand(compose, "config", toy(*overrides), {}, {})
        return [resolver.resolve(compose.compose("config", point.overrides)) for point in found]


def python(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, on the toy plugins."""
    variables = {**os.environ, "PYTHONPATH": search_path(), "MYOSOTIS_PLUGINS": "tests.toy"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**variables, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def search_path() -> str:
    """Give this checkout, then what `PYTHONPATH` holds already."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def run_at(folder: Path, *overrides: str, modules: str = "tests.toy", report: bool = False) -> StudyRecord:
    """Run a study in this process, in a folder of its own; its report takes longer than its trials."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYOSOTIS_PLUGINS", modules)
        patch.chdir(folder)
        if not report:
            patch.setattr("myosotis.report.write_report", lambda record: None)
        return myosotis.run(list(overrides))
