"""What stages changed, merged: against PEFT's own merging of adapters, and against NumPy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn

from myosotis.adaptation import Adapted, adapt, frozen_names
from myosotis.cohort import run_trial
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Share, Stage
from myosotis.ledger import read_scores
from myosotis.testing import MethodTestSuite
from myosotis.testing.rehearsal import (
    Rehearsal,
    differences,
    registry_without_plugins,
    rehearse_together,
    training_values,
)
from myosotis.workspace import Workspace
from myosotis_plugins.methods.inc_lora import IncLoRA
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.merge import Kind, Merge
from tests.plugins import tiny

STAGES = tuple(Stage(index, {task: Share(1, 1)}) for index, task in enumerate(("a", "b", "c"), 1))
SEED = 11


class TestMerge(MethodTestSuite):
    def make(self) -> Method:
        return Merge("ties", weights=[1.0, 0.5], density=0.5)


class TestMergeAtRandom(MethodTestSuite):
    def make(self) -> Method:
        return Merge("dare_linear", density=0.5)


class TestMergeOnLlama(tiny.OnLlama):
    def make(self) -> Method:
        return Merge()


def begun(method: Merge, *others: Method, stages: Sequence[Stage] = STAGES) -> tuple[Adapted, Context]:
    """Adapt a tiny Llama."""
    model = tiny.model()
    methods = {str(index): each for index, each in enumerate([*others, method])}
    generator = torch.Generator().manual_seed(SEED)
    context = replace(
        tiny.context(model, frozen_names(model, methods)), stages=tuple(stages), generator=generator
    )
    torch.manual_seed(0)
    adapted = adapt(model, methods, context, trains=True)
    return adapted, replace(context, model=adapted.model)


def trained(method: Merge, adapted: Adapted, context: Context, stages: int = 3) -> list[dict[str, Tensor]]:
    """Move what trains in each stage, as training would; give what each stage ended with before the merging."""
    results = []
    for stage in STAGES[:stages]:
        now = replace(context, stage=stage)
        method.begin_stage(stage, now)
        directions = torch.Generator().manual_seed(stage.index)
        with torch.no_grad():
            for parameter in adapted.trainable().values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=directions))
        results.append(training_values(adapted.model.module))
        method.end_stage(stage, now)
    return results


# LoRA against PEFT


def peft_merged(
    results: Sequence[Mapping[str, Tensor]],
    kind: str,
    weights: list[float],
    density: float,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Tensor]:
    """Give each layer's merged product by PEFT, of adapters with these values."""
    config = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(tiny.llama(), config, adapter_name="stage0")
    assert isinstance(model, PeftModel)
    names = [f"stage{index}" for index in range(len(results))]
    for name in names[1:]:
        model.add_adapter(name, config)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, result in zip(names, results, strict=True):
            for key, value in result.items():
                parameters[key.replace(".default.", f".{name}.")].copy_(value)
    insert = LoraModel.inject_adapter

    def inject(self: Any, *args: Any, **kwargs: Any) -> None:
        insert(self, *args, **kwargs)
        torch.manual_seed(SEED)  # making the new adapter draws numbers, which are not the merging's

    monkeypatch.setattr(LoraModel, "inject_adapter", inject)
    model.base_model.add_weighted_adapter(names, weights, "merged", combination_type=kind, density=density)
    return products(model, "merged")


def products(module: nn.Module, adapter: str) -> dict[str, Tensor]:
    return {
        name: layer.get_delta_weight(adapter).detach()
        for name, layer in module.named_modules()
        if isinstance(layer, LoraLayer)
    }


@pytest.mark.parametrize("kind", ["ties", "dare_linear", "dare_ties"])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.5, 0.5, -0.7]])
@pytest.mark.parametrize("density", [0.3, 0.8])
def test_adapters_are_merged_as_peft_merges_them(
    kind: Kind, weights: list[float], density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Merge(kind, weights, density)
    adapted, context = begun(method, LoRA(rank=2))
    results = trained(method, adapted, context)
    wanted = peft_merged(results, kind, weights, density, monkeypatch)
    found = products(adapted.model.module, "default")
    assert len(found) == len(wanted) == 7 * tiny.BLOCKS
    for name, value in found.items():
        assert value.abs().max() > 1e-3
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-6)


