"""What freezing leaves to train, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from myosotis.adaptation import adapt, frozen_names
from myosotis.curriculum import MixtureSampler, Part
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Model, Share, Stage
from myosotis.schema import OptimizerConfig
from myosotis.seeds import derive_seed
from myosotis.testing import MethodTestSuite, TinyModel
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.full import Full
from myosotis_plugins.methods.lora import LoRA
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


class TestFreezeFirst(tiny.OnLlama):
    def make(self) -> Method:
        return Freeze(first=2)


class TestFreezePattern(MethodTestSuite):
    def make(self) -> Method:
        return Freeze(pattern="bias$")

    def make_neutral(self) -> Method:
        return Freeze()


class TestUnfreezing(tiny.OnLlama):
    def make(self) -> Method:
        return Freeze(unfreeze_every=2)


class TestFull(tiny.OnLlama):
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
        ({"unfreeze_every": -1}, "unfreeze_every must be at least 0, but got -1"),
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


# Gradual unfreezing

EVERY = 3
STEPS = EVERY * (tiny.BLOCKS + 1) + 1
DEPTH = {"model.norm.weight": 0, EMBEDDING: tiny.BLOCKS}
"""Layers from the top: the norm with the last block; the embeddings, to which the head is tied, after all."""
STAGE = Stage(1, {"poem": Share(1, 1)})


def depth(name: str) -> int:
    """Tell how far from the top a parameter is."""
    match = re.search(r"layers\.(\d)", name)
    return tiny.BLOCKS - 1 - int(match[1]) if match else DEPTH[name]


class Watched(Method):
    """Copies all parameters after every step."""

    def __init__(self) -> None:
        self.values: list[dict[str, Tensor]] = []

    def _take(self, module: nn.Module) -> None:
        self.values.append({name: each.detach().clone() for name, each in module.named_parameters()})

    def begin_stage(self, stage: Stage, context: Context) -> None:
        self._take(context.model.module)

    def after_step(self, module: nn.Module, context: Context) -> None:
        self._take(module)


def unfreezing(
    folder: Path,
    into: Path,
    methods: Mapping[str, Method],
    stages: tuple[Stage, ...] = (STAGE,),
    **optimizer: Any,
) -> tuple[list[float], list[dict[str, Tensor]]]:
    watched = Watched()
    losses, _ = tiny.losses(
        into / "trial",
        tiny.factory(folder),
        tiny.text_task("poem", tiny.POEM),
        {**methods, "watched": watched},
        STEPS,
        stages=stages,
        optimizer=OptimizerConfig(learning_rate=1e-2, **optimizer),
    )
    return losses, watched.values


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_what_rests_keeps_its_bits_under_weight_decay(
    optimizer: str, llama_folder: Path, tmp_path: Path
) -> None:
    freeze = Freeze(unfreeze_every=EVERY)
    _, values = unfreezing(llama_folder, tmp_path, {"freeze": freeze}, name=optimizer, weight_decay=0.1)
    for step, (before, after) in enumerate(pairwise(values)):
        for name in after:
            moved = not torch.equal(before[name], after[name])
            assert moved == (depth(name) <= step // EVERY), f"{name} at step {step}"


def test_losses_are_those_of_an_optimizer_that_gets_a_layer_at_a_time(
    llama_folder: Path, tmp_path: Path
) -> None:
    ours, values = unfreezing(
        llama_folder, tmp_path, {"freeze": Freeze(unfreeze_every=EVERY)}, weight_decay=0.1
    )
    model = LlamaForCausalLM.from_pretrained(llama_folder)
    theirs = by_torch(model)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    for name, value in model.named_parameters():
        torch.testing.assert_close(values[-1][name], value.data, rtol=1e-5, atol=1e-6)


def by_torch(model: Any) -> list[float]:
    """Train by torch alone: what rests needs no gradient, and joins as a parameter group of its own."""
    length = 16
    ids = [token for text in tiny.POEM for token in tiny.tokenizer()(text)["input_ids"]]
    blocks = torch.tensor(ids[: len(ids) // length * length]).reshape(-1, length)
    order = MixtureSampler([Part("poem", len(blocks), Share(1, 1))], 4, STEPS, derive_seed(0, "order", 1))
    layers: list[list[nn.Parameter]] = [[] for _ in range(tiny.BLOCKS + 1)]
    for name, parameter in model.named_parameters():
        layers[depth(name)].append(parameter)
    model.requires_grad_(False).train()
    optimizer = None
    losses = []
    for step, rows in enumerate(order):
        if step % EVERY == 0 and step // EVERY < len(layers):
            joining = layers[step // EVERY]
            for parameter in joining:
                parameter.requires_grad_(True)
            if optimizer is None:
                optimizer = torch.optim.AdamW(joining, lr=1e-2, weight_decay=0.1)
            else:
                optimizer.add_param_group({"params": joining})
        batch = blocks[[index for _, index in rows]]
        loss = model(input_ids=batch, labels=batch).loss
        assert optimizer is not None
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([each for each in model.parameters() if each.requires_grad], 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_each_stage_begins_with_the_last_block(llama_folder: Path, tmp_path: Path) -> None:
    stages = (STAGE, replace(STAGE, index=2))
    _, values = unfreezing(llama_folder, tmp_path, {"freeze": Freeze(unfreeze_every=EVERY)}, stages)
    second = values[STEPS + 1 :]
    for step, (before, after) in enumerate(pairwise(second)):
        moved = {depth(name) for name in after if not torch.equal(before[name], after[name])}
        assert moved == set(range(min(step // EVERY, tiny.BLOCKS) + 1))


def test_adapters_join_with_their_block_and_frozen_blocks_never(llama_folder: Path, tmp_path: Path) -> None:
    methods = {"lora": LoRA(rank=2), "freeze": Freeze(last=1, unfreeze_every=EVERY)}
    _, values = unfreezing(llama_folder, tmp_path, methods)
    for step, (before, after) in enumerate(pairwise(values)):
        moved = {depth(name) for name in after if not torch.equal(before[name], after[name])}
        # Of the last block nothing trains, so that the one before it is the first of the order.
        assert moved == ({1} if step < EVERY else {1, 2})


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has no blocks to count"):
        Freeze(unfreeze_every=1).frozen(TinyModel().load([]))
