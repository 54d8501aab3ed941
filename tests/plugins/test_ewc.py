"""Elastic weight consolidation, against closed forms on softmax regression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Method, Rows, Share, Split, Stage, Task
from myosotis.testing import MethodTestSuite, TinyTask, make_task, refusal, tiny_tasks
from myosotis_plugins.methods.adapter_per_task import AdapterPerTask
from myosotis_plugins.methods.ewc import EWC
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.inc_lora import IncLoRA
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.olora import OLoRA
from myosotis_plugins.methods.replay import Replay
from tests.plugins import linear, tiny

ALL = 1000
"""More examples than there are rows."""


class TestEWC(MethodTestSuite):
    def make(self) -> Method:
        return EWC(strength=10, examples=6)

    def make_neutral(self) -> Method:
        return EWC(strength=0)


class TestOnlineEWC(MethodTestSuite):
    def make(self) -> Method:
        return EWC(strength=10, examples=6, online=True, decay=0.5)


class ZeroFeature(TinyTask):
    """Points whose first coordinate is 0, so that its weights matter to no loss."""

    def split(self, name: Split) -> Rows | None:
        rows: Any = super().split(name)
        return rows and [{**row, "features": row["features"] * [0, 1, 1, 1]} for row in rows]


def zero_feature_tasks() -> dict[str, Task]:
    parts = tiny_tasks()["first"]
    return {
        name: make_task(name, ZeroFeature(seed), parts.objective, parts.metrics)
        for seed, name in enumerate(("first", "second", "third"))
    }


def module(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(linear.FEATURES, linear.CLASSES)


def value(method: EWC, of: nn.Module) -> torch.Tensor:
    """Give the penalty, which looks at nothing but the module."""
    found = method.penalty(of, {}, None, linear.context(of))
    assert found is not None
    return found


def test_fisher_information_is_the_closed_form() -> None:
    method, of = EWC(examples=ALL), module()
    context = linear.context(of)
    method.end_stage(context.stage, context)
    wanted = linear.fisher(linear.numbers(of), context.tasks["first"])
    assert set(method.importance) == set(wanted)
    for name, found in method.importance.items():
        np.testing.assert_allclose(found, wanted[name], rtol=1e-4)


def test_it_does_not_depend_on_the_batch_size() -> None:
    found = []
    for batch_size in (1, 3, 24):
        method, of = EWC(examples=ALL), module()
        context = linear.context(of, batch_size=batch_size)
        method.end_stage(context.stage, context)
        found.append(linear.flat(method.importance))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    task = linear.context(module()).tasks["first"]
    mean = linear.loss_gradients(linear.numbers(module()), *linear.points(task)).mean(axis=0)
    squared_mean = linear.flat(linear.split(mean**2))
    assert found[0].sum() > 2 * squared_mean.sum()  # the square of a mean is another thing


def test_it_is_measured_on_so_many_examples_of_the_stages_own() -> None:
    method, of = EWC(examples=5), module()
    context = linear.context(of, mixed=["second"])
    rows: list[Any] = []

    def made(kept: Any) -> Any:
        rows.extend(kept)
        assert len(kept) == 1
        return context.make_batch(kept)

    seen = replace(context, make_batch=made)
    method.end_stage(seen.stage, seen)
    assert [task for task, _ in rows] == ["first"] * 5
    features = np.array([example["features"] for _, example in rows])
    assert len(np.unique(features, axis=0)) == 5
    labels = np.eye(linear.CLASSES)[[example["label"] for _, example in rows]]
    squares = linear.loss_gradients(linear.numbers(of), features, labels) ** 2
    np.testing.assert_allclose(
        linear.flat(method.importance), linear.flat(linear.split(squares.mean(axis=0))), rtol=1e-4
    )


def test_the_measure_is_without_dropout() -> None:
    torch.manual_seed(0)
    of = nn.Sequential(nn.Dropout(0.9), nn.Linear(linear.FEATURES, linear.CLASSES)).train()
    method = EWC(examples=ALL)
    context = linear.context(of)
    method.end_stage(context.stage, context)
    plain = {name.removeprefix("1."): each for name, each in linear.numbers(of).items()}
    wanted = linear.fisher(plain, context.tasks["first"])
    found = {name.removeprefix("1."): each for name, each in method.importance.items()}
    np.testing.assert_allclose(linear.flat(found), linear.flat(wanted), rtol=1e-4)
    assert of.training


def test_there_is_none_before_the_first_stage_has_ended() -> None:
    assert EWC().penalty(module(), {}, None, linear.context(module())) is None


def test_penalty_and_gradient_are_the_closed_form() -> None:
    method, of = EWC(strength=6, examples=ALL), module()
    context = linear.context(of)
    method.end_stage(context.stage, context)
    assert value(method, of).item() == 0
    anchor = linear.numbers(of)
    importance = linear.fisher(anchor, context.tasks["first"])
    with torch.no_grad():
        for parameter in of.parameters():
            parameter += torch.randn_like(parameter)
    moved = linear.numbers(of)
    distances = {name: moved[name] - anchor[name] for name in anchor}
    found = value(method, of)
    wanted = 6 / 2 * sum(float((importance[name] * distances[name] ** 2).sum()) for name in anchor)
    assert found.item() == pytest.approx(wanted, rel=1e-4)
    found.backward()  # type: ignore[no-untyped-call]
    for name, parameter in of.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad, 6 * importance[name] * distances[name], rtol=1e-3)


def test_the_gradient_is_that_of_finite_differences() -> None:
    method, of = EWC(strength=3, examples=ALL), module()
    context = linear.context(of)
    method.end_stage(context.stage, context)
    of.double()
    with torch.no_grad():
        for parameter in of.parameters():
            parameter += 0.5
    assert torch.autograd.gradcheck(
        lambda weight: torch.func.functional_call(Penalty(method, of), {"of.weight": weight}, ()),
        of.weight.detach().clone().requires_grad_(),
    )


class Penalty(nn.Module):
    """The penalty as a function of its module's parameters."""

    def __init__(self, method: EWC, of: nn.Module) -> None:
        super().__init__()
        self.method = method
        self.of = of

    def forward(self) -> torch.Tensor:
        return value(self.method, self.of)


