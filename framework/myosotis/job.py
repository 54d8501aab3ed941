"""A trial to run, as it goes from process to process and from machine to machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from myosotis.errors import TrialError
from myosotis.ledger import status
from myosotis.pruning import Pruning
from myosotis.resolve import Resolver, TrialConfig


@dataclass(frozen=True)
class Job:
    """A trial to run, as plain values: it can go to another process, and be begun anew.

    Attributes:
        id: the trial's.
        name: what it is called in progress and logs.
        folder: its run folder.
        study: the study's name.
        config: the resolved configuration with the logger's node.
        pruning: by what a search may give it up; changes none of its numbers.
    """

    id: str
    name: str
    folder: Path
    study: str
    config: Mapping[str, Any]
    pruning: Pruning | None = None

    def resolve(self, resolver: Resolver) -> TrialConfig:
        """Make the trial's plugins anew.

        Raises:
            TrialError: it comes out as another trial than was planned.
        """
        config = resolver.resolve(OmegaConf.create(dict(self.config)))
        if config.id != self.id:
            raise TrialError(
                f"the trial must be {self.id}, as it was planned, but came out as {config.id}: a "
                "configuration file, data or a plugin changed while the study ran. Run the command again"
            )
        return config


def ending(job: Job) -> Literal["finished", "pruned"] | None:
    """Tell how a trial has ended, where it has: what a search gave up is open to a command that is none."""
    state = status(job.folder)
    if state == "finished":
        return "finished"
    return "pruned" if state == "pruned" and job.pruning is not None else None
