"""LoRA gives plain PEFT's numbers, and leaves what is frozen alone."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaForCausalLM

from myosotis.adaptation import adapt, frozen_names
from myosotis.cohort import run_trial
from myosotis.curriculum import MixtureSampler, Part
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Method, Model, Share, Stage
from myosotis.seeds import derive_seed, seed_everything
from myosotis.stacking import Branch, obstacle
from myosotis.testing import MethodTestSuite
from myosotis.testing.rehearsal import Rehearsal, registry_without_plugins
from myosotis.workspace import Workspace
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.lora import LoRA
from tests.plugins import tiny

LENGTH = 16
STEPS = 20
IDS = torch.tensor([[5, 17, 99, 4, 210, 33]])
DECOMPOSED = ["pissa", "olora"]


class TestLoRAOnLlama(tiny.OnLlama):
    def make(self) -> Method:
        return LoRA(rank=4, dropout=0.1)


class TestLoRAOnLinearLayers(MethodTestSuite):
    def make(self) -> Method:
        return LoRA(rank=2)


class TestRankStabilized(MethodTestSuite):
    def make(self) -> Method:
        return LoRA(rank=2, rslora=True)


class TestPiSSA(TestLoRAOnLlama):
    def make(self) -> Method:
        return LoRA(rank=2, initialization="pissa")


class TestOLoRAInitialization(TestLoRAOnLlama):
    def make(self) -> Method:
        return LoRA(rank=2, initialization="olora", rslora=True)


# Against PEFT


@pytest.mark.parametrize(
    ("lora", "config"),
    [
        (LoRA(rank=4), {"lora_alpha": 8}),
        (LoRA(rank=4, alpha=4, rslora=True), {"lora_alpha": 4, "use_rslora": True}),
        (LoRA(rank=4, alpha=4, initialization="pissa"), {"lora_alpha": 4, "init_lora_weights": "pissa"}),
        (LoRA(rank=4, initialization="olora"), {"lora_alpha": 8, "init_lora_weights": "olora"}),
    ],
    ids=["zero", "rslora", "pissa", "olora"],
)
def test_losses_are_those_of_plain_peft(
    lora: LoRA, config: dict[str, Any], llama_folder: Path, tmp_path: Path
) -> None:
    plain = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **config)
    check_against_peft(lora, plain, llama_folder, tmp_path)


def check_against_peft(method: Method, config: Any, folder: Path, into: Path, drop: float = 0.05) -> None:
    """Hold the losses and the final score of a trial against PEFT's; they fall by so much at least."""
    task = tiny.text_task("poem", tiny.POEM, LENGTH)
    stages = (Stage(1, {"poem": Share(1, 1)}),)
    ours, scores = tiny.losses(
        into / "trial", tiny.factory(folder), task, {"method": method}, STEPS, stages=stages
    )
    theirs, after = plain_peft(folder, config)
    assert len(ours) == STEPS
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=0)
    assert theirs[-1] < theirs[0] - drop
    assert scores[-1].value == pytest.approx(after, rel=1e-6)


