"""The optimizer of a stage: making it, its state by the parameters' names, and the schedule of its rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from myosotis.member import Member
from myosotis.sharding import divided_like, whole

if TYPE_CHECKING:
    from myosotis.schema import OptimizerConfig, ScheduleConfig

OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


def make_optimizer(
    config: OptimizerConfig, groups: list[dict[str, Any]], precision: str
) -> torch.optim.Optimizer:
    """Make the optimizer of some groups of parameters."""
    if config.name in OPTIMIZERS:
        # A GradScaler cannot unscale before clipping where the optimizer is fused.
        fused = precision != "16-mixed"
        return OPTIMIZERS[config.name](groups, lr=config.learning_rate, fused=fused)  # type: ignore[call-arg]
    import bitsandbytes  # imported where it is used, for it looks for GPUs

    kinds = {
        "adamw_8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
    }
    made: torch.optim.Optimizer = kinds[config.name](groups, lr=config.learning_rate)
    return made


def restore_optimizer(optimizer: torch.optim.Optimizer, member: Member) -> None:
    """Give the optimizer the state that a member goes on with."""
    parameters = member.trained.trainable()
    for name, state in member.optimizer_state.items():
        device = parameters[name].device
        fused = optimizer.defaults.get("fused")
        optimizer.state[parameters[name]] = {
            # Where it is not fused, the count of steps stays on the CPU.
            key: divided_like(value.to(device), parameters[name])
            if isinstance(value, Tensor) and (fused or key != "step")
            else value
            for key, value in state.items()
        }


def optimizer_state(optimizer: torch.optim.Optimizer, member: Member) -> dict[str, dict[str, Any]]:
    """Give the optimizer's state of a member's parameters, by their names; of several processes, to the first."""
    found: dict[str, dict[str, Any]] = {}
    for name, parameter in member.trained.trainable().items():
        state = {key: whole(value) for key, value in optimizer.state.get(parameter, {}).items()}
        if state and member.ranks.first:
            found[name] = {
                key: value.cpu() if isinstance(value, Tensor) else value for key, value in state.items()
            }
    return found


def learning_rate_factor(schedule: ScheduleConfig, steps: int, taken: int = 0) -> Callable[[int], float]:
    """Give the factor of the learning rate at each step: warm-up, then constant, linear or cosine to 0.

    Args:
        schedule: its name and warm-up.
        steps: steps of the whole stage.
        taken: steps that were taken before counting began.
    """

    def factor(counted: int) -> float:
        step = taken + counted
        if step < schedule.warmup_steps:
            return step / schedule.warmup_steps
        progress = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
        shapes = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
        return max(0.0, shapes[schedule.name])

    return factor
