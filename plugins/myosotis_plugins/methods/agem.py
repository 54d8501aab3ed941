"""Averaged gradient episodic memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Stage, TrainingRow
from myosotis_plugins.methods.memory import Reservoir, draw, plain, restored, stage_rows
from myosotis_plugins.methods.snapshots import training

MYOSOTIS_API = 1


class AGEM(Method):
    """Take no step that, to first order, raises the loss on a memory of the tasks of earlier stages.

    Where g · r < 0, g ← g − (g · r / r · r) r: the nearest gradient that does not oppose r, the gradient of the
    mean loss on rows drawn anew from the memory at each step; both of everything that the step moves, as one
    vector. Each task keeps rows of the first stage that trains it, a uniform sample. The paper steps by plain
    gradient descent; AdamW's running means, its scaling and weight decay may move against r all the same, and so
    does a method that drops gradients afterwards: name `freeze` with `unfreeze_every` before this one.

    Cost: from the second stage on, one forward and one backward pass of `batch_size` rows an optimizer step
    (at the weights' own precision, whatever `trainer.precision` is), and a second gradient in memory; at a
    stage's end a pass over its data without the model.

    Args:
        memory: rows that are kept of each task; 0 does nothing.
        batch_size: how many of all tasks' rows are drawn for r.
    """

    paper = "Chaudhry et al. 2019, Efficient Lifelong Learning with A-GEM, arXiv:1812.00420"
    stores = "rows of earlier tasks"

    def __init__(self, memory: int = 100, batch_size: int = 32) -> None:
        if memory < 0:
            raise ConfigurationError(f"memory must be at least 0 rows, but got {memory}")
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be at least 1 row, but got {batch_size}")
        self.memory = memory
        self.batch_size = batch_size
        self.rows: dict[str, list[TrainingRow]] = {}

    def after_backward(self, module: nn.Module, context: Context) -> None:
        """Take out of the gradient what opposes the memory's."""
        kept = [row for rows in self.rows.values() for row in rows]
        if not kept:
            return
        drawn = draw(kept, self.batch_size, context.generator)
        loss = context.training_loss(module, context.make_batch(drawn))
        moving = {each: each.grad for each in training(module).values() if each.grad is not None}
        reference = torch.autograd.grad(loss, list(moving), allow_unused=True, materialize_grads=True)
        along = _product(moving.values(), reference)
        if along >= 0:
            return
        factor = along / _product(reference, reference)
        for (each, gradient), other in zip(moving.items(), reference, strict=True):
            each.grad = gradient - factor * other

    def end_stage(self, stage: Stage, context: Context) -> None:
        """Keep rows of the tasks that were trained for the first time."""
        if self.memory == 0:
            return
        new = {task: Reservoir[TrainingRow](self.memory) for task in stage.tasks if task not in self.rows}
        for row in stage_rows(context):
            if row[0] in new:
                new[row[0]].offer(row, context.generator)
        self.rows |= {task: sample.items for task, sample in new.items()}

    def state_dict(self) -> dict[str, Any]:
        """Give the memory."""
        return {"rows": {task: [plain(example) for _, example in rows] for task, rows in self.rows.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.rows = {
            task: [(task, restored(example)) for example in examples]
            for task, examples in state["rows"].items()
        }


def _product(one: Iterable[Tensor], other: Iterable[Tensor]) -> Tensor:
    return torch.stack([(left * right).sum() for left, right in zip(one, other, strict=True)]).sum()


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"agem": AGEM}
