"""Optimizers with states in 8 bits: bitsandbytes' own steps, and a state that a checkpoint gives back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import nn

from myosotis.measure import training_bytes
from myosotis.optimizers import make_optimizer, optimizer_state, restore_optimizer
from myosotis.ranks import ALONE
from myosotis.schema import OptimizerConfig

KINDS = {
    "adamw_8bit": bitsandbytes.optim.AdamW8bit,
    "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
}


def layer() -> nn.Linear:
    """Make a layer with a weight that is large enough for 8 bits, and a bias that is not."""
    torch.manual_seed(0)
    return nn.Linear(64, 128)


def optimizer(name: str, module: nn.Module) -> torch.optim.Optimizer:
    groups = [{"params": list(module.parameters()), "lr": 0.01, "weight_decay": 0.1, "member": 0}]
    return make_optimizer(OptimizerConfig(name, 0.01, 0.1), groups, "32-true")


def step(module: nn.Module, made: torch.optim.Optimizer, seed: int) -> None:
    inputs = torch.randn(8, 64, generator=torch.Generator().manual_seed(seed))
    module(inputs).square().mean().backward()
    made.step()
    made.zero_grad()


@pytest.mark.parametrize("name", KINDS)
def test_steps_are_those_of_bitsandbytes(name: str) -> None:
    own, other = layer(), layer()
    ours, theirs = optimizer(name, own), KINDS[name](other.parameters(), lr=0.01, weight_decay=0.1)
    assert type(ours) is KINDS[name]
    for seed in range(3):
        step(own, ours, seed)
        step(other, theirs, seed)
    torch.testing.assert_close(own.weight, other.weight, rtol=0, atol=0)
    assert ours.state[own.weight]["state1"].dtype == torch.uint8
    assert ours.state[own.bias]["state1"].dtype == torch.float32


@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_gives_the_state_back(name: str) -> None:
    whole, before, after = layer(), layer(), layer()
    made = optimizer(name, whole)
    for seed in range(4):
        step(whole, made, seed)
    first = optimizer(name, before)
    step(before, first, 0)
    step(before, first, 1)
    member: Any = SimpleNamespace(
        trained=SimpleNamespace(trainable=lambda: dict(before.named_parameters())), ranks=ALONE
    )
    state = optimizer_state(first, member)
    after.load_state_dict(before.state_dict())
    second = optimizer(name, after)
    going_on: Any = SimpleNamespace(
        trained=SimpleNamespace(trainable=lambda: dict(after.named_parameters())), optimizer_state=state
    )
    restore_optimizer(second, going_on)
    step(after, second, 2)
    step(after, second, 3)
    torch.testing.assert_close(after.weight, whole.weight, rtol=0, atol=0)
    torch.testing.assert_close(after.bias, whole.bias, rtol=0, atol=0)


def test_states_take_a_quarter() -> None:
    weights = [nn.Parameter(torch.zeros(1000))]
    gradients = 4000
    assert training_bytes(weights, "adamw") - gradients == 8000
    assert training_bytes(weights, "adamw_8bit") - gradients == 2000
