"""A toy method that trials can share a forward pass with, and one that does harm at a step of one's choice."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from myosotis import hookimpl
from myosotis.interfaces import Batch, Context, Loss, Method, Model, Task

MYOSOTIS_API = 1


class SideLayer(nn.Module):
    """A frozen layer, and a narrow path beside it."""

    def __init__(self, base: nn.Linear, width: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, width, bias=False)
        self.up = nn.Linear(width, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.base(inputs) + self.up(self.down(inputs))


class Side(Method):
    """Train narrow paths beside the frozen layers.

    Args:
        width: of the paths.
    """

    cohort_fields = frozenset({"width"})

    def __init__(self, width: int = 2) -> None:
        self.width = width

    def adapt(self, model: Model, context: Context) -> nn.Module:
        device = "meta" if context.outline else "cpu"
        for name, layer in list(model.module.named_children()):
            if isinstance(layer, nn.Linear):
                with torch.device(device):
                    setattr(model.module, name, SideLayer(layer, self.width))
        return model.module


class Hazard(Method):
    """Do harm once, at a step of the second stage.

    Args:
        harm: `kill` the process, `interrupt` it, `raise`, `exit`, run out of `memory`; `none` does nothing.
        step: when.
        once: a file that says that it is done; without one it is done every time.
        rank: in which of a trial's processes; in all where not given.
    """

    cohort_fields = frozenset({"harm", "step", "once"})

    def __init__(
        self, harm: str = "none", step: int = 6, once: str | None = None, rank: int | None = None
    ) -> None:
        self.harm = harm
        self.step = step
        self.once = once
        self.rank = rank

    def after_step(self, module: nn.Module, context: Context) -> None:
        if context.stage.index != 2 or context.step != self.step or self.harm == "none":
            return
        if self.rank is not None and os.environ.get("LOCAL_RANK") != str(self.rank):
            return
        if self.once is not None:
            if Path(self.once).exists():
                return
            Path(self.once).touch()
        if self.harm == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.harm == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            return
        raise {"raise": RuntimeError, "exit": SystemExit, "memory": MemoryError}[self.harm]("harm")


class Together(Method):
    """Raise where this trial's loss is computed, as a step that is taken together may.

    Args:
        fails: whether it does.
    """

    cohort_fields = frozenset({"fails"})

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        if self.fails and context.step == 3:
            raise ArithmeticError("no penalty")
        return None


class Unscored(Method):
    """Raise where this trial is to be evaluated within a stage.

    Args:
        fails: whether it does.
    """

    cohort_fields = frozenset({"fails"})

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def before_evaluation(self, task: Task, context: Context) -> None:
        if self.fails and context.step == 5:
            raise ArithmeticError("no score")


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    return {"side": Side, "hazard": Hazard, "together": Together, "unscored": Unscored}
