"""Processes that torchrun has started, as on several machines: the first runs the study, the others follow it."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from myosotis.cohort import Control, run_cohort
from myosotis.distributed import join
from myosotis.errors import TrialError, in_one_line
from myosotis.events import Event
from myosotis.job import Job
from myosotis.logs import trial_logs
from myosotis.plugins import load_registry
from myosotis.ranks import Ranks
from myosotis.resolve import Resolver
from myosotis.workspace import Workspace


@dataclass(frozen=True)
class Order:
    """What the first process tells the others to run with it."""

    job: Job
    studies: Path
    fingerprints: Mapping[str, str]


def are_there() -> bool:
    """Tell whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@functools.cache
def company() -> Ranks:
    """Join the others, once."""
    rank, count, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return join(rank, count, local, backend=None, meeting="env://")


@contextmanager
def following() -> Iterator[bool]:
    """Run what the first process says, where this is another one, and tell so; else let the others go at the end.

    Where the study ends by an error, this process does too, and whoever started all ends the others.
    """
    if not are_there():
        yield False
        return
    ranks = company()
    if not ranks.first:
        _follow(ranks)
        yield True
        return
    yield False
    ranks.agreed(None)


def _follow(ranks: Ranks) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # the first process says when to save and stop
        signal.signal(number, signal.SIG_IGN)
    nothing: Order | None = None
    while (order := ranks.agreed(nothing)) is not None:
        registry = load_registry()
        resolver = Resolver(registry, dict(order.fingerprints))
        failures = run_cohort([order.job], resolver, Workspace(order.studies, registry), Control(ranks=ranks))
        for failure in failures.values():
            raise failure


def lead(
    job: Job,
    resolver: Resolver,
    workspace: Workspace,
    tell: Callable[[Event], None],
    stopping: Callable[[], bool],
) -> None:
    """Run a trial together with the processes that follow.

    Raises:
        Interrupted: asked to stop; the trial is saved.
        TrialError: it failed: the others may be anywhere in it, so that all end.
    """
    ranks = company()
    ranks.agreed(Order(job, workspace.studies, dict(resolver._fingerprints)))
    with trial_logs({job.id: job.folder}):
        failures = run_cohort([job], resolver, workspace, Control(tell, stopping, ranks))
    for failure in failures.values():
        raise TrialError(
            f"{job.name}: {in_one_line(failure)}; the processes that were started with this one end with it"
        ) from failure
