"""What freezing leaves to train, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from myosotis.adaptation import adapt, frozen_names
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Method, Model, ModelFactory, Task
from myosotis.testing import MethodTestSuite
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.full import Full
from tests.plugins import tiny

IN_BLOCK = (
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
)
EMBEDDING = "model.embed_tokens.weight"
"""Also the head: it is tied, so that it has no name of its own."""


def block(*numbers: int) -> set[str]:
    return {f"model.layers.{number}.{name}" for number in numbers for name in IN_BLOCK}


class OnLlama(MethodTestSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, llama_folder: Path) -> None:
        self.folder = llama_folder

    def model(self) -> ModelFactory:
        return tiny.factory(self.folder)

    def tasks(self) -> Mapping[str, Task]:
        return tiny.text_tasks()


class TestFreezeFirst(OnLlama):
    def make(self) -> Method:
        return Freeze(first=2)


class TestFreezePattern(MethodTestSuite):
    def make(self) -> Method:
        return Freeze(pattern="bias$")


class TestFull(OnLlama):
    def make(self) -> Method:
        return Full()


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        (Freeze(), set()),
        (Freeze(first=0), set()),
        (Freeze(first=1), {EMBEDDING} | block(0)),
        (Freeze(first=3), {EMBEDDING} | block(0, 1, 2)),
        (Freeze(last=1), block(2)),
        (Freeze(first=1, last=1), {EMBEDDING} | block(0, 2)),
        (Freeze(blocks="0-1"), block(0, 1)),
        (Freeze(blocks="0, 2"), block(0, 2)),
        (Freeze(blocks="1-1,2", embeddings=True), {EMBEDDING} | block(1, 2)),
        (Freeze(pattern=r"layers\.1\.mlp"), {name for name in block(1) if ".mlp." in name}),
        (Freeze(pattern="^model.norm"), {"model.norm.weight"}),
        (Freeze(embeddings=True), {EMBEDDING}),
    ],
)
def test_freezes_exactly_what_is_asked_for(freeze: Freeze, expected: set[str]) -> None:
    assert set(freeze.frozen(tiny.model())) == expected


def test_the_rest_trains_and_a_tied_head_does_not() -> None:
    model = tiny.model()
    methods: dict[str, Method] = {"freeze": Freeze(first=2)}
    context = tiny.context(model, frozen_names(model, methods))
    adapted = adapt(model, methods, context, trains=True)
    assert set(adapted.trainable()) == block(2) | {"model.norm.weight"}
    assert not model.module.get_output_embeddings().weight.requires_grad  # type: ignore[operator]


def test_a_head_that_is_not_tied_trains() -> None:
    config = LlamaConfig(
        vocab_size=30,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=False,
    )
    assert set(Freeze(first=1).frozen(Model(LlamaForCausalLM(config)))) == {EMBEDDING} | block(0)


def test_positions_are_embeddings() -> None:
    frozen = Freeze(embeddings=True).frozen(tiny.model(tiny.gpt2()))
    assert set(frozen) == {"transformer.wte.weight", "transformer.wpe.weight"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"first": -1}, "first must be at least 0, but got -1"),
        ({"blocks": "3-1"}, "blocks must be ranges such as '0-3,7', but got '3-1'"),
        ({"blocks": "a"}, "blocks must be ranges"),
        ({"pattern": "("}, "pattern must be a regular expression"),
    ],
)
def test_values_that_cannot_be_are_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Freeze(**parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (Freeze(first=4), "first must be at most 3, the model's blocks, but got 4"),
        (Freeze(last=4), "last must be at most 3"),
        (Freeze(blocks="2-3"), "blocks must be from 0 to 2, but got 3"),
        (Freeze(pattern="lora"), "'lora' matches none of"),
    ],
)
def test_what_the_model_does_not_have_is_refused(freeze: Freeze, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        freeze.frozen(tiny.model())


def test_freezing_all_of_it_is_refused() -> None:
    model = tiny.model()
    methods: dict[str, Method] = {"freeze": Freeze(first=3, pattern="norm")}
    context = tiny.context(model, frozen_names(model, methods))
    with pytest.raises(ConfigurationError, match="method=freeze leaves 0 of"):
        adapt(model, methods, context, trains=True)