def plain_peft(folder: Path, config: Any) -> tuple[list[float], float]:
    """Train by PEFT and torch alone, in the order that a trial with seed 0 takes."""
    ids = [token for text in tiny.POEM for token in tiny.tokenizer()(text)["input_ids"]]
    blocks = torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).reshape(-1, LENGTH)
    order = MixtureSampler([Part("poem", len(blocks), Share(1, 1))], 4, STEPS, derive_seed(0, "order", 1))
    model = LlamaForCausalLM.from_pretrained(folder)
    seed_everything(derive_seed(0, "adapt"))
    model = get_peft_model(model, config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Fused, as a trial's is: rounding grows from step to step where adapters do not begin at zero.
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0, fused=True)
    model.train()
    losses = []
    for rows in order:
        batch = blocks[[index for _, index in rows]]
        loss = model(input_ids=batch, labels=without_first(batch)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
    capitals = [token for text in tiny.POEM for token in tiny.tokenizer()(text.upper())["input_ids"]]
    held_out = torch.tensor(capitals[: len(capitals) // LENGTH * LENGTH]).reshape(-1, LENGTH)
    model.eval()
    with torch.no_grad():
        return losses, model(input_ids=held_out, labels=without_first(held_out)).loss.item()


def without_first(ids: torch.Tensor) -> torch.Tensor:
    """Give labels without the first token, which the base predicts from nothing, and virtual tokens must not."""
    labels = ids.clone()
    labels[:, 0] = -100
    return labels


# Decomposed weights


def logits(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(input_ids=IDS).logits


def trained(module: nn.Module) -> nn.Module:
    """Move all that trains, as training does."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module


def test_pissa_takes_the_greatest_singular_values() -> None:
    model = tiny.model()
    weight = model.module.get_submodule("model.layers.1.mlp.up_proj").weight.detach().numpy().copy()
    module = LoRA(rank=3, initialization="pissa").adapt(model, tiny.context(model))
    layer: Any = module.get_submodule("inner.base_model.model.model.layers.1.mlp.up_proj")
    left, values, right = np.linalg.svd(weight, full_matrices=False)
    greatest = left[:, :3] @ np.diag(values[:3]) @ right[:3]
    product = 2 * (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach().numpy()
    np.testing.assert_allclose(product, greatest, atol=1e-5)
    np.testing.assert_allclose(layer.base_layer.weight.numpy(), weight - greatest, atol=1e-5)


def test_olora_begins_with_orthonormal_columns() -> None:
    model = tiny.model()
    weight = model.module.get_submodule("model.layers.1.mlp.up_proj").weight.detach().numpy().copy()
    module = LoRA(rank=3, initialization="olora").adapt(model, tiny.context(model))
    layer: Any = module.get_submodule("inner.base_model.model.model.layers.1.mlp.up_proj")
    up, down = (
        layer.lora_B["default"].weight.detach().numpy(),
        layer.lora_A["default"].weight.detach().numpy(),
    )
    np.testing.assert_allclose(up.T @ up, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(down, up.T @ weight, atol=1e-4)  # Qᵀ W = R
    np.testing.assert_allclose(layer.base_layer.weight.numpy(), weight - 2 * up @ down, atol=1e-5)


@pytest.mark.parametrize("initialization", DECOMPOSED)
def test_the_base_and_another_trial_are_untouched(initialization: Any) -> None:
    """Trials share the memory of one base; what one rewrites must be its own."""
    base = tiny.model()
    before = copy.deepcopy(base.module.state_dict())
    expected = logits(base.module)
    branches = [Branch(base.module) for _ in range(2)]
    models = [Model(branch.module) for branch in branches]
    first = LoRA(rank=2, initialization=initialization).adapt(models[0], tiny.context(models[0]))
    second = LoRA(rank=2).adapt(models[1], tiny.context(models[1]))
    trained(first)
    assert all(torch.equal(value, before[name]) for name, value in base.module.state_dict().items())
    assert torch.equal(logits(base.module), expected)
    assert torch.equal(logits(second), expected)
    assert not torch.allclose(logits(first), expected, atol=1e-2)


@pytest.mark.parametrize("initialization", DECOMPOSED)
def test_a_trial_after_it_in_the_same_process_has_its_own_numbers(
    initialization: Any, llama_folder: Path, tmp_path: Path
) -> None:
    def run(name: str, lora: LoRA, workspace: Workspace) -> list[float]:
        made = Rehearsal(tmp_path / name, tiny.factory(llama_folder), tiny.text_tasks(), lora)
        run_trial(made.config(), made.folder, "study", "trial", workspace)
        return [score.value for score in made.scores]

    registry = registry_without_plugins()
    alone = run("alone", LoRA(rank=2), Workspace(tmp_path, registry))
    shared = Workspace(tmp_path / "shared", registry)
    run("first", LoRA(rank=2, initialization=initialization), shared)
    assert run("second", LoRA(rank=2), shared) == alone


@pytest.mark.parametrize("initialization", DECOMPOSED)
@pytest.mark.parametrize("outline", [False, True])
def test_rewritten_weights_share_no_forward_pass(
    initialization: Any, outline: bool, llama_folder: Path
) -> None:
    factory = tiny.factory(llama_folder)
    model = factory.outline([]) if outline else factory.load([])
    branch = Branch(model.module)
    own = Model(branch.module)
    adapted = LoRA(rank=2, initialization=initialization).adapt(
        own, replace(tiny.context(own), outline=outline)
    )
    assert "is another tensor than the base's" in str(obstacle(branch, adapted))


@pytest.mark.parametrize(
    ("initialization", "make"),  # OLoRA is refused for GPT-2
    [
        ("pissa", tiny.llama),
        ("pissa", tiny.opt),
        ("pissa", tiny.gpt2),
        ("olora", tiny.llama),
        ("olora", tiny.opt),
    ],
)
@pytest.mark.parametrize("rslora", [False, True])
def test_what_is_saved_fits_the_untouched_base(
    initialization: Any, rslora: bool, make: Any, tmp_path: Path
) -> None:
    factory = tiny.factory(tiny.save(make(), tmp_path / "base"))
    model = factory.load([])
    base = logits(model.module)
    method = LoRA(rank=2, rslora=rslora, initialization=initialization)
    adapted = trained(method.adapt(model, tiny.context(model)))
    factory.save(Model(adapted), tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(factory.load([]).module, tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), logits(adapted), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(loaded), base, atol=1e-2)
    # The sum of two products of rank 2, each with its scale in it.
    config = loaded.peft_config["default"]
    assert (config.r, config.lora_alpha, config.use_rslora, config.init_lora_weights) == (4, 4, False, True)
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {weights[name].shape[0] for name in weights if "lora_A" in name} == {4}


@pytest.mark.parametrize("initialization", DECOMPOSED)
@pytest.mark.parametrize("quantization", ["8bit", "nf4"])
@pytest.mark.parametrize("read", ["load", "outline"])
def test_quantized_weights_are_not_decomposed(
    initialization: Any, quantization: Any, read: str, tmp_path: Path
) -> None:
    folder = tiny.save(tiny.llama(width=64, blocks=1), tmp_path / "wide")
    model = getattr(tiny.factory(folder, quantization), read)([])
    with pytest.raises(ConfigurationError, match="must have a base that is not quantized"):
        LoRA(initialization=initialization).adapt(model, tiny.context(model))


@pytest.mark.parametrize("initialization", DECOMPOSED)
def test_the_base_is_left_as_it_was_and_not_held(initialization: Any) -> None:
    base = tiny.model()
    values = {name: value.detach().clone() for name, value in base.module.named_parameters()}
    branch = Branch(base.module)
    trained(LoRA(rank=2, initialization=initialization).adapt(Model(branch.module), tiny.context(base)))
    for name, value in base.module.named_parameters():
        assert torch.equal(value, values[name]), name
    # What a trial has rewritten it has once: of the base's own weight nothing is held.
    rewritten = base.module.get_submodule("model.layers.1.mlp.up_proj").weight
    held = [tensor for each in branch.before.values() for tensor in each.tensors.values()]
    held += [*branch.module.parameters(), *branch.module.buffers()]
    assert all(tensor.data_ptr() != rewritten.data_ptr() for tensor in held)


def test_olora_refuses_transposed_weights() -> None:
    model = tiny.model(tiny.gpt2())
    with pytest.raises(ConfigurationError, match="is a Conv1D"):
        LoRA(rank=2, initialization="olora").adapt(model, tiny.context(model))


@pytest.mark.parametrize("initialization", DECOMPOSED)
def test_a_rank_above_a_weights_is_refused(initialization: Any) -> None:
    """PEFT would give fewer rows than the configuration that it saves says."""
    model = tiny.model()
    with pytest.raises(ConfigurationError, match=r"rank must be at most 8 .*k_proj, but got 9"):
        LoRA(rank=9, initialization=initialization).adapt(model, tiny.context(model))


def test_a_base_in_bfloat16_is_decomposed_as_well_as_it_can_hold() -> None:
    model = tiny.model(tiny.llama().to(torch.bfloat16))
    base = logits(model.module).float()
    first = logits(LoRA(rank=2, initialization="pissa").adapt(model, tiny.context(model))).float()
    assert 0 < (first - base).norm() / base.norm() < 0.05


# Places


def test_no_adapter_goes_into_frozen_blocks() -> None:
    model = tiny.model()
    methods: dict[str, Method] = {"lora": LoRA(rank=2), "freeze": Freeze(first=2)}
    context = tiny.context(model, frozen_names(model, methods))
    trained = set(adapt(model, methods, context, trains=True).trainable())
    layers = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    layers += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert trained == {
        f"base_model.model.model.layers.2.{layer}.lora_{half}.default.weight"
        for layer in layers
        for half in ("A", "B")
    }


def test_targets_choose_layers() -> None:
    model = tiny.model()
    module = LoRA(rank=2, targets=["q_proj", "v_proj"]).adapt(model, tiny.context(model))
    adapted = {name.split(".")[-4] for name, each in module.named_parameters() if each.requires_grad}
    assert adapted == {"q_proj", "v_proj"}


def test_all_linear_takes_every_kind_of_linear_layer_but_the_head() -> None:
    model = tiny.model(tiny.gpt2())
    module = LoRA(rank=2).adapt(model, tiny.context(model))
    adapted = {
        ".".join(name.split(".")[-5:-3]) for name, each in module.named_parameters() if each.requires_grad
    }
    assert adapted == {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}


@pytest.mark.parametrize(
    ("lora", "scale"),
    [
        (LoRA(rank=3), 2),
        (LoRA(rank=3, alpha=6, rslora=True), 6 / math.sqrt(3)),
        (LoRA(rank=3, rslora=True), 16 / math.sqrt(3)),
    ],
)
def test_the_scale_is_alpha_over_the_rank_or_its_root(lora: LoRA, scale: float) -> None:
    model = tiny.model()
    layer: Any = lora.adapt(model, tiny.context(model)).get_submodule(
        "base_model.model.model.layers.0.mlp.up_proj"
    )
    assert layer.scaling == {"default": pytest.approx(scale)}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, but got 0"),
        ({"alpha": 0}, "alpha must be greater than 0, but got 0"),
        ({"dropout": 1}, "dropout must be at least 0 and less than 1, but got 1"),
        ({"initialization": "svd"}, "initialization must be zero or pissa or olora, but got 'svd'"),
    ],
)
def test_values_out_of_range_are_refused(parameters: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        LoRA(**parameters)  # type: ignore[arg-type]


def test_targets_that_are_not_there_are_refused_with_those_that_are() -> None:
    model = tiny.model()
    with pytest.raises(ConfigurationError, match=r"down_proj, gate_proj.*but got \['query'\]"):
        LoRA(targets=["query"]).adapt(model, tiny.context(model))


def test_nothing_left_to_adapt_is_refused() -> None:
    model = tiny.model()
    frozen = frozenset(name for name, _ in model.module.named_parameters())
    with pytest.raises(ConfigurationError, match="freeze fewer"):
        LoRA().adapt(model, tiny.context(model, frozen))


def test_adapters_on_adapters_are_refused() -> None:
    model = tiny.model()
    adapted = tiny.model(LoRA(rank=2).adapt(model, tiny.context(model)))
    with pytest.raises(ConfigurationError, match="must go onto a base without adapters"):
        LoRA(rank=2).adapt(adapted, tiny.context(adapted))
