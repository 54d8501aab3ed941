"""The models between the base and the tuned one: the ends to the bit, the middle by weights merged elsewhere."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn

from myosotis.adaptation import adapt, frozen_names
from myosotis.cohort import run_trial
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Model, ModelFactory, Share, Stage
from myosotis.ledger import read_scores, read_variants
from myosotis.testing import MethodTestSuite
from myosotis.testing.rehearsal import Rehearsal, differences, registry_without_plugins
from myosotis.workspace import Workspace
from myosotis_plugins.methods.adapter_per_task import AdapterPerTask
from myosotis_plugins.methods.full import Full
from myosotis_plugins.methods.ia3 import IA3
from myosotis_plugins.methods.inc_lora import IncLoRA
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.wise_ft import WiSEFT
from tests.plugins import tiny

STAGES = (Stage(1, {"poem": Share(1, 1)}), Stage(2, {"prose": Share(1, 1)}))
IDS = torch.arange(40).reshape(2, 20)


class TestWiSEFT(MethodTestSuite):
    def make(self) -> Method:
        return WiSEFT([0.25, 0.75])

    def make_neutral(self) -> Method:
        return WiSEFT()


class TestWiSEFTOnLlama(tiny.OnLlama):
    def make(self) -> Method:
        return WiSEFT([0, 0.5, 1])


class Adapter(Method):
    """The adapter of a given configuration of PEFT's."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def adapt(self, model: Model, context: Context) -> nn.Module:
        adapted: nn.Module = get_peft_model(model.module, self.config)
        return adapted


