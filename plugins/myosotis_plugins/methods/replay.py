"""Replay: rows of earlier tasks, or of a named dataset, among the new ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, unknown_name
from myosotis.interfaces import Component, Context, Method, Mixture, Model, Rows, Share, Stage

MYOSOTIS_API = 1


class Replay(Method):
    """Give a share of every batch's rows to earlier tasks, each the same; the first stage has none.

    Args:
        share: the share of the training rows that is replayed, from 0 to less than 1.
        buffer: how many rows of each source are kept, drawn at random; all where not given.
        dataset: a task or probe of the study whose training rows are replayed instead, in every stage.
    """

    paper = (
        "Robins 1995, Catastrophic Forgetting, Rehearsal and Pseudorehearsal, doi:10.1080/09540099550039318"
    )
    stores = "rows of earlier tasks, by reference to their datasets"
    cohort_fields = frozenset({"share", "buffer", "dataset"})

    def __init__(self, share: float = 0.2, buffer: int | None = None, dataset: str | None = None) -> None:
        if not 0 <= share < 1:
            raise ConfigurationError(f"share must be at least 0 and less than 1, but got {share}")
        if buffer is not None and buffer < 1:
            raise ConfigurationError(f"buffer must be at least 1 row, but got {buffer}")
        self.share = share
        self.buffer = buffer
        self.dataset = dataset

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Change nothing, but see that the named dataset is there before anything trains."""
        if self.dataset is not None and self.dataset not in context.tasks:
            raise ConfigurationError("dataset: " + unknown_name("task or probe", self.dataset, context.tasks))
        return model.module

    def training_data(
        self, stage: Stage, data: Mixture, seen: Mapping[str, Rows], context: Context
    ) -> Mixture:
        """Take the share from the stage's own rows and give it to the replayed ones."""
        sources = self._sources(seen, context)
        if not sources or self.share == 0:
            return data
        own = tuple(Component(each.task, each.rows, _scaled(each.share, 1 - self.share)) for each in data)
        share = Share(self.share / len(sources), self.share / len(sources))
        kept = (Component(task, self._kept(rows, context.generator), share) for task, rows in sources.items())
        return (*own, *kept)

    def _sources(self, seen: Mapping[str, Rows], context: Context) -> Mapping[str, Rows]:
        if self.dataset is None:
            return seen
        rows = context.tasks[self.dataset].dataset.split("train")
        if rows is None:
            raise ConfigurationError(f"dataset: {self.dataset} has no train split to replay")
        return {self.dataset: rows}

    def _kept(self, rows: Rows, generator: torch.Generator) -> Rows:
        if self.buffer is None or self.buffer >= len(rows):
            return rows
        chosen = torch.randperm(len(rows), generator=generator)[: self.buffer].sort().values
        return [rows[index] for index in chosen.tolist()]


def _scaled(share: Share, factor: float) -> Share:
    return Share(share.start * factor, share.end * factor)


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"replay": Replay}
