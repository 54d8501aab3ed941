"""What a configuration holds: the core's own parameters, typed, and the groups that plugins fill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from myosotis.curriculum import CurriculumConfig
from myosotis.plugins import Kind


@dataclass
class EarlyStoppingConfig:
    """When a stage ends before its length is over.

    Attributes:
        patience: checks in a row without a lower loss that end the stage; None ends none early.
        every_n_steps: steps between two checks.
        min_delta: by how much a loss must be lower to count as such.
        split: the rows of the stage's own tasks whose mean loss is watched, as many of each as `evaluation.limit`.
        restore_best: whether the stage ends with the parameters that had the lowest loss.
    """

    patience: int | None = None
    every_n_steps: int = 20
    min_delta: float = 0.0
    split: str = "validation"
    restore_best: bool = True


@dataclass
class TrainerConfig:
    """How long and on what a stage trains; Lightning's own argument names.

    Attributes:
        max_steps: optimizer steps a stage; 60 where none of the three lengths is given.
        max_epochs: passes over the stage's own tasks; of several lengths, the shortest counts.
        max_tokens: tokens a stage, on average over its draws.
        batch_size: rows a batch on each device.
        accumulate_grad_batches: batches an optimizer step, with the loss of one large batch.
        bucket_by_length: whether rows of like length come into one batch, so that less is filled up. Of every 50
            batches, or a quarter of the stage where that is less, the rows are sorted and the batches shuffled.
        precision: Lightning's precision, such as `32-true` or `bf16-mixed`.
        accelerator: `auto`, `cpu` or `gpu`.
        devices: processes that train a trial together, each on a GPU of its own, or on the CPU where the
            accelerator is `cpu`; a batch of all has `devices` times `batch_size` rows.
        num_nodes: machines with so many devices each, on which torchrun starts the command.
        strategy: how several processes train together: `ddp`, which `auto` is, or `fsdp`.
        base_dropout: whether what trains of the base has its dropout while it trains; what is frozen never has.
        gradient_clip_val: the largest norm of the gradient; None clips nothing.
        log_every_n_steps: steps between two entries of the training log.
        checkpoint_every_n_steps: steps between two checkpoints within a stage; 0 saves at stage ends only.
        early_stopping: when a stage ends before its length is over.
        save: whether the finished trial keeps its adapter or weights.
        prefix_gigabytes: disk for what frozen blocks at the model's beginning give, kept for further epochs
            and trials while the study runs; 0 computes it each time.
    """

    max_steps: int | None = None
    max_epochs: int | None = None
    max_tokens: int | None = None
    batch_size: int = 8
    accumulate_grad_batches: int = 1
    bucket_by_length: bool = False
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    base_dropout: bool = True
    gradient_clip_val: float | None = 1.0
    log_every_n_steps: int = 10
    checkpoint_every_n_steps: int = 100
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    save: bool = True
    prefix_gigabytes: float = 4.0

    @property
    def processes(self) -> int:
        """How many processes train a trial together."""
        return self.devices * self.num_nodes

    @property
    def divides(self) -> bool:
        """Whether each of several processes computes with a part of the weights."""
        return self.strategy == "fsdp" and self.processes > 1

    @property
    def rows_a_batch(self) -> int:
        """Rows of a batch of all processes together."""
        return self.batch_size * self.processes


@dataclass
class OptimizerConfig:
    """The optimizer of every stage, made anew for each.

    Attributes:
        name: `adamw`, `adam` or `sgd`; on a GPU `adamw_8bit`, whose states take a quarter of the memory, or
            `paged_adamw_8bit`, which lets them out to the CPU where the GPU is full.
        learning_rate: the peak learning rate.
        weight_decay: decoupled for `adamw` and its like, an L2 term otherwise.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0


@dataclass
class ScheduleConfig:
    """The learning rate over a stage.

    Attributes:
        name: `constant`, `linear` (to 0) or `cosine` (to 0).
        warmup_steps: steps of linear rise from 0.
    """

    name: str = "constant"
    warmup_steps: int = 0


@dataclass
class EvaluationConfig:
    """What is scored, and when.

    Attributes:
        every: steps between two evaluations within a stage; 0 evaluates at stage ends only.
        limit: examples a task; `auto` takes 200, or fewer that have 8,192 tokens; None takes all.
        rows: which ones: the `first`, or `spread` over the whole split, one of each of as many equal parts. The
            same ones for every trial and for the base.
        batch_size: examples a batch; changes no score.
        split: the split that is scored.
        resamples: bootstrap resamples behind every interval.
        shots: training rows of a task that each of its prompts shows as examples, the same for every row and trial.
    """

    every: int = 0
    limit: int | str | None = "auto"
    rows: str = "first"
    batch_size: int = 16
    split: str = "test"
    resamples: int = 1000
    shots: int = 0


@dataclass
class RootConfig:
    """The keys of a trial beside the plugins'.

    Attributes:
        data_check: whether the data are looked at before the study runs.
    """

    seed: int = 0
    study: str | None = None
    arm: str | None = None
    arms: Any = None
    force: bool = False
    studies: str = "studies"
    data_check: bool = True
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


SCALARS = frozenset({"seed", "study", "arm", "force", "studies", "data_check"})
PLUGIN_GROUPS: Mapping[str, tuple[Kind, bool]] = {
    "model": ("model", False),
    "method": ("method", True),
    "dataset": ("dataset", True),
    "probe": ("dataset", True),
}
"""Config groups filled from plugins: the kind, and whether several may be chosen, each under its name."""
KEYS = frozenset({*(each.name for each in fields(RootConfig)), *PLUGIN_GROUPS, "mix", "logger"})
"""What a configuration holds at its top; any other key is the user's own, for values to refer to."""