def test_one_number_weighs_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    method = Merge("ties", 0.4, 0.5)
    adapted, context = begun(method, LoRA(rank=2))
    results = trained(method, adapted, context)
    wanted = peft_merged(results, "ties", [0.4] * 3, 0.5, monkeypatch)
    for name, value in products(adapted.model.module, "default").items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-6)


# Against NumPy


def numpy_merged(
    kind: str, start: np.ndarray, results: Sequence[np.ndarray], weights: Sequence[float], density: float
) -> np.ndarray:
    """Merge as the papers write it, number by number."""
    changes = [result - start for result in results]
    if kind == "linear":
        return np.average(results, axis=0, weights=weights)
    if kind == "task_arithmetic":
        return start + sum(weight * change for weight, change in zip(weights, changes, strict=True))
    kept = []
    for change in changes:
        count = int(density * change.size)
        mask = np.zeros(change.size)
        mask[np.argsort(-np.abs(change).ravel())[:count]] = 1
        kept.append(change * mask.reshape(change.shape))
    sign = np.where(sum(kept) >= 0, 1, -1)
    agree = [np.sign(each) == sign for each in kept]
    total = sum(weight * each * same for weight, each, same in zip(weights, kept, agree, strict=True))
    return start + total / np.maximum(sum(same.astype(int) for same in agree), 1)


@pytest.mark.parametrize(
    ("kind", "lora"),
    [
        ("linear", False),
        ("linear", True),
        ("task_arithmetic", False),
        ("task_arithmetic", True),
        ("ties", False),
    ],
)
def test_whole_parameters_are_merged_as_by_numpy(kind: Kind, lora: bool) -> None:
    weights = [1.0, 2.0, 0.5]
    method = Merge(kind, weights, 0.4)
    adapted, context = begun(method, *([LoRA(rank=2)] if lora else []))
    start = training_values(adapted.model.module)
    results = trained(method, adapted, context)
    for name, found in training_values(adapted.model.module).items():
        ends = [result[name].double().numpy() for result in results]
        wanted = numpy_merged(kind, start[name].double().numpy(), ends, weights, 0.4)
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=2e-6)


def test_a_random_part_stays_and_keeps_its_mean() -> None:
    method = Merge("dare_linear", 1.0, 0.25)
    adapted, context = begun(method)
    start = training_values(adapted.model.module)
    [result] = trained(method, adapted, context, stages=1)
    merged = training_values(adapted.model.module)
    name = "model.embed_tokens.weight"
    change, kept = (each[name] - start[name] for each in (result, merged))
    stays = kept.abs() > 0.2 * change.abs()
    assert stays.float().mean().item() == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(kept[stays], 4 * change[stays], rtol=1e-3, atol=1e-5)
    assert kept[~stays].abs().max() == 0


# Over the stages


def test_each_stage_begins_where_the_first_one_did() -> None:
    method = Merge("task_arithmetic")
    adapted, context = begun(method, LoRA(rank=2))
    start = training_values(adapted.model.module)
    trained(method, adapted, context, stages=2)
    assert differences(start, training_values(adapted.model.module))
    method.begin_stage(STAGES[2], replace(context, stage=STAGES[2]))
    assert differences(start, training_values(adapted.model.module)) == []


def test_after_one_stage_the_mean_is_that_stage() -> None:
    method = Merge("linear", 3.0)
    adapted, context = begun(method)
    [result] = trained(method, adapted, context, stages=1)
    for name, value in training_values(adapted.model.module).items():
        torch.testing.assert_close(value, result[name], rtol=0, atol=1e-6)


class Witness(Method):
    """Write down what trains at each stage's beginning and end."""

    def __init__(self) -> None:
        self.starts: list[dict[str, Tensor]] = []
        self.ends: list[dict[str, Tensor]] = []

    def begin_stage(self, stage: Stage, context: Context) -> None:
        self.starts.append(training_values(context.model.module))

    def end_stage(self, stage: Stage, context: Context) -> None:
        self.ends.append(training_values(context.model.module))


