"""One forward pass for the rows of several trials."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from myosotis.batches import Group, MixedBatch
from myosotis.evaluation import Runtime, base_logits, evaluating, predict_batch
from myosotis.interfaces import Batch, Columns, Example, Model, Task
from myosotis.stacking import Stack


@dataclass(frozen=True)
class JointForward:
    """Runs each trial's rows through its own module, or through the stack of all where there is one.

    Attributes:
        modules: each trial's own module.
        stack: the trials' modules on one base; None where one trial trains alone.
    """

    modules: Sequence[nn.Module]
    stack: Stack | None

    @property
    def called(self) -> nn.Module:
        """The module that rows are run through."""
        return self.modules[0] if self.stack is None else self.stack.module

    def outputs(self, batches: Sequence[tuple[int, MixedBatch]]) -> list[list[Any]]:
        """Give, for each pair of a trial's index and its batch, the outputs of the batch's groups."""
        if self.stack is None:
            return [
                [group.objective.forward(self.modules[trial], group.batch) for group in batch.groups]
                for trial, batch in batches
            ]
        outputs: list[list[Any]] = [[None] * len(batch.groups) for _, batch in batches]
        for alike in _alike(batches).values():
            sizes = [0] * len(self.modules)
            for place, _, group in alike:
                sizes[batches[place][0]] = len(group.rows)
            whole = self._forward([group for _, _, group in alike], sizes)
            parts = divided(whole, [len(group.rows) for _, _, group in alike])
            for (place, number, _), part in zip(alike, parts, strict=True):
                outputs[place][number] = part
        return outputs

    def _forward(self, groups: Sequence[Group], sizes: Sequence[int]) -> Any:
        assert self.stack is not None
        with self.stack.rows(sizes):
            return groups[0].objective.forward(self.stack.module, merged([group.batch for group in groups]))


def _alike(batches: Sequence[tuple[int, MixedBatch]]) -> dict[Hashable, list[tuple[int, int, Group]]]:
    """Gather the groups that can be one batch: one objective, one shape; in the order of the trials."""
    found: dict[Hashable, list[tuple[int, int, Group]]] = {}
    for place, (_, batch) in enumerate(batches):
        for number, group in enumerate(batch.groups):
            shapes = tuple((name, value.shape[1:], value.dtype) for name, value in group.batch.items())
            found.setdefault((group.objective, shapes), []).append((place, number, group))
    return found


def merged(batches: Sequence[Batch]) -> Batch:
    """Put the rows of several batches into one."""
    if len(batches) == 1:
        return batches[0]
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def divided(output: Any, sizes: Sequence[int]) -> list[Any]:
    """Divide a joint output by its rows.

    Raises:
        ValueError: a tensor of the output has no dimension of rows.
    """
    if len(sizes) == 1:
        return [output]
    total = sum(sizes)
    # Split at once: the gradient of a slice would be as large as the whole, once for every trial.
    splits: dict[int, tuple[Tensor, ...]] = {}

    def part(value: Tensor, number: int) -> Tensor:
        if value.ndim == 0 or value.shape[0] % total:
            raise ValueError(
                f"every tensor that a forward pass gives must have rows first, {total} or a multiple, "
                f"but one has the shape {list(value.shape)}"
            )
        if id(value) not in splits:
            each = value.shape[0] // total
            splits[id(value)] = torch.split(value, [each * size for size in sizes])
        return splits[id(value)][number]

    return [apply_to_collection(output, Tensor, part, number=number) for number in range(len(sizes))]


def predict_together(
    task: Task,
    examples: Sequence[Example],
    stack: Stack,
    trials: int,
    model: Model,
    batch_size: int,
    runtime: Runtime,
    base: nn.Module | None,
) -> list[Columns]:
    """Predict the same examples by every trial of a stack; give each trial's columns.

    Args:
        task: what is predicted.
        examples: the examples, of all trials alike.
        stack: the trials' modules.
        trials: how many they are.
        model: whose tokenizer is used.
        batch_size: rows of all trials in one forward pass; at least one example of each.
        runtime: where to compute.
        base: the untouched base, which runs once for all trials where a metric compares with it; else None.
    """
    chunk = max(1, batch_size // trials)
    parts = []
    with evaluating(stack.module), runtime.forward():
        for start in range(0, len(examples), chunk):
            batch = [examples[index] for index in range(start, min(start + chunk, len(examples)))]
            wanted = list(base_logits(task, base, batch, model))
            with stack.rows([len(batch)] * trials):
                columns = predict_batch(task, stack.module, batch * trials, model, wanted * trials)
            parts.append({name: np.split(column, trials) for name, column in columns.items()})
    return [
        {name: np.concatenate([part[name][trial] for part in parts]) for name in parts[0]}
        for trial in range(trials)
    ]
