"""Every stage trains its own adapter on top of the earlier ones, which keep their bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Model, Share, Stage
from myosotis.stacking import Branch, obstacle
from myosotis.testing import MethodTestSuite
from myosotis.testing.rehearsal import After, Rehearsal
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.inc_lora import IncLoRA
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.olora import OLoRA
from myosotis_plugins.methods.replay import Replay
from tests.plugins import tiny
from tests.plugins.test_lora import logits, trained

METHODS = {"inc_lora": IncLoRA, "olora": OLoRA}
STAGES = tuple(Stage(index, {task: Share(1, 1)}) for index, task in enumerate(("poem", "prose", "poem"), 1))


class TestIncLoRA(tiny.OnLlama):
    def make(self) -> Method:
        return IncLoRA(rank=2)


class TestIncLoRAOnLinearLayers(MethodTestSuite):
    def make(self) -> Method:
        return IncLoRA(rank=2, dropout=0.1)


class Seen(After):
    """Takes all adapters' values at the end of every stage, and what trains at its beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[dict[str, Tensor]] = []
        self.training: list[set[str]] = []

    def begin_stage(self, stage: Stage, context: Context) -> None:
        named = context.model.module.named_parameters()
        self.training.append({name.split(".")[-2] for name, each in named if each.requires_grad})

    def end_stage(self, stage: Stage, context: Context) -> None:
        named = context.model.module.named_parameters()
        self.values.append({name: each.detach().clone() for name, each in named})


def run(method: Method, folder: Path, into: Path, **others: Method) -> Seen:
    seen = Seen()
    rehearsal = Rehearsal(
        into / "trial",
        tiny.factory(folder),
        tiny.text_tasks(),
        method,
        stages=STAGES,
        others={**others, "seen": seen},
    )
    rehearsal.run()
    return seen


@pytest.mark.parametrize("name", METHODS)
def test_earlier_adapters_keep_their_bits(name: str, llama_folder: Path, tmp_path: Path) -> None:
    seen = run(METHODS[name](rank=2), llama_folder, tmp_path, replay=Replay(share=0.5))
    assert seen.training == [{"stage1"}, {"stage2"}, {"stage3"}]
    for before, (index, after) in zip(seen.values, enumerate(seen.values[1:], 2), strict=False):
        for key, value in after.items():
            moved = not torch.equal(value, before[key])
            assert moved == (f".stage{index}." in key), key


@pytest.mark.parametrize("name", METHODS)
def test_each_stage_begins_where_the_one_before_it_ended(name: str, llama_folder: Path) -> None:
    model = tiny.factory(llama_folder).load([])
    method = METHODS[name](rank=2)
    context = replace(tiny.context(model), stages=STAGES)
    module = method.adapt(model, context)
    for stage in STAGES:
        before = logits(module)
        method.begin_stage(stage, replace(context, model=Model(module)))
        assert torch.equal(logits(module), before)
        trained(module)
        assert not torch.allclose(logits(module), before, atol=1e-2)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_saved_is_one_adapter_with_the_same_predictions(
    name: str, llama_folder: Path, tmp_path: Path
) -> None:
    factory = tiny.factory(llama_folder)
    model = factory.load([])
    method = METHODS[name](rank=2, alpha=3)
    context = replace(tiny.context(model), stages=STAGES)
    module = trained(method.adapt(model, context))
    factory.save(Model(module), tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(factory.load([]).module, tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), logits(module), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(loaded), logits(factory.load([]).module), atol=1e-2)
    assert (loaded.peft_config["default"].r, list(loaded.peft_config)) == (6, ["default"])


@pytest.mark.parametrize("name", METHODS)
def test_they_share_a_forward_pass(name: str) -> None:
    branch = Branch(tiny.llama())
    model = Model(branch.module)
    adapted = METHODS[name]().adapt(model, replace(tiny.context(model), stages=STAGES))
    assert obstacle(branch, adapted) is None


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("quantization", ["8bit", "nf4"])
def test_learns_on_a_quantized_base_with_a_frozen_block(name: str, quantization: Any, tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama(width=64, blocks=2), tmp_path / "wide")
    losses, _ = tiny.losses(
        tmp_path / "trial",
        tiny.factory(folder, quantization),
        tiny.text_task("poem", tiny.POEM),
        {name: METHODS[name](rank=2), "freeze": Freeze(first=1)},
        steps=8,
        stages=(Stage(1, {"poem": Share(1, 1)}), Stage(2, {"poem": Share(1, 1)})),
    )
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("name", METHODS)
def test_parameters_are_float32_on_a_base_in_bfloat16(name: str) -> None:
    model = tiny.model(tiny.llama().to(torch.bfloat16))
    module: nn.Module = METHODS[name](rank=2).adapt(model, replace(tiny.context(model), stages=STAGES))
    assert {each.dtype for each in module.parameters() if each.requires_grad} == {torch.float32}
    assert logits(trained(module)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", METHODS)
def test_adapters_on_adapters_are_refused(name: str) -> None:
    for first, second in ((METHODS[name](), LoRA()), (LoRA(), METHODS[name]())):
        model = tiny.model()
        once = Model(first.adapt(model, tiny.context(model)))
        with pytest.raises(ConfigurationError, match="must go onto a base without adapters"):
            second.adapt(once, tiny.context(once))


@pytest.mark.parametrize("name", METHODS)
def test_values_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="rank must be at least 1, but got 0"):
        METHODS[name](rank=0)


@pytest.mark.parametrize("kind", list(METHODS))
def test_the_manifest_has_the_bytes_of_the_adapters_that_rest(
    kind: str, llama_folder: Path, tmp_path: Path
) -> None:
    run(METHODS[kind](rank=2), llama_folder, tmp_path)
    result = json.loads((tmp_path / "trial" / "result.json").read_text())
    manifest = json.loads((tmp_path / "trial" / "manifest.json").read_text())
    # Of three stages' adapters, in float32, two rest in the last stage.
    assert manifest["resting_bytes"] == 4 * result["trainable_parameters"] * 2 / 3