def test_a_trial_is_scored_on_the_merged_model(llama_folder: Path, tmp_path: Path) -> None:
    folder, factory, before, after = tmp_path / "trial", tiny.factory(llama_folder), Witness(), Witness()
    methods: dict[str, Method] = {"lora": LoRA(rank=2), "before": before, "merge": Merge(), "after": after}
    config = replace(Rehearsal(folder, factory, tiny.text_tasks(), Method()).config(), methods=methods)
    run_trial(config, folder, "study", "trial", Workspace(tmp_path, registry_without_plugins()))
    assert differences(after.starts[0], after.starts[1]) == []
    for name, merged in after.ends[1].items():
        mean = np.mean([each[name].numpy() for each in before.ends], axis=0)
        np.testing.assert_allclose(merged.numpy(), mean, rtol=0, atol=1e-6)
    # The saved adapter, loaded by PEFT alone, has the last row's score.
    model = PeftModel.from_pretrained(tiny.llama(), str(folder / "adapter")).eval()
    ids = [token for text in tiny.POEM for token in tiny.tokenizer()(text.upper())["input_ids"]]
    rows = torch.tensor(ids[: len(ids) // 16 * 16]).reshape(-1, 16)
    with torch.no_grad():
        loss = model(input_ids=rows, labels=rows).loss.item()
    last = {each.task: each.value for each in read_scores(folder / "scores.jsonl") if each.stage == 2}
    assert last["poem"] == pytest.approx(loss, abs=1e-5)
    kept = json.loads((folder / "manifest.json").read_text())["kept_bytes"]["merge"]
    stored = 3 * sum(each.nbytes for each in after.ends[1].values())
    assert stored < kept < stored + 200 * 3 * len(after.ends[1]) * 2


def test_a_cohort_gives_the_numbers_of_each_trial_alone(llama_folder: Path, tmp_path: Path) -> None:
    def rehearsals(place: str) -> list[Rehearsal]:
        return [
            Rehearsal(
                tmp_path / f"{place} {kind}",
                tiny.factory(llama_folder),
                tiny.text_tasks(),
                Merge(kind, density=0.5),  # type: ignore[arg-type]
                others={"lora": LoRA(rank=2)},
            )
            for kind in ("linear", "dare_ties")
        ]

    alone, together = [each.run() for each in rehearsals("alone")], rehearsals("together")
    rehearse_together(together)
    for one, other in zip(alone, together, strict=True):
        values = [[score.value for score in each.scores] for each in (one, other)]
        np.testing.assert_allclose(values[1], values[0], rtol=1e-5)


# What is refused


def test_stages_with_adapters_of_their_own_are_refused_before_they_train() -> None:
    method = Merge()
    _, context = begun(method, IncLoRA(rank=2))
    with pytest.raises(ConfigurationError, match="every stage must train the same parameters"):
        method.begin_stage(STAGES[0], replace(context, stage=STAGES[0]))


@pytest.mark.parametrize("kind", ["ties", "dare_linear"])
def test_adapters_that_begin_with_something_are_not_pruned(kind: Kind) -> None:
    method = Merge(kind=kind)
    _, context = begun(method, LoRA(rank=2, initialization="pissa"))
    with pytest.raises(ConfigurationError, match="must have adapters that begin at 0"):
        method.begin_stage(STAGES[0], replace(context, stage=STAGES[0]))


def test_a_stage_that_trains_less_is_refused() -> None:
    method = Merge()
    adapted, context = begun(method)
    trained(method, adapted, context, stages=1)
    next(adapted.model.module.parameters()).requires_grad_(False)
    with pytest.raises(ConfigurationError, match="every stage must train the same parameters"):
        method.begin_stage(STAGES[1], replace(context, stage=STAGES[1]))


@pytest.mark.parametrize("count", [2, 4])
def test_weights_must_be_as_many_as_stages_that_train(count: int) -> None:
    with pytest.raises(ConfigurationError, match="one for each of the 3 stages that train, but got"):
        begun(Merge(weights=[1.0] * count), stages=[*STAGES, Stage(4, {})])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kind": "svd"}, "kind must be one of linear, task_arithmetic, .*, but got 'svd'"),
        ({"weights": 0.0}, "weights must be greater than 0 with kind=linear, but got 0.0"),
        ({"weights": [1.0, -1.0]}, "weights must be greater than 0 with kind=linear"),
        ({"kind": "ties", "density": 0.0}, "density must be greater than 0 and at most 1, but got 0.0"),
        ({"kind": "ties", "density": 1.5}, "density must be greater than 0 and at most 1, but got 1.5"),
    ],
)
def test_values_out_of_range_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Merge(**parameters)