def logits(module: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = module.eval()(input_ids=IDS).logits
    return found


def same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


def trained(method: WiSEFT, *others: Method) -> tuple[nn.Module, Context]:
    """Adapt, begin a stage, and move what trains."""
    model = tiny.model()
    methods: dict[str, Method] = {
        "wise_ft": method,
        **{str(index): each for index, each in enumerate(others)},
    }
    context = replace(tiny.context(model, frozen_names(model, methods)), stages=STAGES, stage=STAGES[0])
    adapted = adapt(model, methods, context, trains=True)
    context = replace(context, model=adapted.model)
    for each in methods.values():
        each.begin_stage(STAGES[0], context)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.trainable().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapted.model.module, context


def at(method: WiSEFT, module: nn.Module, context: Context) -> dict[str, Tensor]:
    """Give each variant's logits."""
    found = {}
    for name, opened in method.variants(module, context).items():
        with opened():
            found[name] = logits(module)
    return found


CASES: dict[str, tuple[Method, ...]] = {
    "whole weights": (),
    "lora": (LoRA(rank=2),),
    "lora with rslora": (LoRA(rank=2, rslora=True),),
    "ia3": (IA3(),),
}


@pytest.mark.parametrize("case", CASES)
def test_the_ends_are_the_base_and_the_tuned_model_to_the_bit(case: str) -> None:
    method = WiSEFT([1, 0, 0.5])
    module, context = trained(method, *CASES[case])
    tuned, before = logits(module), copy.deepcopy(module.state_dict())
    found = at(method, module, context)
    assert list(found) == ["alpha=1", "alpha=0", "alpha=0.5"]
    assert same_bits(found["alpha=0"], logits(tiny.llama()))
    assert same_bits(found["alpha=1"], tuned)
    assert (tuned - found["alpha=0"]).abs().max() > 0.1
    assert same_bits(logits(module), tuned)
    assert differences(before, module.state_dict()) == []


@pytest.mark.parametrize("case", CASES)
def test_between_the_ends_the_weights_are_interpolated(case: str) -> None:
    method = WiSEFT([0.3])
    module, context = trained(method, *CASES[case])
    found = at(method, module, context)["alpha=0.3"]
    # PEFT's own merging gives the tuned model as whole weights, whose mean with the base's is taken here.
    whole = copy.deepcopy(module)
    tuned = whole.merge_and_unload() if case != "whole weights" else whole  # type: ignore[operator]
    base = tiny.llama()
    ends = tuned.state_dict()
    base.load_state_dict(
        {name: 0.7 * value.double() + 0.3 * ends[name].double() for name, value in base.state_dict().items()}
    )
    torch.testing.assert_close(found, logits(base), rtol=0, atol=2e-5)
    assert (found - logits(module)).abs().max() > 1e-2


def test_what_trains_is_told_as_it_was_afterwards() -> None:
    method = WiSEFT([0, 0.5])
    module, context = trained(method, LoRA(rank=2))
    resting = next(each for each in module.parameters() if each.requires_grad)
    resting.requires_grad_(False)
    before = {name: each.requires_grad for name, each in module.named_parameters()}
    at(method, module, context)
    assert {name: each.requires_grad for name, each in module.named_parameters()} == before


def test_lora_keeps_nothing_and_whole_weights_one_copy() -> None:
    lora, whole = WiSEFT(), WiSEFT()
    trained(lora, LoRA(rank=2))
    module, _ = trained(whole)
    assert lora.state_dict() == {"start": {}}
    kept = whole.state_dict()["start"]
    assert sum(each.nbytes for each in kept.values()) == sum(each.nbytes for each in module.parameters())


def test_ten_steps_between_base_and_tuned_are_the_default() -> None:
    module, context = trained(method := WiSEFT(), LoRA(rank=2))
    assert list(method.variants(module, context)) == [
        f"alpha={alpha}"
        for alpha in ("0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1")
    ]


# In a trial


def finished(folder: Path, factory: ModelFactory, methods: Mapping[str, Method], seed: int = 0) -> Path:
    """Run a trial of two tasks."""
    rehearsal = Rehearsal(folder, factory, tiny.text_tasks(), Method(), seed=seed)
    config = replace(rehearsal.config(), methods=methods)
    run_trial(config, folder, "study", "trial", Workspace(folder.parent, registry_without_plugins()))
    return folder


TRAINED: dict[str, Callable[[], Method]] = {
    "full": Full,
    "lora": lambda: LoRA(rank=2),
    "ia3": IA3,
    "inc_lora": lambda: IncLoRA(rank=2),
    "adapter_per_task": lambda: AdapterPerTask(rank=2),
}


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("first", [True, False])
def test_a_trial_scores_the_way_and_is_otherwise_as_without(
    llama_folder: Path, tmp_path: Path, kind: str, first: bool
) -> None:
    factory, way_of_it = tiny.factory(llama_folder), {"wise_ft": WiSEFT([0, 0.5, 1])}
    plain = finished(tmp_path / "plain", factory, {kind: TRAINED[kind]()})
    methods = {kind: TRAINED[kind](), **way_of_it} if first else {**way_of_it, kind: TRAINED[kind]()}
    ours = finished(tmp_path / "ours", factory, methods)
    files = {path.relative_to(plain) for path in (plain / "adapter").rglob("*") if path.is_file()}
    assert files == {path.relative_to(ours) for path in (ours / "adapter").rglob("*") if path.is_file()}
    for name in files:
        assert (ours / name).read_bytes() == (plain / name).read_bytes()
    assert (ours / "scores.jsonl").read_bytes() == (plain / "scores.jsonl").read_bytes()
    scores = read_scores(ours / "scores.jsonl")
    way: dict[str, dict[str, float]] = {}
    for name, score in read_variants(ours / "variants.jsonl"):
        way.setdefault(name, {})[score.task] = score.value
    assert list(way) == ["wise_ft alpha=0", "wise_ft alpha=0.5", "wise_ft alpha=1"]
    assert way["wise_ft alpha=0"] == {each.task: each.value for each in scores if each.stage == 0}
    assert way["wise_ft alpha=1"] == {each.task: each.value for each in scores if each.stage == 2}
    manifest = json.loads((ours / "manifest.json").read_text())
    whole = sum(each.nbytes for each in tiny.llama().parameters())
    kept = manifest["kept_bytes"]["wise_ft"]
    assert (
        whole < kept < 1.5 * whole + 20_000 if kind == "full" else kept < (10_000 if kind == "ia3" else 2000)
    )


# What is refused


def test_adapters_that_are_not_on_a_straight_way_are_refused() -> None:
    for config in (
        LoraConfig(r=2, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM"),
        PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
    ):
        with pytest.raises(ConfigurationError, match="must be weights, IA3's factors or plain LoRA"):
            trained(WiSEFT(), Adapter(config))


def test_it_is_refused_before_anything_is_loaded_where_the_adapter_comes_first() -> None:
    model = tiny.model()
    methods: dict[str, Method] = {
        "dora": Adapter(LoraConfig(r=2, target_modules="all-linear", use_dora=True)),
        "wise_ft": WiSEFT(),
    }
    context = tiny.context(model, frozen_names(model, methods))
    with pytest.raises(ConfigurationError, match=r"q_proj.lora_A.default.weight trains"):
        adapt(model, methods, context, trains=True)


def test_adapters_that_do_not_begin_at_0_are_refused() -> None:
    for initialization in ("pissa", "olora"):
        with pytest.raises(ConfigurationError, match="adapters must begin at 0"):
            trained(WiSEFT(), LoRA(rank=2, initialization=initialization))  # type: ignore[arg-type]


@pytest.mark.parametrize("alphas", [[], [1.5], [-0.1, 0.5]])
def test_places_that_are_not_on_the_way_are_refused(alphas: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="alphas must be one or more numbers from 0 to 1, but got"):
        WiSEFT(alphas)
