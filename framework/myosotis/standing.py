"""How far a trial has come, from its run folder alone; takes no lock and writes nothing."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from myosotis.checkpoint import END, START, CheckpointFolder, Position
from myosotis.ledger import status
from myosotis.locks import Holder, TrialLock

Status = Literal["finished", "pruned", "running", "failed", "unfinished", "queued", "new"]


@dataclass(frozen=True)
class Standing:
    """How far a trial is.

    Attributes:
        detail: where a finished one is reused from, who runs it, why it failed, where it goes on.
        at: its last checkpoint.
    """

    status: Status
    detail: str = ""
    at: Position = START


def standing(study: Path, run: Path) -> Standing:
    """Tell how far a trial's run folder has come; takes no lock.

    Args:
        study: the study's folder.
        run: the trial's run folder, which may be another study's.
    """
    state = status(run)
    if state == "finished":
        elsewhere = run.parent != study.resolve()
        return Standing("finished", f"reused from study {run.parent.name}" if elsewhere else "")
    if not run.is_dir():
        return Standing("new")
    if state == "pruned":
        return Standing("pruned")
    at = max(CheckpointFolder(run / "checkpoints").positions(), default=START)
    if state == "failed":
        error = (run / "error.txt").read_text(encoding="utf-8").partition("\n")[0]
        return Standing("failed", error, at)
    holder = TrialLock(run.parent, run.name).holder()
    if holder is not None and _lives(holder):
        return Standing("running", str(holder), at)
    return Standing("unfinished", _place(at), at)


def _lives(holder: Holder) -> bool:
    """Tell whether who took a lock last is another process of this machine that still runs."""
    here = holder.host == socket.gethostname() and holder.pid != os.getpid()
    return here and psutil.pid_exists(holder.pid)


def _place(at: Position) -> str:
    if at == START:
        return "begins anew"
    where = "its end" if at.step == END else f"step {at.step}"
    return f"goes on from stage {at.stage}, {where}"
