"""The pull towards the starting point, against its closed form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Method
from myosotis.testing import MethodTestSuite
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.l2sp import L2SP
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.replay import Replay
from tests.plugins import linear, tiny

STEPS = 4


class TestL2SP(MethodTestSuite):
    def make(self) -> Method:
        return L2SP(strength=0.5)

    def make_neutral(self) -> Method:
        return L2SP(strength=0)


class TestL2SPToTheStage(MethodTestSuite):
    def make(self) -> Method:
        return L2SP(strength=0.5, anchor="stage")


def test_penalty_and_gradient_are_the_closed_form() -> None:
    torch.manual_seed(0)
    of = nn.Linear(4, 3)
    of.bias.requires_grad_(False)
    context = linear.context(of)
    method = L2SP(strength=6)
    method.begin_stage(context.stage, context)
    start = linear.numbers(of)
    with torch.no_grad():
        for parameter in of.parameters():
            parameter += torch.randn_like(parameter)
    distance = linear.numbers(of)["weight"] - start["weight"]  # the bias does not train
    found = method.penalty(of, {}, None, context)
    assert found is not None
    assert found.item() == pytest.approx(6 / 2 * float((distance**2).sum()), rel=1e-6)
    found.backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(of.weight.grad, 6 * distance, rtol=1e-5)  # type: ignore[arg-type]
    assert of.bias.grad is None


@pytest.mark.parametrize("anchor", ["base", "stage"])
def test_a_trial_is_pulled_to_where_it_says(tmp_path: Path, anchor: Literal["base", "stage"]) -> None:
    moments: list[np.ndarray] = []
    witness = linear.Witness(
        see=lambda of, batch, outputs, context: moments.append(linear.flat(linear.numbers(of)))
    )
    log = linear.train(
        tmp_path / "trial", {"l2sp": L2SP(strength=3, anchor=anchor), "witness": witness}, max_steps=STEPS
    )
    starts = [moments[0]] * STEPS + [moments[STEPS if anchor == "stage" else 0]] * STEPS
    wanted = [3 / 2 * ((now - start) ** 2).sum() for now, start in zip(moments, starts, strict=True)]
    np.testing.assert_allclose([entry["penalty/l2sp"] for entry in log], wanted, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(
        [entry["loss"] for entry in log], np.array(witness.losses) + np.array(wanted), rtol=1e-5
    )
    assert min(wanted[1:STEPS]) > 0


def test_what_trains_later_is_pulled_to_what_it_was() -> None:
    of = nn.Linear(4, 3)
    of.bias.requires_grad_(False)
    context = linear.context(of)
    method = L2SP(strength=2)
    method.begin_stage(context.stage, context)
    with torch.no_grad():
        of.weight += 1
    method.begin_stage(context.stage, context)
    of.bias.requires_grad_(True)  # by a method that begins the stage after this one
    found = method.penalty(of, {}, None, context)
    assert found is not None
    assert found.item() == pytest.approx(of.weight.numel(), rel=1e-5)


def test_it_goes_with_adapters_frozen_blocks_and_replay(llama_folder: Path, tmp_path: Path) -> None:
    trials: list[Mapping[str, Method]] = [
        {"lora": LoRA(rank=2), "l2sp": L2SP(1.0), "replay": Replay(share=0.25)},
        {"freeze": Freeze(first=2), "l2sp": L2SP(1.0)},
    ]
    for number, methods in enumerate(trials):
        log = linear.train(
            tmp_path / str(number),
            methods,
            tiny.factory(llama_folder),
            tiny.text_tasks(),
            max_steps=2,
            precision="bf16-mixed",
        )
        assert [entry["penalty/l2sp"] > 0 for entry in log] == [False, True, True, True]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"strength": -1}, "strength must be at least 0, but got -1"),
        ({"anchor": "end"}, "anchor must be base or stage, but got 'end'"),
    ],
)
def test_values_out_of_range_are_refused(parameters: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        L2SP(**parameters)
