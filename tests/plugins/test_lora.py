"""LoRA gives plain PEFT's numbers, and leaves what is frozen alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from myosotis.adaptation import adapt, frozen_names
from myosotis.curriculum import MixtureSampler, Part
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Method, ModelFactory, Share, Stage, Task
from myosotis.seeds import derive_seed, seed_everything
from myosotis.testing import MethodTestSuite
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.lora import LoRA
from tests.plugins import tiny

LENGTH = 16
STEPS = 20


class TestLoRAOnLlama(MethodTestSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, llama_folder: Path) -> None:
        self.folder = llama_folder

    def make(self) -> Method:
        return LoRA(rank=4, dropout=0.1)

    def model(self) -> ModelFactory:
        return tiny.factory(self.folder)

    def tasks(self) -> Mapping[str, Task]:
        return tiny.text_tasks()


class TestLoRAOnLinearLayers(MethodTestSuite):
    def make(self) -> Method:
        return LoRA(rank=2)


def test_losses_are_those_of_plain_peft(llama_folder: Path, tmp_path: Path) -> None:
    task = tiny.text_task("poem", tiny.POEM, LENGTH)
    ours, scores = tiny.losses(
        tmp_path / "trial",
        tiny.factory(llama_folder),
        task,
        {"lora": LoRA(rank=4)},
        STEPS,
        stages=(Stage(1, {"poem": Share(1, 1)}),),
    )
    theirs, after = plain_peft(llama_folder, rank=4)
    assert len(ours) == STEPS
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert theirs[-1] < theirs[0] - 0.05
    assert scores[-1].value == pytest.approx(after, abs=1e-6)


def plain_peft(folder: Path, rank: int) -> tuple[list[float], float]:
    """Train by PEFT and torch alone, in the order that a trial with seed 0 takes."""
    ids = [token for text in tiny.POEM for token in tiny.tokenizer()(text)["input_ids"]]
    blocks = torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).reshape(-1, LENGTH)
    order = MixtureSampler([Part("poem", len(blocks), Share(1, 1))], 4, STEPS, derive_seed(0, "order", 1))
    model = LlamaForCausalLM.from_pretrained(folder)
    seed_everything(derive_seed(0, "adapt"))
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    model.train()
    losses = []
    for rows in order:
        batch = blocks[[index for _, index in rows]]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
    capitals = [token for text in tiny.POEM for token in tiny.tokenizer()(text.upper())["input_ids"]]
    held_out = torch.tensor(capitals[: len(capitals) // LENGTH * LENGTH]).reshape(-1, LENGTH)
    model.eval()
    with torch.no_grad():
        return losses, model(input_ids=held_out, labels=held_out).loss.item()


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


def test_alpha_is_twice_the_rank() -> None:
    model = tiny.model()
    module = LoRA(rank=3).adapt(model, tiny.context(model))
    assert module.get_submodule("base_model.model.model.layers.0.mlp.up_proj").scaling == {"default": 2.0}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, but got 0"),
        ({"alpha": 0}, "alpha must be greater than 0, but got 0"),
        ({"dropout": 1}, "dropout must be at least 0 and less than 1, but got 1"),
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
