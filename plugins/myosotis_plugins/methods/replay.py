"""Replay: rows of earlier tasks, or of a named dataset, among the new ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, unknown_name
from myosotis.interfaces import Component, Context, Method, Mixture, Model, Rows, Share, Stage
from myosotis_plugins.methods.row_buffer import Place, RowBuffer, label_of

MYOSOTIS_API = 1


class Replay(Method):
    """Give a share of every batch's rows to rows of earlier tasks; the first stage has none.

    With a `buffer`, a row that is given up does not come back: those that are kept at a stage are of those
    that were kept at the one before it and of the tasks that came since.

    Cost: no further pass; a stage takes as many steps of as many rows as without.

    Args:
        share: the share of the training rows that is replayed, from 0 to less than 1.
        buffer: how many rows of all earlier tasks together are kept, drawn at random; all where not given.
        balance: what has equal parts in the buffer, and in the rows that are replayed: `task`; `class`, a
            label of one task; `none`: every row of earlier tasks is as likely as every other (a reservoir).
        dataset: a task or probe of the study whose training rows are replayed instead, in every stage.
    """

    version = 3
    paper = (
        "Robins 1995, Catastrophic Forgetting, Rehearsal and Pseudorehearsal, doi:10.1080/09540099550039318; "
        "Vitter 1985, Random Sampling with a Reservoir, doi:10.1145/3147.3165"
    )
    stores = "which rows of earlier tasks are kept; the rows by reference to their datasets"
    cohort_fields = frozenset({"share", "buffer", "balance", "dataset"})

    def __init__(
        self,
        share: float = 0.2,
        buffer: int | None = None,
        balance: Literal["none", "task", "class"] = "task",
        dataset: str | None = None,
    ) -> None:
        if not 0 <= share < 1:
            raise ConfigurationError(f"share must be at least 0 and less than 1, but got {share}")
        if buffer is not None and buffer < 1:
            raise ConfigurationError(f"buffer must be at least 1 row, but got {buffer}")
        if balance not in ("none", "task", "class"):
            raise ConfigurationError(f"balance must be none, task or class, but got {balance!r}")
        self.share = share
        self.dataset = dataset
        self.buffer = RowBuffer(buffer, balance)

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Change nothing, but see that the named dataset is there before anything trains."""
        if self.dataset is not None and self.dataset not in context.tasks:
            raise ConfigurationError("dataset: " + unknown_name("task or probe", self.dataset, context.tasks))
        return model.module

    def training_data(
        self, stage: Stage, data: Mixture, seen: Mapping[str, Rows], context: Context
    ) -> Mixture:
        """Take the share from the stage's own rows and give it to the replayed ones.

        Raises:
            ConfigurationError: labels are to be balanced, and rows to be replayed now or later have none.
        """
        if self.share == 0:
            return data
        if self.buffer.balance == "class" and self.dataset is None and stage.index < len(context.stages):
            for each in data:  # before the time to replay them has come, and that to train is spent
                label_of(each.task, each.rows[0])
        sources = self._sources(seen, context)
        kept = self.buffer.kept(sources, context.generator)
        if self.dataset is None:  # of a task that the stage trains again, its own rows are there already
            kept = [[place for place in group if place[0] not in stage.tasks] for group in kept]
        groups = [group for group in kept if group]
        if not groups:
            return data
        own = tuple(Component(each.task, each.rows, each.share.scaled(1 - self.share)) for each in data)
        return (*own, *self._replayed(sources, groups))

    def _sources(self, seen: Mapping[str, Rows], context: Context) -> Mapping[str, Rows]:
        if self.dataset is None:
            return seen
        rows = context.tasks[self.dataset].dataset.split("train")
        if rows is None:
            raise ConfigurationError(f"dataset: {self.dataset} has no train split to replay")
        return {self.dataset: rows}

    def _replayed(
        self, sources: Mapping[str, Rows], groups: Sequence[Sequence[Place]]
    ) -> Iterator[Component]:
        for group in groups:
            for task, rows in sources.items():
                kept = [index for of, index in group if of == task]
                if kept:
                    share = self.share / len(groups) * (len(kept) / len(group))
                    chosen = rows if len(kept) == len(rows) else [rows[index] for index in kept]
                    yield Component(task, chosen, Share(share, share))

    def state_dict(self) -> dict[str, Any]:
        """Give which rows are kept."""
        return {"numbers": self.buffer.numbers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.buffer.numbers = state["numbers"]


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"replay": Replay}
