"""Commands that run a study on the SLURM of a test, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from tests.core.commands import toy
from tests.slurm_cluster import Cluster, require, slurm_cluster

WAIT_SECONDS = 150.0
PACED = """
import os
import time

from myosotis import hookimpl
from myosotis.interfaces import Method

MYOSOTIS_API = 1


class Paced(Method):
    def after_step(self, module, context):
        while os.path.exists(os.environ.get("HOLD", "")):
            time.sleep(0.1)
        if "SLURM_RESTART_COUNT" not in os.environ:
            time.sleep(float(os.environ.get("PACE", "0")))


@hookimpl
def myosotis_methods():
    return {"paced": Paced}
"""
"""A plugin with the same numbers, whose steps take as long as the environment says.

Those of a job's next turn do not, and none ends as long as there is the file that `HOLD` names.
"""
PACE = "0.05"
STUDY = (
    "method=[side,paced]",
    "study=cluster",
    "trainer.max_steps=80",
    "trainer.log_every_n_steps=1",
    "trainer.checkpoint_every_n_steps=20",
    "hydra.launcher.cohort=1",
    "hydra.launcher.workers=2",
)
SLURM = ("hydra.launcher.backend=slurm", "hydra.launcher.slurm.partition=debug")


def asked(*overrides: str) -> list[str]:
    """Give the study with further overrides; later ones stand for earlier ones of the same key."""
    keys = {each.partition("=")[0] for each in overrides}
    return toy(*(each for each in STUDY if each.partition("=")[0] not in keys), *overrides)


class Command:
    """A command in a process of its own, which can be looked at while it runs."""

    started: ClassVar[list[Command]] = []

    def __init__(self, folder: Path, *overrides: str, pace: str = PACE, printed: str = "printed.txt") -> None:
        self.started.append(self)
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.printed = folder / printed
        with self.printed.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "myosotis", "run", *asked(*overrides)],
                cwd=folder,
                env={**os.environ, "PACE": pace},
                stdout=file,
                stderr=file,
            )

    def ends(self, code: int = 0) -> str:
        """Wait for its end."""
        until(lambda: self.process.poll() is not None, self)
        printed = self.printed.read_text()
        assert self.process.returncode == code, printed
        return printed


def until(what: Callable[[], object], command: Command | None = None) -> None:
    """Wait until something is so."""
    end = time.monotonic() + WAIT_SECONDS
    while not what():
        if time.monotonic() > end or (command is not None and command.process.poll() is not None):
            printed = ""
            if command is not None:
                command.process.kill()
                logs = command.folder.glob("studies/*/slurm/*/*.out")
                printed = "\n".join(path.read_text() for path in (command.printed, *logs))
            pytest.fail(f"it did not come to be so\n{printed}")
        time.sleep(0.2)


@contextmanager
def cluster_for_commands() -> Iterator[Cluster]:
    """Start SLURM, for this process and all that are started; end the commands with it."""
    require()
    with slurm_cluster() as started, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", started.environment["SLURM_CONF"])
        yield started
        for command in Command.started:
            command.process.kill()
