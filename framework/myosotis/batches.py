"""Training batches of a stage: which rows they hold, how many a stage takes, and their mean loss."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from myosotis.buckets import in_turn
from myosotis.curriculum import TOLERANCE, MixtureSampler, Part, Place, drawn_length, mean_draws
from myosotis.interfaces import (
    Batch,
    Example,
    Loss,
    Model,
    Objective,
    Share,
    Stage,
    Task,
    TrainingRow,
)
from myosotis.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from myosotis.schema import TrainerConfig


@dataclass(frozen=True)
class Group:
    """Rows of a batch that share an objective, collated.

    Attributes:
        rows: each row's task and its example.
        weight: the factor of its loss in the batch's.
    """

    objective: Objective
    rows: tuple[TrainingRow, ...]
    batch: Batch
    weight: float = 1.0


@dataclass(frozen=True)
class MixedBatch:
    """One training batch: its groups, which examples of which tasks its rows are, and how many tokens each has.

    Where several processes share a batch, each has groups of its own rows, and knows which the rows of all are.
    """

    groups: tuple[Group, ...]
    rows: tuple[tuple[str, int], ...]
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """The tokens of all rows."""
        return sum(self.lengths)

    def to(self, device: torch.device, **arguments: Any) -> MixedBatch:
        """Move the tensors; Lightning calls this, since it would not look into frozen dataclasses."""
        groups = (
            replace(group, batch={name: value.to(device, **arguments) for name, value in group.batch.items()})
            for group in self.groups
        )
        return replace(self, groups=tuple(groups))


@dataclass(frozen=True)
class EncodedPart:
    """The encoded examples of one component of a mixture.

    Attributes:
        identity: the hash over what the examples depend on; None where a method made the rows.
    """

    task: Task
    examples: Sequence[Example]
    identity: str | None = None

    def length(self, index: int) -> int:
        """Count an example's tokens."""
        return self.task.objective.tokens(self.examples[index])


class BatchLoader:
    """Gives a stage's batches in the sampler's order; has a length, as Lightning's resume needs it.

    Args:
        parts: what the sampler's pairs of indices mean.
        sampler: says which examples each batch holds.
        model: what they were encoded for.
        accumulated: batches an optimizer step, whose mean loss is that of one large batch.
        ranks: the processes among which each batch's rows are dealt out.
        together: whether these run the module together, and so must run it equally often.
    """

    def __init__(
        self,
        parts: Sequence[EncodedPart],
        sampler: MixtureSampler,
        model: Model,
        accumulated: int = 1,
        ranks: Ranks = ALONE,
        together: bool = False,
    ) -> None:
        self.parts = parts
        self.sampler = sampler
        self.model = model
        self.accumulated = accumulated
        self.ranks = ranks
        self.together = together

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[MixedBatch]:
        return self.after(0)

    def after(self, batches: int) -> Iterator[MixedBatch]:
        """Give the batches after the first ones, whole steps, which are drawn but not made."""
        drawn = itertools.islice(self.sampler, batches, None)
        return itertools.chain.from_iterable(map(self._step, in_turn(drawn, self.accumulated)))

    def _step(self, drawn: Sequence[list[Place]]) -> Iterator[MixedBatch]:
        """Give this process's part of each batch of a step; all parts are made, for each counts in the weights."""
        count = self.ranks.count
        parts = as_one([self.collate(rows) for batch in drawn for rows in self.ranks.dealt(batch)])
        for start in range(0, len(parts), count):
            whole = parts[start : start + count]
            groups = whole[self.ranks.rank].groups
            passes = max(len(part.groups) for part in whole) if self.together else len(groups)
            yield MixedBatch(
                groups=groups + (replace(groups[-1], weight=0.0),) * (passes - len(groups)),
                rows=tuple(itertools.chain.from_iterable(part.rows for part in whole)),
                lengths=tuple(itertools.chain.from_iterable(part.lengths for part in whole)),
            )

    def collate(self, places: Sequence[tuple[int, int]]) -> MixedBatch:
        """Collate rows, given by their parts' indices and the examples' in them."""
        rows = [(self.parts[part].task, self.parts[part].examples[index]) for part, index in places]
        return make_batch(rows, self.model, [index for _, index in places])

    def one_pass(self, batch_size: int) -> Iterator[MixedBatch]:
        """Give every example once, in order: for methods that measure something over the data."""
        for number, part in enumerate(self.parts):
            size = len(part.examples)
            for start in range(0, size, batch_size):
                yield self.collate([(number, index) for index in range(start, min(start + batch_size, size))])


