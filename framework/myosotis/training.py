"""Training one stage of the trials of a cohort with Lightning, which is imported here alone."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor

from myosotis.errors import ConfigurationError, NonFiniteLoss
from myosotis.evaluation import Runtime
from myosotis.joint import JointForward
from myosotis.member import CohortBatch, CohortLoader, Member, finite_losses
from myosotis.optimizers import learning_rate_factor, make_optimizer, restore_optimizer
from myosotis.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

    from myosotis.schema import TrainerConfig


class StageWatch(Protocol):
    """What the trials do while they train."""

    def log(self, member: Member, values: Mapping[str, float]) -> None:
        """Write an entry of the training log."""

    def reached(self, members: Sequence[Member], optimizer: torch.optim.Optimizer) -> None:
        """Take note that members have come a step further: evaluate, save, stop."""

    def lost(self, member: Member, error: NonFiniteLoss) -> None:
        """Give a trial up; the others go on."""


class StageModule(LightningModule):
    """Joins the members of a cohort, their methods' hooks and one optimizer for a stage.

    Args:
        members: the trials.
        forward: runs their rows.
        restore: called once, just before the first step: puts random states back.
    """

    def __init__(
        self,
        members: Sequence[Member],
        forward: JointForward,
        restore: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        # Several devices need the module registered; on one, moving it is not Lightning's business.
        if members[0].ranks.several:
            self.module = members[0].trained.model.module
        self.members = list(members)
        self.joint = forward
        self.restore = restore
        self.terms: dict[int, dict[str, Tensor]] = {}

    def on_train_start(self) -> None:
        """Switch to training, with the frozen base's dropout off, and begin where the trial stopped."""
        for member in self.members:
            member.trained.train()
        self.restore()

    def training_step(self, batch: CohortBatch, batch_idx: int) -> Tensor:
        """Give the sum of the members' own losses."""
        losses = []
        outputs = self.joint.outputs(batch.parts)
        for (index, own), of_groups in zip(batch.parts, outputs, strict=True):
            loss, self.terms[index] = self.members[index].loss(own, of_groups)
            losses.append(loss)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Let methods change the gradients, before they are clipped."""
        for member in self._active():
            for method in member.after_backward.values():
                method.after_backward(member.module, member.now())

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each member's gradient by its own norm."""
        for index, member in enumerate(self.members):
            if member.active and member.trainer.gradient_clip_val is not None:
                groups = [group for group in optimizer.param_groups if group["member"] == index]
                parameters = [parameter for group in groups for parameter in group["params"]]
                torch.nn.utils.clip_grad_norm_(parameters, member.trainer.gradient_clip_val)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make one optimizer with groups of every member, each at its own rate and schedule."""
        groups, factors = [], []
        for index, member in enumerate(self.members):
            factor = learning_rate_factor(member.schedule, member.context.steps, member.step)
            for group in member.parameter_groups():
                groups.append({**group, "member": index})
                factors.append(factor)
        first = self.members[0]
        optimizer = make_optimizer(first.optimizer, groups, first.trainer.precision)
        for member in self.members:
            restore_optimizer(optimizer, member)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Leave it to the end of the step."""

    def _active(self) -> Iterator[Member]:
        return (member for member in self.members if member.active)

    def configure_model(self) -> None:
        """Leave the module as it is: where it is to be divided, it is already."""


