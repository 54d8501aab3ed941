"""Training one stage with Lightning, which is imported here alone."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from myosotis.adaptation import Adapted
from myosotis.curriculum import MixtureSampler
from myosotis.errors import ConfigurationError, NonFiniteLoss
from myosotis.evaluation import Runtime
from myosotis.interfaces import Batch, Context, Example, Loss, Method, Model, Objective, Task

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

    from myosotis.config import OptimizerConfig, ScheduleConfig, TrainerConfig

OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True)
class Group:
    """Rows of a batch that share an objective, collated."""

    objective: Objective
    rows: int
    batch: Batch


@dataclass(frozen=True)
class MixedBatch:
    """One training batch: its groups, what its rows are, and how many tokens they have."""

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
    """The encoded examples of one component of a mixture."""

    task: Task
    examples: Sequence[Example]


class BatchLoader:
    """Gives a stage's batches in the sampler's order; has a length, as Lightning's resume needs it."""

    def __init__(self, parts: Sequence[EncodedPart], sampler: MixtureSampler, model: Model) -> None:
        self.parts = parts
        self.sampler = sampler
        self.model = model

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[MixedBatch]:
        return (self.collate(rows) for rows in self.sampler)

    def collate(self, rows: Sequence[tuple[int, int]]) -> MixedBatch:
        """Collate rows into one group an objective."""
        grouped: dict[Objective, list[Example]] = {}
        for part, index in rows:
            grouped.setdefault(self.parts[part].task.objective, []).append(self.parts[part].examples[index])
        return MixedBatch(
            tuple(
                Group(objective, len(examples), objective.collate(examples, self.model))
                for objective, examples in grouped.items()
            ),
            tuple((self.parts[part].task.name, index) for part, index in rows),
            sum(objective.tokens(example) for objective, examples in grouped.items() for example in examples),
        )

    def one_pass(self, batch_size: int) -> Iterator[MixedBatch]:
        """Give every example once, in order: for methods that measure something over the data."""
        for number, part in enumerate(self.parts):
            indices = [(number, index) for index in range(len(part.examples))]
            for start in range(0, len(indices), batch_size):
                yield self.collate(indices[start : start + batch_size])


def mean_loss(module: nn.Module, batch: MixedBatch) -> Loss:
    """Give the mean loss of a batch: of its groups' losses, weighted by their rows."""
    return combine(
        batch, lambda group: group.objective.loss(group.objective.forward(module, group.batch), group.batch)
    )


def combine(batch: MixedBatch, loss: Callable[[Group], Loss]) -> Loss:
    """Weight the groups' losses by their rows; one group's loss stays as it is, to the bit."""
    if len(batch.groups) == 1:
        return loss(batch.groups[0])
    total = sum(group.rows for group in batch.groups)
    return torch.stack([loss(group) * (group.rows / total) for group in batch.groups]).sum()


def overriding(methods: Mapping[str, Method], hook: str) -> dict[str, Method]:
    """Choose the methods that override a hook, so that the others cost nothing."""
    return {
        name: method
        for name, method in methods.items()
        if getattr(type(method), hook) is not getattr(Method, hook)
    }


@dataclass(frozen=True)
class StageOutcome:
    """What training a stage took and did."""

    steps: int
    tokens: int
    seconds: float


