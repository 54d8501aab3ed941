"""A fine-tune loaded onto its base predicts what it predicted before it was saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaForCausalLM

from myosotis.errors import ModelError
from myosotis.interfaces import Method, Stage
from myosotis_plugins.methods.adapters import Adapters
from myosotis_plugins.methods.dora import DoRA
from myosotis_plugins.methods.finetuned import Finetuned
from myosotis_plugins.methods.ia3 import IA3
from myosotis_plugins.methods.inc_lora import IncLoRA
from myosotis_plugins.methods.prefix import Prefix
from myosotis_plugins.methods.prompt import Prompt
from tests.plugins import tiny

IDS = torch.tensor([[5, 17, 99, 4, 210, 33]])


def logits(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(input_ids=IDS).logits


@pytest.fixture(scope="module")
def adapter(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter whose B is not zero."""
    folder = tmp_path_factory.mktemp("tuned") / "adapter"
    torch.manual_seed(1)
    config = LoraConfig(
        r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    tuned = get_peft_model(LlamaForCausalLM.from_pretrained(llama_folder), config)
    tuned.save_pretrained(folder)
    torch.save(logits(tuned), folder / "expected.logits")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.llama(seed=7), tmp_path_factory.mktemp("tuned") / "whole")


class ChangesBase(tiny.OnLlama):
    @pytest.fixture(autouse=True)
    def _tuned(self, adapter: Path, whole: Path) -> None:
        self.adapter, self.whole = adapter, whole


class TestAdapter(ChangesBase):
    def make(self) -> Method:
        return Finetuned(str(self.adapter))


class TestWholeWeights(ChangesBase):
    def make(self) -> Method:
        return Finetuned(str(self.whole))


def test_an_adapter_gives_the_tuned_predictions(llama_folder: Path, adapter: Path) -> None:
    model = tiny.factory(llama_folder).load([])
    base = logits(model.module)
    tuned = logits(Finetuned(str(adapter)).adapt(model, tiny.context(model)))
    assert torch.equal(tuned, torch.load(adapter / "expected.logits"))
    assert not torch.allclose(tuned, base, atol=1e-2)


@pytest.mark.parametrize(
    "kind", [Adapters, DoRA, IA3, IncLoRA, Prefix, Prompt], ids=lambda kind: kind.__name__
)
def test_what_a_method_saves_gives_its_predictions(
    kind: Callable[[], Method], llama_folder: Path, tmp_path: Path
) -> None:
    factory = tiny.factory(llama_folder)
    stages = tuple(Stage(index, {}) for index in (1, 2))
    base = factory.load([])
    module = kind().adapt(base, replace(tiny.context(base), stages=stages))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    factory.save(replace(base, module=module), tmp_path)
    fresh = factory.load([])
    tuned = Finetuned(str(tmp_path)).adapt(fresh, tiny.context(fresh))
    torch.testing.assert_close(logits(tuned), logits(module), rtol=1e-4, atol=1e-5)
    assert (logits(module) - logits(factory.load([]).module)).abs().max() > 1e-3


def test_whole_weights_give_the_tuned_predictions(llama_folder: Path, whole: Path) -> None:
    model = tiny.factory(llama_folder).load([])
    adapted = Finetuned(str(whole)).adapt(model, tiny.context(model))
    assert torch.equal(logits(adapted), logits(tiny.llama(seed=7)))


def test_whole_weights_keep_the_bases_parameters(llama_folder: Path, whole: Path) -> None:
    """So that what another method freezes of them stays frozen."""
    model = tiny.factory(llama_folder).load([])
    own = {name: id(parameter) for name, parameter in model.module.named_parameters()}
    adapted = Finetuned(str(whole)).adapt(model, tiny.context(model))
    assert {name: id(parameter) for name, parameter in adapted.named_parameters()} == own


def test_weights_of_another_shape_are_refused(llama_folder: Path, tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama(width=24), tmp_path / "wide")
    model = tiny.factory(llama_folder).outline([])
    with pytest.raises(ModelError, match=r"must have the shape \[257, 16\].*but has \[257, 24\]"):
        Finetuned(str(folder)).adapt(model, tiny.context(model))


def test_an_adapter_of_another_shape_is_refused(adapter: Path) -> None:
    model = tiny.model(tiny.llama(width=24))
    with pytest.raises(ModelError, match="does not fit the model"):
        Finetuned(str(adapter)).adapt(model, tiny.context(model))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="but there is no"):
        Finetuned(str(tmp_path / "nowhere"))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no weights"):
        Finetuned(str(tmp_path))


def test_its_fingerprint_is_that_of_the_weights(whole: Path, adapter: Path) -> None:
    assert Finetuned(str(whole)).fingerprint() == Finetuned(str(whole)).fingerprint()
    assert Finetuned(str(whole)).fingerprint() != Finetuned(str(adapter)).fingerprint()


def test_its_fingerprint_follows_an_adapters_scale(adapter: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    assert Finetuned(str(copied)).fingerprint() == Finetuned(str(adapter)).fingerprint()
    settings = json.loads((copied / "adapter_config.json").read_text())
    (copied / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 99}))
    assert Finetuned(str(copied)).fingerprint() != Finetuned(str(adapter)).fingerprint()


def test_whole_weights_do_not_go_into_a_quantized_base(tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama(width=64, blocks=1), tmp_path / "wide")
    model = tiny.factory(folder, "8bit").load([])
    with pytest.raises(ModelError, match="must go into a base that is not quantized"):
        Finetuned(str(folder)).adapt(model, tiny.context(model))