class StageObserver(Callback):
    """Watches the losses and counts the steps, for the training log and all that depends on a step."""

    def __init__(self, watch: StageWatch) -> None:
        self.watch = watch
        self.since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take note of a batch; read its loss from the device only every few steps."""
        assert isinstance(pl_module, StageModule)
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        members = [pl_module.members[index] for index, _ in batch.parts]
        for member, (index, own) in zip(members, batch.parts, strict=True):
            for (task, _), length in zip(own.rows, own.lengths, strict=True):
                member.rows[task] += 1
                member.tokens[task] += length
            member.pending.append((member.step + 1, own, pl_module.terms[index]))
        self._share_time(members)
        if stepped:
            self._step(trainer, [member for member in members if member.active])
            self.since = time.perf_counter()

    def _share_time(self, members: Sequence[Member]) -> None:
        now = time.perf_counter()
        for member in members:
            member.seconds += (now - self.since) / len(members)
        self.since = now

    def _step(self, trainer: Trainer, members: Sequence[Member]) -> None:
        for member in members:
            member.step += 1
            for method in member.after_step.values():
                method.after_step(member.module, member.now())
            if member.step % member.trainer.log_every_n_steps == 0 or member.step == member.context.steps:
                self._log(trainer, member)
        self.watch.reached([member for member in members if member.active], trainer.optimizers[0])
        # Not when the next backward pass begins: the forward pass before it needs the memory.
        trainer.optimizers[0].zero_grad()
        for member in members:
            member.active = member.active and member.step < member.context.steps
        module = trainer.lightning_module
        assert isinstance(module, StageModule)
        # Lightning would begin another epoch where the one with the most steps has failed.
        trainer.should_stop = not any(member.active for member in module.members)

    def _log(self, trainer: Trainer, member: Member) -> None:
        terms = member.pending[-1][2]
        try:
            member.unlogged += finite_losses(member)
        except NonFiniteLoss as error:
            member.active = False
            self.watch.lost(member, error)
            return
        values = {"loss": member.take_unlogged()}
        own = {name: float(term) for name, term in terms.items() if name != "loss"}
        values |= averaged(member.ranks.gathered(own))
        values["learning_rate"] = self._learning_rate(trainer, member)
        self.watch.log(member, values)

    def _learning_rate(self, trainer: Trainer, member: Member) -> float:
        module = trainer.lightning_module
        assert isinstance(module, StageModule)
        groups = trainer.optimizers[0].param_groups
        return next(float(each["lr"]) for each in groups if each["member"] == module.members.index(member))


def averaged(terms: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Give the mean of each term over those that have it."""
    names = dict.fromkeys(name for each in terms for name in each)
    having = {name: [each[name] for each in terms if name in each] for name in names}
    return {name: sum(values) / len(values) for name, values in having.items()}


def train_stage(
    members: Sequence[Member],
    forward: JointForward,
    watch: StageWatch,
    runtime: Runtime,
    restore: Callable[[], None] = lambda: None,
) -> None:
    """Train the members' stage to its end.

    Args:
        members: the trials; all take the same trainer settings.
        forward: runs their rows.
        watch: told of every step.
        runtime: where to compute.
        restore: called once, just before the first step.
    """
    loader = CohortLoader(members)
    trainer = members[0].trainer
    members[0].ranks.meet()  # Lightning's own waiting has an end
    with quiet_lightning():
        steps = len(loader) // trainer.accumulate_grad_batches
        engine = make_engine(trainer, runtime, steps, [StageObserver(watch)], members[0].ranks)
        # Lightning would end the process between two steps, with nothing saved; whoever runs the study has
        # taken the signals already.
        engine._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        engine.fit(StageModule(members, forward, restore), train_dataloaders=loader)
    for member in members:
        member.make_whole()
        member.divided = None  # its memory is needed for what predicts
        member.module.eval()


def make_engine(
    trainer: TrainerConfig, runtime: Runtime, steps: int, callbacks: list[Callback], ranks: Ranks = ALONE
) -> Trainer:
    """Make Lightning's trainer for a stage.

    Raises:
        ConfigurationError: Lightning refuses the precision or what goes with it.
    """
    several: dict[str, Any] = {}
    if ranks.several:
        several = {
            "devices": trainer.devices,
            "num_nodes": trainer.num_nodes,
            "strategy": ModelParallelStrategy(data_parallel_size=ranks.count, tensor_parallel_size=1)
            if trainer.divides
            else DDPStrategy(find_unused_parameters=True),
            # The processes are there already: it reads LOCAL_RANK and NODE_RANK.
            "plugins": [LightningEnvironment()],
        }
    try:
        return Trainer(
            accelerator="gpu" if runtime.device.type == "cuda" else "cpu",
            **{"devices": 1, **several},
            precision=trainer.precision,  # type: ignore[arg-type]
            max_steps=steps,
            accumulate_grad_batches=trainer.accumulate_grad_batches,
            gradient_clip_val=trainer.gradient_clip_val,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,  # each process's loader knows its part
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        given = ", ".join(
            f"trainer.{name}={getattr(trainer, name)}" for name in ("precision", "gradient_clip_val")
        )
        raise ConfigurationError(f"Lightning refuses one of {given}: {error}") from error


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning from printing what hardware it found, and advice that a study has no use for."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # On workers and loggers, which encoded rows need none of, and deprecations within its own code.
        warnings.filterwarnings("ignore", module="lightning")
        yield
