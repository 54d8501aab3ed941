"""The process that workers come from, started before it is known what there is to run; imports no torch itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from myosotis.workers import ForkServer, available_cores

PRELOADED = ("lightning.pytorch", "transformers", "myosotis.cohort", "myosotis.training")
"""What that process imports."""
WANDB_PRELOADED = ("wandb.sdk.launch",)
"""What a W&B run imports as it begins: before the rest, for its data models look through all loaded modules."""


@contextmanager
def started_ahead(overrides: Sequence[str]) -> Iterator[ForkServer | None]:
    """Let it import on another core while this process finds the trials, where those may be several.

    It ends with the context, used or not.
    """
    if available_cores() == 1 or not _may_be_several(overrides):
        yield None
        return
    logger = () if "logger=none" in overrides else WANDB_PRELOADED
    with ForkServer((*logger, *PRELOADED)) as server:
        yield server


def _may_be_several(overrides: Sequence[str]) -> bool:
    """Tell whether overrides may mean several trials: a list, a sweep, a written study, or the quickstart."""
    return not overrides or any(mark in each for each in overrides for mark in (",", "(", "experiments"))
