"""What a method's parameter groups become in the optimizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from myosotis.adaptation import adapt
from myosotis.batches import BatchLoader
from myosotis.curriculum import MixtureSampler
from myosotis.interfaces import Context, Method
from myosotis.joint import JointForward
from myosotis.member import Member
from myosotis.schema import OptimizerConfig, ScheduleConfig
from myosotis.testing.rehearsal import Rehearsal
from myosotis.training import StageModule
from myosotis.trial import start_context
from tests import toy


class Given(Method):
    """The groups that it is given."""

    def parameter_groups(self, module: nn.Module, context: Context) -> list[dict[str, Any]] | None:
        first, second, third, fourth = module.parameters()
        return [
            {"params": [first]},
            {"params": [second], "scale": 0.25},
            {"params": [third], "lr": 3.0},
            {"params": [fourth], "weight_decay": 0.5, "scale": 0.5},
        ]


def optimizer(method: Method, tmp_path: Path) -> torch.optim.Optimizer:
    config = Rehearsal(tmp_path, toy.ToyModel(), {}, method).config()
    model = config.model.load([])
    context = start_context(config, model, frozenset(), outline=False)
    adapted = adapt(model, config.methods, context, trains=True)
    settings = OptimizerConfig(learning_rate=0.2, weight_decay=0.1)
    loader = BatchLoader([], MixtureSampler([], 1, 1, seed=0), model)
    member = Member(
        adapted, config.methods, replace(context, steps=1), loader, config.trainer, settings, ScheduleConfig()
    )
    module = StageModule([member], JointForward([adapted.model.module], None))
    made = module.configure_optimizers()
    assert isinstance(made, dict)
    found = made["optimizer"]
    assert isinstance(found, torch.optim.Optimizer)
    return found


def test_a_scale_multiplies_the_learning_rate(tmp_path: Path) -> None:
    groups = optimizer(Given(), tmp_path).param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.2, 0.05, 3.0, 0.1])
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.1, 0.5]


def test_without_a_method_that_gives_some_there_is_one_group(tmp_path: Path) -> None:
    (group,) = optimizer(toy.Plain(), tmp_path).param_groups
    assert (group["lr"], len(group["params"])) == (0.2, 4)
