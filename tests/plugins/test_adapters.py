"""Bottleneck adapters stand where they should, start as nothing, and are saved and loaded alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from myosotis.adaptation import adapt, frozen_names
from myosotis.errors import ConfigurationError, ModelError
from myosotis.interfaces import Method, Model, Share, Stage
from myosotis.stacking import Branch, obstacle
from myosotis.testing import TinyModel
from myosotis_plugins.methods.adapters import Adapters
from myosotis_plugins.methods.bottleneck import Bottleneck, load_bottlenecks
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.replay import Replay
from tests.plugins import tiny
from tests.plugins.test_lora import logits, trained

ATTENTION = {"llama": "self_attn.o_proj", "gpt2": "attn.c_proj", "opt": "self_attn.out_proj"}
FEEDFORWARD = {"llama": "mlp.down_proj", "gpt2": "mlp.c_proj", "opt": "fc2"}
WIDTH = 16


class TestHoulsby(tiny.OnLlama):
    def make(self) -> Method:
        return Adapters(bottleneck=4)


class TestPfeiffer(tiny.OnLlama):
    def make(self) -> Method:
        return Adapters(bottleneck=3, placement="pfeiffer", activation="gelu")


def adapted(module: nn.Module, **parameters: Any) -> Any:
    model = tiny.model(module)
    return Adapters(**parameters).adapt(model, tiny.context(model))


def adapters(module: nn.Module) -> dict[str, Bottleneck]:
    return {name: each for name, each in module.named_modules() if isinstance(each, Bottleneck)}


# Where they stand


@pytest.mark.parametrize("kind", tiny.MODELS)
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_they_stand_after_the_sublayers_last_linear_layers(kind: str, placement: Any) -> None:
    found = {
        re.split(r"\.\d+\.", name)[-1] for name in adapters(adapted(tiny.MODELS[kind](), placement=placement))
    }
    expected = {FEEDFORWARD[kind]} | ({ATTENTION[kind]} if placement == "houlsby" else set())
    assert found == expected


@pytest.mark.parametrize("kind", tiny.MODELS)
def test_a_sublayer_gives_what_the_formula_says(kind: str) -> None:
    """y + U f(D y + b) + c, computed by NumPy from what the layer of the base gives."""
    module = trained(adapted(tiny.MODELS[kind](), bottleneck=5, activation="tanh"))
    layer = next(iter(adapters(module).values()))
    down, up = layer.down, layer.up
    seen: dict[str, Any] = {}
    layer.base_layer.register_forward_hook(lambda _, args, output: seen.update(base=output))
    layer.register_forward_hook(lambda _, args, output: seen.update(whole=output))
    logits(module)
    base = seen["base"].numpy()
    weights = [each.detach().numpy() for each in (down.weight, down.bias, up.weight, up.bias)]
    expected = base + np.tanh(base @ weights[0].T + weights[1]) @ weights[2].T + weights[3]
    np.testing.assert_allclose(seen["whole"].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_quantized_layer_has_its_width(tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama(width=64, blocks=1), tmp_path / "wide")
    for quantization in ("8bit", "nf4"):
        model = tiny.factory(folder, quantization).load([])  # type: ignore[arg-type]
        module = Adapters(bottleneck=2).adapt(model, tiny.context(model))
        assert {each.down.in_features for each in adapters(module).values()} == {64}


# How they start


@pytest.mark.parametrize("kind", tiny.MODELS)
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_the_first_forward_pass_is_the_base_to_the_bit(kind: str, placement: Any) -> None:
    module = tiny.MODELS[kind]()
    base = logits(module)
    assert torch.equal(logits(adapted(module, placement=placement)), base)


@pytest.mark.parametrize("kind", tiny.MODELS)
@pytest.mark.parametrize(("placement", "each_block"), [("houlsby", 2), ("pfeiffer", 1)])
def test_the_number_of_parameters_is_houlsbys(kind: str, placement: Any, each_block: int) -> None:
    module = tiny.MODELS[kind]()
    blocks = module.config.num_hidden_layers
    made = adapted(module, bottleneck=5, placement=placement)
    count = sum(parameter.numel() for parameter in made.parameters() if parameter.requires_grad)
    assert count == blocks * each_block * (2 * 5 * WIDTH + WIDTH + 5)


def test_they_start_as_the_papers_do() -> None:
    made = adapters(adapted(tiny.llama(), bottleneck=64))
    drawn = torch.cat([each.down.weight.flatten() for each in made.values()])
    # A normal distribution of deviation 0.01 that is cut off at two deviations has 0.88 of it.
    assert drawn.std().item() == pytest.approx(0.0088, rel=0.05)
    assert 0.019 < drawn.abs().max().item() <= 0.02
    for each in made.values():
        assert not any(zero.any() for zero in (each.down.bias, each.up.weight, each.up.bias))


def test_only_they_have_gradients() -> None:
    module = trained(adapted(tiny.llama()))
    module(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    parts = [part for layer in adapters(module).values() for part in (layer.down, layer.up)]
    own = {id(each) for part in parts for each in part.parameters()}
    for parameter in module.parameters():
        assert (parameter.grad is not None) == (id(parameter) in own)


# Together with other trials and methods


def test_they_share_a_forward_pass() -> None:
    branch = Branch(tiny.llama())
    model = Model(branch.module)
    assert obstacle(branch, Adapters().adapt(model, tiny.context(model))) is None


def test_none_goes_into_frozen_blocks_whose_outputs_are_kept(llama_folder: Path) -> None:
    factory = tiny.factory(llama_folder)
    model = factory.load([])
    methods: dict[str, Method] = {"adapters": Adapters(), "freeze": Freeze(first=2)}
    context = tiny.context(model, frozen_names(model, methods))
    made = adapt(model, methods, context, trains=True, blocks=factory.blocks)
    assert {name.split(".")[3] for name in adapters(made.model.module)} == {"2"}
    assert len(made.prefix) == 2


def test_nothing_left_to_adapt_is_refused() -> None:
    model = tiny.model()
    frozen = frozenset(name for name, _ in model.module.named_parameters())
    with pytest.raises(ConfigurationError, match="all 6 layers to adapt are frozen; freeze fewer"):
        Adapters().adapt(model, tiny.context(model, frozen))


@pytest.mark.parametrize(
    ("first", "second"), [(Adapters(), LoRA()), (LoRA(), Adapters()), (Adapters(), Adapters())]
)
def test_adapters_on_adapters_are_refused(first: Method, second: Method) -> None:
    model = tiny.model()
    once = Model(first.adapt(model, tiny.context(model)))
    with pytest.raises(ConfigurationError, match="must go onto a base without adapters"):
        second.adapt(once, tiny.context(once))


@pytest.mark.parametrize("quantization", ["none", "8bit", "nf4"])
def test_they_learn_on_any_base_with_replay_and_frozen_blocks(quantization: Any, tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama(width=64, blocks=2), tmp_path / "wide")
    losses, _ = tiny.losses(
        tmp_path / "trial",
        tiny.factory(folder, quantization),
        tiny.text_task("poem", tiny.POEM),
        {"adapters": Adapters(bottleneck=8), "replay": Replay(), "freeze": Freeze(first=1)},
        steps=12,
        stages=(Stage(1, {"poem": Share(1, 1)}), Stage(2, {"poem": Share(1, 1)})),
    )
    assert losses[-1] < losses[0] - 0.01


def test_they_stay_in_float32_on_a_base_in_bfloat16() -> None:
    module = trained(adapted(tiny.llama().to(torch.bfloat16)))
    assert {each.dtype for each in module.parameters() if each.requires_grad} == {torch.float32}
    assert logits(module).dtype == torch.bfloat16


# What the blocks must be


def mixture_of_experts() -> nn.Module:
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=tiny.VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=2,
        )
    )


def without_attention() -> nn.Module:
    module = tiny.llama()
    for block in module.model.layers:
        block.self_attn = nn.Identity()
    return module


@pytest.mark.parametrize(
    ("make", "kind"), [(mixture_of_experts, "MixtralAttention"), (without_attention, "LlamaMLP")]
)
def test_other_blocks_are_refused_with_what_they_are_made_of(
    make: Callable[[], nn.Module], kind: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"gives 16 features, but block 0 is made of .*{kind}"):
        adapted(make())


def test_a_model_without_blocks_is_refused() -> None:
    model = TinyModel().load([])
    with pytest.raises(ConfigurationError, match="has no blocks"):
        Adapters().adapt(model, tiny.context(model))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bottleneck": 0}, "bottleneck must be at least 1 feature, but got 0"),
        ({"placement": "above"}, "placement must be houlsby or pfeiffer, but got 'above'"),
        ({"activation": "step"}, "activation must be relu or gelu or silu or tanh, but got 'step'"),
    ],
)
def test_values_that_cannot_be_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Adapters(**parameters)


# The saved folder


@pytest.mark.parametrize("kind", tiny.MODELS)
def test_a_saved_folder_holds_them_alone_and_gives_the_same_predictions(kind: str, tmp_path: Path) -> None:
    factory = tiny.factory(tiny.save(tiny.MODELS[kind](), tmp_path / "base"))
    model = factory.load([])
    parameters: dict[str, Any] = {"bottleneck": 3, "placement": "pfeiffer", "activation": "silu"}
    module = trained(Adapters(**parameters).adapt(model, tiny.context(model)))
    saved = tmp_path / "adapter"
    saved.mkdir()
    factory.save(Model(module), saved)
    loaded = load_bottlenecks(factory.load([]).module, saved)
    assert torch.equal(logits(loaded), logits(module))
    assert not torch.allclose(logits(loaded), logits(tiny.MODELS[kind]()), atol=1e-2)
    weights = load_file(saved / "bottleneck_adapters.safetensors")
    assert {name.split(".")[-2] for name in weights} == {"down", "up"}
    settings = json.loads((saved / "bottleneck_adapters.json").read_text())
    assert (settings["bottleneck"], settings["activation"]) == (3, "silu")


def test_a_folder_for_another_model_is_refused(tmp_path: Path) -> None:
    adapted(tiny.llama()).save_pretrained(tmp_path)
    other = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=3, num_attention_heads=2
        )
    )
    for module in (tiny.gpt2(), other):
        with pytest.raises(ModelError, match="do not fit the model"):
            load_bottlenecks(module, tmp_path)