def make_batch(
    rows: Sequence[tuple[Task, Example]], model: Model, indices: Sequence[int] | None = None
) -> MixedBatch:
    """Collate rows into one group an objective.

    Args:
        rows: each one's task and example.
        model: what they were encoded for.
        indices: what the rows are called in messages, their places here where not given.
    """
    grouped: dict[Objective, list[TrainingRow]] = {}
    for task, example in rows:
        grouped.setdefault(task.objective, []).append((task.name, example))
    groups = tuple(
        Group(
            objective,
            tuple(own),
            objective.collate([example for _, example in own], model),
            weight=len(own) / len(rows),
        )
        for objective, own in grouped.items()
    )
    names = [task.name for task, _ in rows]
    lengths = tuple(task.objective.tokens(example) for task, example in rows)
    return MixedBatch(groups, tuple(zip(names, indices or range(len(rows)), strict=True)), lengths)


def as_one(batches: Sequence[MixedBatch]) -> Sequence[MixedBatch]:
    """Weight the groups of small batches so that the mean of the batches' losses is the loss of one large batch.

    Of the large batch's R rows, R_g have the objective g, whose loss is a mean over N_g tokens or rows, n_gi of
    them in the i-th of k batches: that group's weight is k · R_g / R · n_gi / N_g.
    """
    if len(batches) == 1:
        return batches
    rows, counts = Counter[Objective](), Counter[Objective]()
    for group in (group for batch in batches for group in batch.groups):
        rows[group.objective] += len(group.rows)
        counts[group.objective] += group.objective.count(group.batch)

    def weighted(group: Group) -> Group:
        counted = len(batches) * rows[group.objective] * group.objective.count(group.batch)
        return replace(group, weight=counted / max(1, rows.total() * counts[group.objective]))

    return [replace(batch, groups=tuple(map(weighted, batch.groups))) for batch in batches]


def mean_loss(module: nn.Module, batch: MixedBatch) -> Loss:
    """Give the loss of a batch: the weighted sum of its groups'."""
    losses = [
        group.objective.loss(group.objective.forward(module, group.batch), group.batch)
        for group in batch.groups
    ]
    return combine(batch, losses)


def combine(batch: MixedBatch, losses: Sequence[Loss]) -> Loss:
    """Add up the groups' weighted losses; that of one group with the weight 1 stays as it is, to the bit."""
    if len(losses) == 1 and batch.groups[0].weight == 1:
        return losses[0]
    weighted = [loss * group.weight for group, loss in zip(batch.groups, losses, strict=True)]
    return torch.stack(weighted).sum()


def sampled(
    trainer: TrainerConfig, stage: Stage, parts: Sequence[EncodedPart], shares: Iterable[Share]
) -> list[Part]:
    """Say of a stage's parts what its length and its draws go by; tokens are counted where they matter alone."""
    counted = stage.by == "tokens" or trainer.max_tokens is not None
    return [
        Part(part.task.name, len(part.examples), share, mean_length([part]) if counted else 1.0)
        for part, share in zip(parts, shares, strict=True)
    ]


def stage_batches(trainer: TrainerConfig, stage: Stage, parts: Sequence[Part], default: int) -> int:
    """Give how many batches a stage takes: the least that any of the lengths asked for allows.

    Args:
        trainer: the lengths.
        stage: which tasks are its own, how they are mixed, and whose passes are counted.
        parts: the stage's mixture.
        default: optimizer steps where no length is given.
    """
    limits = []
    if trainer.max_steps is not None:
        limits.append(trainer.max_steps * trainer.accumulate_grad_batches)
    if trainer.max_epochs is not None:
        limits.append(_batches_of_epochs(trainer.max_epochs, trainer.rows_a_batch, stage, parts))
    if trainer.max_tokens is not None:
        limits.append(_whole(trainer.max_tokens / (drawn_length(parts, stage.by) * trainer.rows_a_batch)))
    batches = min(limits) if limits else default * trainer.accumulate_grad_batches
    steps = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
    return steps * trainer.accumulate_grad_batches


def _batches_of_epochs(epochs: int, batch_size: int, stage: Stage, parts: Sequence[Part]) -> int:
    own = [part.task in stage.tasks for part in parts]
    if stage.stopping_strategy == "total":
        rows = sum(part.size for part, counts in zip(parts, own, strict=True) if counts)
        return math.ceil(epochs * rows / batch_size)
    needed = [
        _whole(epochs * part.size / (share * batch_size))
        for part, share, counts in zip(parts, mean_draws(parts, stage.by), own, strict=True)
        if counts and share > 0  # what is never drawn is never gone through
    ]
    return min(needed) if stage.stopping_strategy == "first_exhausted" else max(needed)


def _whole(batches: float) -> int:
    """Give the whole batches that take so many; what is due but for rounding is drawn."""
    return math.ceil(batches - TOLERANCE)


def mean_length(parts: Sequence[EncodedPart]) -> float:
    """Give the mean length of the parts' examples in tokens."""
    tokens = sum(part.task.objective.tokens(example) for part in parts for example in part.examples)
    return max(1.0, tokens / sum(len(part.examples) for part in parts))
