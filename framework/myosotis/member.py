"""A trial in a stage: what trains, on what, and how far it has come."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from myosotis.adaptation import Adapted, overriding
from myosotis.batches import BatchLoader, Group, MixedBatch, combine
from myosotis.early_stopping import EarlyStopping
from myosotis.errors import ConfigurationError, NonFiniteLoss
from myosotis.interfaces import Context, Loss, Method
from myosotis.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from myosotis.schema import OptimizerConfig, ScheduleConfig, TrainerConfig


@dataclass(eq=False)
class Member:
    """One trial in a stage: what trains, on what, and how far it has come.

    Attributes:
        context: as it is at the stage's beginning.
        step: optimizer steps taken in this stage.
        rows: rows trained on in this stage, by task.
        tokens: their tokens, by task.
        unlogged: the losses since the last entry of the training log.
        optimizer_state: each parameter's, by its name; where a trial goes on, as it was.
        active: whether it still trains: not once its stage is over or it has failed.
        seconds: its share of the time that the training took.
        ranks: the processes that train it together.
        divided: what trains in the place of `adapted`, where each of these has a part of the parameters.
    """

    adapted: Adapted
    methods: Mapping[str, Method]
    context: Context
    loader: BatchLoader
    trainer: TrainerConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    evaluate_every: int = 0
    step: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    unlogged: list[float] = field(default_factory=list)
    optimizer_state: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    active: bool = True
    seconds: float = 0.0
    pending: list[tuple[int, MixedBatch, dict[str, Tensor]]] = field(default_factory=list)
    ranks: Ranks = ALONE
    divided: Adapted | None = None

    def __post_init__(self) -> None:
        self.early_stopping = EarlyStopping(self.trainer.early_stopping)
        self.losses = overriding(self.methods, "loss")
        self.penalties = overriding(self.methods, "penalty")
        self.after_backward = overriding(self.methods, "after_backward")
        self.after_step = overriding(self.methods, "after_step")
        if len(self.losses) > 1:
            raise ConfigurationError(
                f"methods {' and '.join(self.losses)} both replace the loss; a trial may have one that does"
            )

    @property
    def module(self) -> nn.Module:
        """The trial's own module."""
        return self.adapted.model.module

    @property
    def trained(self) -> Adapted:
        """What trains: the trial's own module, or the copy that is divided."""
        return self.adapted if self.divided is None else self.divided

    def make_whole(self) -> None:
        """See that the trial's own module is as far as what trains."""
        if self.divided is not None:
            from myosotis.sharding import gather

            gather(self.divided, self.adapted)

    def now(self) -> Context:
        """Give the context at the current step."""
        return replace(self.context, step=self.step)

    def _looking_at(self, group: Group) -> Context:
        return replace(self.context, step=self.step, rows=group.rows)

    def take_unlogged(self) -> float:
        """Give the mean of the losses since the last entry of the training log, and begin anew."""
        mean = float(torch.tensor(self.unlogged).mean())
        self.unlogged = []
        return mean

    def batches(self) -> Iterator[MixedBatch]:
        """Give the batches that are left."""
        return self.loader.after(self.step * self.trainer.accumulate_grad_batches)

    def loss(self, batch: MixedBatch, outputs: Sequence[Any]) -> tuple[Loss, dict[str, Tensor]]:
        """Give the loss with the methods' penalties, and what is logged of it."""
        terms: dict[str, Tensor] = {}
        losses = [
            self._group_loss(group, output, terms)
            for group, output in zip(batch.groups, outputs, strict=True)
        ]
        loss = combine(batch, losses)
        return loss, {"loss": loss.detach(), **terms}

    def _group_loss(self, group: Group, outputs: Any, terms: dict[str, Tensor]) -> Loss:
        loss = self._task_loss(group, outputs)
        for name, method in self.penalties.items():
            penalty = method.penalty(self.module, group.batch, outputs, self._looking_at(group))
            if penalty is not None:
                terms[f"penalty/{name}"] = penalty.detach()
                loss = loss + penalty
        return loss

    def _task_loss(self, group: Group, outputs: Any) -> Loss:
        for method in self.losses.values():
            replaced = method.loss(self.module, group.batch, outputs, self._looking_at(group))
            if replaced is not None:
                return replaced
        return group.objective.loss(outputs, group.batch)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Give the optimizer's groups for what trains.

        Raises:
            ConfigurationError: two methods give some.
        """
        chosen = {
            name: groups
            for name, method in overriding(self.methods, "parameter_groups").items()
            if (groups := method.parameter_groups(self.module, self.context)) is not None
        }
        if len(chosen) > 1:
            raise ConfigurationError(
                f"methods {' and '.join(chosen)} both give parameter groups; a trial may have one that does"
            )
        default = [{"params": list(self.trained.trainable().values())}]
        return [self._scaled(group) for group in next(iter(chosen.values()), default)]

    def _scaled(self, group: dict[str, Any]) -> dict[str, Any]:
        rest = {key: value for key, value in group.items() if key != "scale"}
        rate = self.optimizer.learning_rate * group.get("scale", 1.0)
        return {"lr": rate, "weight_decay": self.optimizer.weight_decay, **rest}


@dataclass(frozen=True)
class CohortBatch:
    """The batches of the members that still train, each with its member's index."""

    parts: tuple[tuple[int, MixedBatch], ...]

    def to(self, device: torch.device, **arguments: Any) -> CohortBatch:
        """Move the tensors."""
        return CohortBatch(tuple((member, batch.to(device, **arguments)) for member, batch in self.parts))


class CohortLoader:
    """Gives each member its own next batch, until the last one has had all of its."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members

    def __len__(self) -> int:
        return max(
            len(member.loader) - member.step * member.trainer.accumulate_grad_batches
            for member in self.members
        )

    def __iter__(self) -> Iterator[CohortBatch]:
        for batches in itertools.zip_longest(*(self._batches(member) for member in self.members)):
            parts = [(index, batch) for index, batch in enumerate(batches) if batch is not None]
            if not parts:
                return
            yield CohortBatch(tuple(parts))

    def _batches(self, member: Member) -> Iterator[MixedBatch]:
        return itertools.takewhile(lambda _: member.active, member.batches())


def finite_losses(member: Member) -> list[float]:
    """Read the losses that wait on the device.

    Raises:
        NonFiniteLoss: names the step and the rows of the batch.
    """
    waiting, member.pending = member.pending, []
    if not waiting:
        return []
    own: list[float] = torch.stack([terms["loss"] for _, _, terms in waiting]).float().tolist()
    # Each process's part of a batch is weighted so that their mean is the batch's loss.
    losses = [sum(each) / len(each) for each in zip(*member.ranks.gathered(own), strict=True)]
    for (step, batch, _), loss in zip(waiting, losses, strict=True):
        if not math.isfinite(loss):
            rows = ", ".join(f"{task}[{index}]" for task, index in batch.rows)
            raise NonFiniteLoss(
                f"the loss must be finite, but is {loss} at step {step} on the batch {rows}; "
                "try a smaller optimizer.learning_rate, or look at these rows"
            )
    return losses