class StageModule(LightningModule):
    """Joins the model, the methods' hooks and the optimizer for one stage."""

    def __init__(
        self,
        adapted: Adapted,
        methods: Mapping[str, Method],
        context: Context,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
    ) -> None:
        super().__init__()
        self.module = adapted.model.module
        self.adapted = adapted
        self.methods = methods
        self.context = context
        self.optimizer_config = optimizer
        self.schedule_config = schedule
        self.losses = overriding(methods, "loss")
        self.penalties = overriding(methods, "penalty")
        self.after_backward_methods = overriding(methods, "after_backward")
        self.after_step_methods = overriding(methods, "after_step")
        self.terms: dict[str, Tensor] = {}
        if len(self.losses) > 1:
            raise ConfigurationError(
                f"methods {' and '.join(self.losses)} both replace the loss; a trial may have one that does"
            )

    def now(self) -> Context:
        """Give the context at the current step."""
        return replace(self.context, step=int(self.global_step))

    def training_step(self, batch: MixedBatch, batch_idx: int) -> Tensor:
        """Compute the loss and the methods' penalties."""
        self.terms = {}
        loss = combine(batch, self._group_loss)
        self.terms["loss"] = loss.detach()
        return loss

    def _group_loss(self, group: Group) -> Loss:
        outputs = group.objective.forward(self.module, group.batch)
        loss = self._task_loss(group, outputs)
        for name, method in self.penalties.items():
            penalty = method.penalty(self.module, group.batch, outputs, self.now())
            if penalty is not None:
                self.terms[f"penalty/{name}"] = penalty.detach()
                loss = loss + penalty
        return loss

    def _task_loss(self, group: Group, outputs: Any) -> Loss:
        for method in self.losses.values():
            replaced = method.loss(self.module, group.batch, outputs, self.now())
            if replaced is not None:
                return replaced
        return group.objective.loss(outputs, group.batch)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Let methods change the gradients, before they are clipped."""
        for method in self.after_backward_methods.values():
            method.after_backward(self.module, self.now())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer and its schedule anew."""
        groups = self._parameter_groups()
        settings: dict[str, Any] = {
            "lr": self.optimizer_config.learning_rate,
            "weight_decay": self.optimizer_config.weight_decay,
        }
        optimizer = OPTIMIZERS[self.optimizer_config.name](groups, **settings)
        factor = learning_rate_factor(self.schedule_config, self.context.steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        chosen = {
            name: groups
            for name, method in overriding(self.methods, "parameter_groups").items()
            if (groups := method.parameter_groups(self.module, self.context)) is not None
        }
        if len(chosen) > 1:
            raise ConfigurationError(
                f"methods {' and '.join(chosen)} both give parameter groups; a trial may have one that does"
            )
        default = [{"params": list(self.adapted.trainable().values())}]
        return [self._scaled(group) for group in next(iter(chosen.values()), default)]

    def _scaled(self, group: dict[str, Any]) -> dict[str, Any]:
        rest = {key: value for key, value in group.items() if key != "scale"}
        return {"lr": self.optimizer_config.learning_rate * group.get("scale", 1.0), **rest}

    def train(self, mode: bool = True) -> StageModule:
        """Train with the frozen base's dropout off."""
        super().train(mode)
        if mode:
            self.adapted.train()
        return self


def learning_rate_factor(schedule: ScheduleConfig, steps: int) -> Callable[[int], float]:
    """Give the factor of the learning rate at each step: warm-up, then constant, linear or cosine to 0."""

    def factor(step: int) -> float:
        if step < schedule.warmup_steps:
            return step / schedule.warmup_steps
        progress = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
        shapes = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
        return max(0.0, shapes[schedule.name])

    return factor


class StageObserver(Callback):
    """Watches the loss, writes the training log and calls for evaluations within the stage."""

    def __init__(
        self,
        log: Callable[[int, Mapping[str, float]], None],
        progress: Callable[[int], None],
        evaluate: Callable[[int], None],
        log_every: int,
        evaluate_every: int,
    ) -> None:
        self.write_log = log
        self.progress = progress
        self.evaluate = evaluate
        self.log_every = log_every
        self.evaluate_every = evaluate_every
        self.pending: list[tuple[int, MixedBatch, dict[str, Tensor]]] = []
        self.tokens = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take note of a batch; read its loss from the device only every few steps."""
        assert isinstance(pl_module, StageModule)
        self.tokens += batch.tokens
        self.pending.append((trainer.global_step, batch, pl_module.terms))
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        for method in pl_module.after_step_methods.values():
            method.after_step(pl_module.module, pl_module.now())
        step = trainer.global_step
        if step % self.log_every == 0 or step == trainer.max_steps:
            self.flush(trainer)
            self.progress(step)
        if self.evaluate_every and step % self.evaluate_every == 0 and step < trainer.max_steps:
            self.evaluate(step)
            pl_module.train()

    def flush(self, trainer: Trainer) -> None:
        """Check the losses since the last time, and log their mean.

        Raises:
            NonFiniteLoss: names the step and the rows of the batch.
        """
        losses = torch.stack([terms["loss"] for _, _, terms in self.pending]).float().cpu()
        for (step, batch, _), loss in zip(self.pending, losses.tolist(), strict=True):
            if not math.isfinite(loss):
                rows = ", ".join(f"{task}[{index}]" for task, index in batch.rows)
                raise NonFiniteLoss(
                    f"the loss must be finite, but is {loss} at step {step} on the batch {rows}; "
                    "try a smaller optimizer.learning_rate, or look at these rows"
                )
        values = {"loss": float(losses.mean())}
        values |= {name: float(term) for name, term in self.pending[-1][2].items() if name != "loss"}
        values["learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        self.write_log(trainer.global_step, values)
        self.pending.clear()


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


def train_stage(
    module: StageModule,
    loader: BatchLoader,
    observer: StageObserver,
    trainer: TrainerConfig,
    runtime: Runtime,
) -> StageOutcome:
    """Train one stage.

    Raises:
        NonFiniteLoss: the loss became infinite or not a number.
    """
    started = time.perf_counter()
    with quiet_lightning():
        engine = make_engine(trainer, runtime, len(loader) // trainer.accumulate_grad_batches, [observer])
        engine.fit(module, train_dataloaders=loader)
    return StageOutcome(int(engine.global_step), observer.tokens, time.perf_counter() - started)


def make_engine(trainer: TrainerConfig, runtime: Runtime, steps: int, callbacks: list[Callback]) -> Trainer:
    """Make Lightning's trainer for a stage.

    Raises:
        ConfigurationError: Lightning refuses devices, strategy or what goes with them.
    """
    try:
        return Trainer(
            accelerator="gpu" if runtime.device.type == "cuda" else "cpu",
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=trainer.strategy,
            precision=trainer.precision,  # type: ignore[arg-type]
            max_steps=steps,
            accumulate_grad_batches=trainer.accumulate_grad_batches,
            gradient_clip_val=trainer.gradient_clip_val,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise ConfigurationError(f"trainer: {error}") from error


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning from printing what hardware it found, and advice that a study has no use for."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # On workers and loggers, which encoded rows need none of, and deprecations within its own code.
        warnings.filterwarnings("ignore", module="lightning")
        yield
