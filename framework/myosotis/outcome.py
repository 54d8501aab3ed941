"""What a finished trial tells: its columns, its headline, what its methods keep."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from myosotis import forgetting
from myosotis.adaptation import Adapted
from myosotis.interfaces import Method
from myosotis.ledger import Score
from myosotis.resolve import TrialConfig
from myosotis.stacking import Branch


def kept_bytes(method: Method) -> int:
    """Measure what a method keeps, as a checkpoint holds it."""
    state = method.state_dict()
    if not state:
        return 0
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.tell()


def resting_bytes(adapted: Adapted, branch: Branch) -> int:
    """Measure what methods have added to the base that trained in an earlier stage and rests now."""
    base = {id(tensor) for snapshot in branch.before.values() for tensor in snapshot.tensors.values()}
    return sum(
        each.numel() * each.element_size()
        for each in adapted.ever_trainable().values()
        if not each.requires_grad and id(each) not in base
    )


def columns(config: TrialConfig) -> list[dict[str, Any]]:
    """Describe the columns of the score matrix."""
    return [
        {
            "task": task.name,
            "role": task.role,
            "metric": task.metric,
            "higher_is_better": task.metrics[task.metric].higher_is_better,
        }
        for task in config.tasks.values()
    ]


def last_trained(config: TrialConfig) -> dict[str, int]:
    """Give for each column of the score matrix the last stage that trains it; 0 where none does."""
    return {
        task: max((stage.index for stage in config.stages if task in stage.tasks), default=0)
        for task in config.tasks
    }


def headline(config: TrialConfig, scores: Sequence[Score]) -> dict[str, Any]:
    """Compute learned, forgotten and forgotten_base from a trial's scores at its stages' ends."""
    tasks = list(config.tasks.values())
    matrix = np.full((len(config.stages) + 1, len(tasks)), math.nan)
    for each in scores:
        for column, task in enumerate(tasks):
            if (each.task, each.metric) == (task.name, task.metric):
                matrix[each.stage, column] = each.value  # a stage's last row is its end
    oriented = forgetting.oriented(matrix, [task.metrics[task.metric].higher_is_better for task in tasks])
    last = [*last_trained(config).values()]
    metrics = [task.metric for task in tasks]
    trained = {task.metric for task, stage in zip(tasks, last, strict=True) if stage}
    return {
        "learned": forgetting.learned(oriented, last, metrics),
        "forgotten": forgetting.forgotten(oriented, last, metrics),
        "forgotten_base": forgetting.forgotten_base(oriented, last, metrics),
        "metric": trained.pop() if len(trained) == 1 else None,
    }


def headline_so_far(config: TrialConfig, scores: Sequence[Score]) -> dict[str, float]:
    """Compute the headline as if the trial ended with its latest evaluation; nothing of the base's row alone.

    Tasks that are still to be trained are left out: they are no probes.
    """
    at = max((each.stage for each in scores), default=0)
    if at == 0:
        return {}
    later = {task for stage in config.stages[at:] for task in stage.tasks}
    later -= {task for stage in config.stages[:at] for task in stage.tasks}
    tasks = {name: task for name, task in config.tasks.items() if name not in later}
    found = headline(replace(config, tasks=tasks, stages=config.stages[:at]), scores)
    return {name: found[name] for name in ("learned", "forgotten", "forgotten_base")}
