"""How a study stands while it runs: its trials' states, how far the running ones are, about how long it takes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from myosotis import slurm
from myosotis.ledger import Score, TrialEntry, read_entries, read_json, read_scores, status
from myosotis.slurm import Queued, SlurmError, Submitted
from myosotis.standing import Standing, standing


@dataclass(frozen=True)
class TrialStatus:
    """How far a trial is.

    Attributes:
        logged: the last entry of its training log; empty where there is none.
        scores: the headline metric's scores so far: of the base, and of the latest evaluation, by task.
        seconds: what a finished one took.
    """

    entry: TrialEntry
    standing: Standing
    logged: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    seconds: float = math.nan


@dataclass(frozen=True)
class StudyStatus:
    """How far a study is.

    Attributes:
        trials: in the study's order.
        queue: its jobs that wait or run in SLURM's queue.
        unseen: why the queue could not be asked for, where there may be jobs.
    """

    name: str
    folder: Path
    trials: Sequence[TrialStatus]
    queue: Sequence[tuple[Submitted, Queued]] = ()
    unseen: str = ""

    def counts(self) -> Counter[str]:
        """Count the trials of each state."""
        return Counter(each.standing.status for each in self.trials)

    def seconds_left(self) -> float:
        """Estimate the seconds until all have ended, by what finished ones took; NaN where none has or none runs.

        The running ones are taken to be half done, and as many as run now to run until the end.
        """
        counts = self.counts()
        took = [each.seconds for each in self.trials if each.standing.status == "finished"]
        running, waiting = counts["running"], counts["new"] + counts["unfinished"] + counts["queued"]
        if not running or not took:
            return math.nan
        return sum(took) / len(took) * (waiting + running / 2) / running


def study_status(folder: Path) -> StudyStatus:
    """Read how a study stands; changes nothing.

    Raises:
        StorageError: a file of it is damaged.
    """
    entries = read_entries(folder)
    unseen, queue = "", list[tuple[Submitted, Queued]]()
    try:
        queue = list(slurm.active(folder.resolve()).values())
    except SlurmError as error:
        unseen = str(error)
    if all(status(folder / each.folder) in {"finished", "pruned"} for each in entries):
        unseen = ""
    stand = {trial: (job, stands) for job, stands in queue for trial in job.trials}
    trials = [_in_queue(_trial(folder, entry), stand.get(entry.id)) for entry in entries]
    return StudyStatus(folder.resolve().name, folder, trials, queue, unseen)


def _in_queue(trial: TrialStatus, found: tuple[Submitted, Queued] | None) -> TrialStatus:
    """Take into account that a job of SLURM has a trial: one that runs on another machine leaves no trace here."""
    state = trial.standing.status
    if found is None or state in {"finished", "pruned", "running"}:
        return trial
    job, stands = found
    if stands.runs:
        # In a running job a trial fails while others go on.
        state = "failed" if state == "failed" else "running"
        where = f"SLURM job {job.id} on {stands.node}"
    else:
        state, where = "queued", f"SLURM job {job.id}, {stands}"
    detail = trial.standing.detail if state == "failed" else where
    return replace(trial, standing=replace(trial.standing, status=state, detail=detail))


def _trial(folder: Path, entry: TrialEntry) -> TrialStatus:
    run = folder / entry.folder
    found = standing(folder, run)
    if found.status == "finished":
        return TrialStatus(entry, found, seconds=float(read_json(run / "result.json")["seconds"]))
    return TrialStatus(entry, found, _last(run / "metrics.jsonl"), _scores(read_scores(run / "scores.jsonl")))


def _last(log: Path) -> Mapping[str, Any]:
    """Read the last whole entry of a training log that may be being written, or cut off."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    for line in reversed(lines):
        try:
            entry: Mapping[str, Any] = json.loads(line)
        except ValueError:
            continue
        if "loss" in entry:
            return entry
    return {}


def _scores(scores: Sequence[Score]) -> dict[str, tuple[float, float]]:
    """Give each task's first metric: of the base, and the latest."""
    found: dict[str, tuple[float, float]] = {}
    metrics: dict[str, str] = {}
    for each in scores:
        if metrics.setdefault(each.task, each.metric) == each.metric:
            found[each.task] = (found.get(each.task, (each.value, 0.0))[0], each.value)
    return found
