"""Fifty trials in one process leave nothing behind: memory, descriptors, threads, hooks, handlers, seeds."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from myosotis.ledger import StudyRecord
from tests.core.commands import run_at, toy

WATCH = """
from pathlib import Path
from myosotis import hookimpl
from tests.core.test_leaks import look

MYOSOTIS_API = 1

@hookimpl
def myosotis_trial_finished(trial: str, folder: Path, status: str) -> None:
    look()
"""
SEEN: list[dict[str, int]] = []


def look() -> None:
    """Count what a trial may leave behind."""
    gc.collect()
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    process = psutil.Process()
    SEEN.append(
        {
            "memory": process.memory_info().rss,
            "descriptors": process.num_fds(),
            "threads": threading.active_count(),
            "handlers": sum(len(each.handlers) for each in loggers if isinstance(each, logging.Logger)),
            "tensors": sum(isinstance(each, torch.Tensor) for each in gc.get_objects()),
            "modules": sum(isinstance(each, torch.nn.Module) for each in gc.get_objects()),
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("cohort", [1, 5])
def test_fifty_trials_leave_nothing_behind(
    write_plugin: Callable[[str, str], Path], tmp_path: Path, cohort: int
) -> None:
    write_plugin("watching", WATCH)
    SEEN.clear()
    command = toy(
        "method=[side]",
        f"seed={','.join(map(str, range(50)))}",
        "trainer.max_steps=2",
        f"hydra.launcher.cohort={cohort}",
        "hydra.launcher.workers=1",
    )
    record = run_at(tmp_path, *command, modules="tests.toy,tests.core.hazards,watching")
    assert len(record.trials) == len(SEEN) == 50
    early, late = SEEN[9], SEEN[49]
    for what in ("descriptors", "threads", "handlers"):
        assert late[what] <= early[what], what
    for what in ("tensors", "modules"):  # a cohort's trials end one after another
        assert late[what] <= SEEN[9 - 9 % cohort + cohort - 1][what] + 5, what
    assert late["memory"] - early["memory"] < 20 * 2**20


def test_a_trial_does_not_depend_on_those_before_it(tmp_path: Path) -> None:
    def run(seeds: str, studies: str) -> StudyRecord:
        setting = toy("method=[plain]", f"seed={seeds}", f"studies={studies}", "hydra.launcher.workers=1")
        return run_at(tmp_path, *setting)

    many, one = run("0,1,2,3", "many"), run("3", "one")
    [trial] = one.trials.trial
    for name in ("metrics.jsonl", "scores.jsonl", "adapter/model.safetensors"):
        assert (many.folder / trial / name).read_bytes() == (one.folder / trial / name).read_bytes()
