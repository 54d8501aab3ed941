"""O-LoRA's penalty is that of the released code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Method, Model, Share, Stage
from myosotis.testing import MethodTestSuite
from myosotis_plugins.methods.inc_lora import IncLoRA
from myosotis_plugins.methods.olora import OLoRA
from tests.plugins import tiny

STAGES = tuple(Stage(index, {"poem": Share(1, 1)}) for index in (1, 2, 3))


class TestOLoRA(tiny.OnLlama):
    def make(self) -> Method:
        return OLoRA(rank=2, decay=0.1)


class TestOLoRAOnLinearLayers(MethodTestSuite):
    def make(self) -> Method:
        return OLoRA(rank=2)

    def make_neutral(self) -> Method:
        return OLoRA(rank=2, orthogonality=0)

    def neutral_reference(self) -> Method:
        return IncLoRA(rank=2)


def begun(method: OLoRA, stage: int) -> Any:
    model = tiny.model()
    context = replace(tiny.context(model), stages=STAGES)
    module = method.adapt(model, context)
    method.begin_stage(STAGES[stage - 1], replace(context, model=Model(module)))
    return module


def halves(module: Any, half: str, stage: int) -> Iterator[tuple[str, Tensor]]:
    for name, each in module.named_parameters():
        if name.endswith(f"lora_{half}.stage{stage}.weight"):
            yield name.partition(".lora_")[0], each


def penalty(method: OLoRA, module: Any) -> Tensor | None:
    return method.penalty(module, {}, None, tiny.context(tiny.model()))


def test_it_is_zero_on_orthogonal_subspaces() -> None:
    method = OLoRA(rank=2)
    module = begun(method, 3)
    with torch.no_grad():
        for stage in (1, 2, 3):
            for _, weight in halves(module, "A", stage):
                weight.copy_(torch.eye(weight.shape[1])[2 * stage - 2 : 2 * stage])
    found = penalty(method, module)
    assert found is not None
    assert found.item() == 0


def test_it_is_the_sum_of_the_products_absolute_values_and_the_norms() -> None:
    method = OLoRA(rank=2, orthogonality=0.3, decay=0.7)
    module = begun(method, 3)
    with torch.no_grad():
        for _, weight in halves(module, "B", 3):
            weight.normal_()
    values = {
        (half, stage): {
            name: weight.detach().double().numpy() for name, weight in halves(module, half, stage)
        }
        for half in "AB"
        for stage in (1, 2, 3)
    }
    products = sum(
        np.abs(values["A", earlier][name] @ new.T).sum()
        for earlier in (1, 2)
        for name, new in values["A", 3].items()
    )
    norms = sum(np.sqrt((each**2).sum()) for half in "AB" for each in values[half, 3].values())
    found = penalty(method, module)
    assert found is not None
    assert len(values["A", 3]) == 7 * tiny.BLOCKS
    assert found.item() == pytest.approx(0.3 * products + 0.7 * norms, rel=1e-5)


def test_its_gradient_goes_to_the_new_adapter_alone() -> None:
    method = OLoRA(rank=2)
    module = begun(method, 2)
    found = penalty(method, module)
    assert found is not None
    found.backward()
    moved = {name for name, each in module.named_parameters() if each.grad is not None and each.grad.any()}
    assert moved
    assert all(name.endswith("lora_A.stage2.weight") for name in moved)


def test_the_gradient_of_a_norm_at_zero_is_zero() -> None:
    """Every B begins at zero."""
    method = OLoRA(rank=2, decay=1.0)
    module = begun(method, 1)
    found = penalty(method, module)
    assert found is not None
    found.backward()
    gradients = [weight.grad for _, weight in halves(module, "B", 1)]
    assert gradients
    assert all(each is not None and not each.any() for each in gradients)


def test_the_first_stage_has_nothing_to_be_orthogonal_to() -> None:
    method = OLoRA(rank=2)
    assert penalty(method, begun(method, 1)) is None


def test_training_makes_the_subspaces_more_orthogonal(llama_folder: Path, tmp_path: Path) -> None:
    """Against the same trial without the term; both start alike."""

    def overlap(orthogonality: float) -> float:
        method = OLoRA(rank=2, orthogonality=orthogonality)
        tiny.losses(
            tmp_path / f"trial {orthogonality}",
            tiny.factory(llama_folder),
            tiny.text_task("poem", tiny.POEM),
            {"olora": method},
            steps=15,
            stages=STAGES[:2],
        )
        pairs = [
            (layer.lora_A["stage1"].weight, layer.lora_A["stage2"].weight)
            for layer in method.adapters.layers()
        ]
        return sum((one @ other.T).abs().sum().item() for one, other in pairs)

    assert overlap(0.5) < 0.7 * overlap(0)


@pytest.mark.parametrize("name", ["orthogonality", "decay"])
def test_negative_strengths_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be at least 0, but got -1"):
        OLoRA(**{name: -1})  # type: ignore[arg-type]