def three_stages(method: EWC) -> tuple[nn.Linear, list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """Go through three stages; give the module, and each stage's Fisher information and values, from NumPy."""
    tasks, of = zero_feature_tasks(), module()
    importances, anchors = [], []
    for index, (name, task) in enumerate(tasks.items(), 1):
        with torch.no_grad():
            for parameter in of.parameters():
                parameter += 0.5 * torch.randn_like(parameter)
        context = linear.context(of, Stage(index, {name: Share(1, 1)}), tasks)
        method.end_stage(context.stage, context)
        anchors.append(linear.numbers(of))
        importances.append(linear.fisher(anchors[-1], task))
    with torch.no_grad():
        for parameter in of.parameters():
            parameter += torch.randn_like(parameter)
    return of, importances, anchors


def test_one_quadratic_is_the_sum_over_stages() -> None:
    method = EWC(strength=2, examples=ALL)
    of, importances, anchors = three_stages(method)
    now = linear.numbers(of)
    wanted = sum(
        float((importance[name] * (now[name] - anchor[name]) ** 2).sum())
        for importance, anchor in zip(importances, anchors, strict=True)
        for name in now
    )
    found = value(method, of)
    assert found.item() == pytest.approx(wanted, rel=1e-4)
    found.backward()  # type: ignore[no-untyped-call]
    for name, parameter in of.named_parameters():
        gradient = 2 * sum(
            importance[name] * (now[name] - anchor[name])
            for importance, anchor in zip(importances, anchors, strict=True)
        )
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
    assert (importances[0]["weight"][:, 0] == 0).all()  # so that 0 / 0 was asked


def test_online_keeps_one_fading_importance_and_the_last_values() -> None:
    method = EWC(strength=2, examples=ALL, online=True, decay=0.7)
    of, importances, anchors = three_stages(method)
    now = linear.numbers(of)
    wanted = 0.0
    for name in now:
        importance = 0.7 * (0.7 * importances[0][name] + importances[1][name]) + importances[2][name]
        wanted += float((importance * (now[name] - anchors[2][name]) ** 2).sum())
    assert value(method, of).item() == pytest.approx(wanted, rel=1e-4)


def test_it_is_in_the_loss_that_a_trial_trains_on(tmp_path: Path) -> None:
    task, steps = tiny_tasks()["first"], 5
    moments: list[dict[str, np.ndarray]] = []
    witness = linear.Witness(see=lambda of, batch, outputs, context: moments.append(linear.numbers(of)))
    log = linear.train(
        tmp_path / "trial", {"ewc": EWC(strength=50, examples=ALL), "witness": witness}, max_steps=steps
    )
    anchor = moments[steps]  # where the second stage begins
    importance = linear.fisher(anchor, task)
    penalties = [
        50 / 2 * sum(float((importance[name] * (now[name] - anchor[name]) ** 2).sum()) for name in anchor)
        for now in moments[steps:]
    ]
    assert [entry["stage"] for entry in log] == [1] * steps + [2] * steps
    assert "penalty/ewc" not in log[0]
    np.testing.assert_allclose(
        [entry["penalty/ewc"] for entry in log[steps:]], penalties, rtol=1e-3, atol=1e-7
    )
    np.testing.assert_allclose(
        [entry["loss"] for entry in log],
        np.array(witness.losses) + np.array([0.0] * steps + penalties),
        rtol=1e-5,
    )
    assert penalties[-1] > 0.01


def test_only_what_trains_is_held(llama_folder: Path, tmp_path: Path) -> None:
    lora = EWC(examples=2)
    linear.train(
        tmp_path / "lora",
        {"lora": LoRA(rank=2), "ewc": lora, "replay": Replay(share=0.25, buffer=2)},
        tiny.factory(llama_folder),
        tiny.text_tasks(),
        max_steps=2,
        precision="bf16-mixed",
    )
    assert lora.importance
    assert all("lora_" in name for name in lora.importance)
    freeze = EWC(examples=2)
    linear.train(
        tmp_path / "freeze",
        {"freeze": Freeze(first=2), "ewc": freeze},
        tiny.factory(llama_folder),
        tiny.text_tasks(),
        max_steps=2,
    )
    assert {name.split(".")[2] for name in freeze.importance if "layers" in name} == {"2"}
    assert all((each >= 0).all() for each in freeze.importance.values())
    assert sum(float(each.sum()) for each in freeze.importance.values()) > 0


@pytest.mark.parametrize("method", [IncLoRA, OLoRA, AdapterPerTask])
def test_adapters_that_the_next_stage_does_not_train_are_refused(
    method: type[Method], llama_folder: Path, tmp_path: Path
) -> None:
    reason = refusal(
        lambda: {"stages": method(rank=2), "ewc": EWC()},  # type: ignore[call-arg]
        tmp_path / "trial",
        tiny.factory(llama_folder),
        tiny.text_tasks(),
    )
    assert reason is not None
    assert "every stage must train the same parameters" in reason


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"strength": -1}, "strength must be at least 0, but got -1"),
        ({"examples": 0}, "examples must be at least 1, but got 0"),
        ({"decay": 1.5}, "decay must be from 0 to 1, but got 1.5"),
    ],
)
def test_values_out_of_range_are_refused(parameters: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EWC(**parameters)
