"""Training batches of a stage: which rows they hold, how many a stage takes, and their mean loss."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from myosotis.curriculum import MixtureSampler
from myosotis.interfaces import Batch, Example, Loss, Model, Objective, Task, TrainingRow

if TYPE_CHECKING:
    from myosotis.config import TrainerConfig

T = TypeVar("T")


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
    """One training batch: its groups, which examples of which tasks its rows are, and how many tokens they have."""

    groups: tuple[Group, ...]
    rows: tuple[tuple[str, int], ...]
    tokens: int

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


class BatchLoader:
    """Gives a stage's batches in the sampler's order; has a length, as Lightning's resume needs it.

    Args:
        parts: what the sampler's pairs of indices mean.
        sampler: says which examples each batch holds.
        model: what they were encoded for.
        accumulated: batches an optimizer step, whose mean loss is that of one large batch.
    """

    def __init__(
        self, parts: Sequence[EncodedPart], sampler: MixtureSampler, model: Model, accumulated: int = 1
    ) -> None:
        self.parts = parts
        self.sampler = sampler
        self.model = model
        self.accumulated = accumulated

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[MixedBatch]:
        return self.after(0)

    def after(self, batches: int) -> Iterator[MixedBatch]:
        """Give the batches after the first ones, whole steps, which are drawn but not made."""
        made = (self.collate(rows) for rows in itertools.islice(self.sampler, batches, None))
        return itertools.chain.from_iterable(map(as_one, in_turn(made, self.accumulated)))

    def collate(self, places: Sequence[tuple[int, int]]) -> MixedBatch:
        """Collate rows, given by their parts' indices and the examples' in them."""
        rows = [(self.parts[part].task, self.parts[part].examples[index]) for part, index in places]
        return make_batch(rows, self.model, [index for _, index in places])

    def one_pass(self, batch_size: int) -> Iterator[MixedBatch]:
        """Give every example once, in order: for methods that measure something over the data."""
        for number, part in enumerate(self.parts):
            indices = [(number, index) for index in range(len(part.examples))]
            for start in range(0, len(indices), batch_size):
                yield self.collate(indices[start : start + batch_size])


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
    tokens = sum(task.objective.tokens(example) for task, example in rows)
    return MixedBatch(groups, tuple(zip(names, indices or range(len(rows)), strict=True)), tokens)


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


def in_turn(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Give the items so many at a time; at the end, those that are left."""
    left = iter(items)
    return iter(lambda: list(itertools.islice(left, size)), [])


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


def stage_batches(
    trainer: TrainerConfig, parts: Sequence[EncodedPart], own: Sequence[str], default: int
) -> int:
    """Give how many batches a stage takes: the least that any of the lengths asked for allows.

    Args:
        trainer: the lengths; `default` optimizer steps where none is given.
        parts: the stage's encoded mixture.
        own: the stage's own tasks: an epoch is one pass over as many rows as they have.
        default: optimizer steps where no length is given.
    """
    limits = []
    if trainer.max_steps is not None:
        limits.append(trainer.max_steps * trainer.accumulate_grad_batches)
    if trainer.max_epochs is not None:
        rows = sum(len(part.examples) for part in parts if part.task.name in own)
        limits.append(math.ceil(trainer.max_epochs * rows / trainer.batch_size))
    if trainer.max_tokens is not None:
        limits.append(math.ceil(trainer.max_tokens / (mean_length(parts) * trainer.batch_size)))
    batches = min(limits) if limits else default * trainer.accumulate_grad_batches
    steps = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
    return steps * trainer.accumulate_grad_batches


def mean_length(parts: Sequence[EncodedPart]) -> float:
    """Give the mean length of the parts' examples in tokens."""
    lengths = [part.task.objective.tokens(example) for part in parts for example in part.examples]
    return max(1.0, sum(lengths) / len(lengths))
