"""Printing how a study stands."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from myosotis.progress import duration
from myosotis.slurm import Queued, Submitted
from myosotis.status import StudyStatus, TrialStatus

STATES = {
    "finished": "finished",
    "pruned": "pruned",
    "running": "running",
    "failed": "failed",
    "unfinished": "stopped",
    "queued": "in the queue",
    "new": "waiting",
}
"""What each state is called here: one that is unfinished and that nobody runs has stopped."""


def show_status(study: StudyStatus, console: Console | None = None) -> None:
    """Print a line of counts, a table of the trials that run or have stopped, and what failed and why."""
    console = console or Console()
    console.print(Text(_summary(study)), soft_wrap=True)
    shown = [each for each in study.trials if each.standing.status in {"running", "unfinished"}]
    if shown:
        table = Table(
            "trial", "seed", "state", "stage", "step", "loss", "scores, base → now", box=box.SIMPLE_HEAD
        )
        for each in shown:
            table.add_row(*map(Text, _cells(each)))
        console.print(table)
    _show_queue(study, console)
    for each in study.trials:
        if each.standing.status == "failed":
            error = os.path.relpath(study.folder / each.entry.folder / "error.txt")
            console.print(Text(f"failed: {_name(each)}: {each.standing.detail}\n    {error}"), soft_wrap=True)


def _show_queue(study: StudyStatus, console: Console) -> None:
    """Print the jobs that run, a line each, and how many wait, and why."""
    if study.unseen:
        console.print(Text(f"SLURM's queue is not known here: {study.unseen}"), soft_wrap=True)
    names = {each.entry.id: _name(each) for each in study.trials}
    running = [each for each in study.queue if each[1].runs]
    if running:
        table = Table("job", "state", "node", "for", "trials", box=box.SIMPLE_HEAD)
        for job, stands in running:
            table.add_row(*map(Text, _job_cells(job, stands, names)))
        console.print(table)
    waiting = Counter(str(stands) for _, stands in study.queue if not stands.runs)
    for how, count in waiting.items():
        console.print(
            Text(f"{count} {'job' if count == 1 else 'jobs'} in SLURM's queue: {how}"), soft_wrap=True
        )


def _job_cells(job: Submitted, stands: Queued, names: Mapping[str, str]) -> list[str]:
    first, *more = [names.get(trial, trial) for trial in job.trials]
    trials = f"{first} and {len(more)} more" if more else first
    return [job.id, str(stands), stands.node, stands.elapsed, trials]


def _summary(study: StudyStatus) -> str:
    counts = study.counts()
    told = [f"{counts[state]} {name}" for state, name in STATES.items() if counts[state]]
    left = study.seconds_left()
    time = "" if math.isnan(left) else f"; about {duration(left)} left"
    return f"study {study.name}: {len(study.trials)} trials, {', '.join(told)}{time}"


def _name(each: TrialStatus) -> str:
    return f"{each.entry.configuration} seed={each.entry.seed}"


def _cells(each: TrialStatus) -> list[str]:
    scores = ", ".join(f"{task} {base:.4g} → {now:.4g}" for task, (base, now) in each.scores.items())
    logged = each.logged
    return [
        each.entry.configuration,
        str(each.entry.seed),
        STATES[each.standing.status],
        *(str(logged.get(key, "–")) for key in ("stage", "step")),
        f"{logged['loss']:.4g}" if logged else "–",
        scores or "–",
    ]
