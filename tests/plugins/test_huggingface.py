"""Models from folders and from the Hub's cache: what loads, what is refused, what trains when quantized."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from myosotis.errors import ConfigurationError, ModelError
from myosotis.interfaces import ModelFactory, Share, Stage, Task
from myosotis.testing import ModelFactoryTestSuite
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.models.huggingface import HuggingFace, positions_of
from myosotis_plugins.objectives.sequence_to_sequence import SequenceToSequence
from tests.plugins import tiny

IDS = torch.tensor([[1, 2, 3, 50, 200], [9, 8, 7, 6, 5]])
COMMIT = "1234567890abcdef1234567890abcdef12345678"


def logits(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(input_ids=IDS).logits


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


class TestHuggingFace(ModelFactoryTestSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, llama_folder: Path) -> None:
        self.folder = llama_folder

    def make(self) -> ModelFactory:
        return HuggingFace(str(self.folder))

    def task(self) -> Task:
        return tiny.text_task("poem", tiny.POEM)


class TestGPT2(TestHuggingFace):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tiny.save(tiny.gpt2(), tmp_path / "gpt2")


@pytest.mark.parametrize(
    ("kind", "config", "positions"),
    [
        (RobertaForMaskedLM, RobertaConfig, 18),  # begins behind its padding, at 2
        (BertForMaskedLM, BertConfig, 20),
        (OPTForCausalLM, OPTConfig, 20),  # has two more than it says
    ],
)
def test_a_model_reads_as_many_tokens_as_it_says(kind: Any, config: Any, positions: int) -> None:
    made = config(
        vocab_size=50,
        hidden_size=8,
        word_embed_proj_dim=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        ffn_dim=8,
        max_position_embeddings=20,
    )
    module = kind(made).eval()
    assert positions_of(module, made) == positions
    ids = torch.full((1, positions + 1), 7)
    module(input_ids=ids[:, 1:])
    with pytest.raises((RuntimeError, IndexError)):
        module(input_ids=ids)


def test_relative_positions_have_no_end(tmp_path: Path) -> None:
    factory = HuggingFace(str(tiny.save_encoder(tiny.t5(), tmp_path / "t5")))
    objectives = [SequenceToSequence()]
    assert factory.load(objectives).positions is factory.outline(objectives).positions is None


def test_model_and_outline_know_the_positions(llama_folder: Path) -> None:
    factory = HuggingFace(str(llama_folder))
    assert factory.load([]).positions == factory.outline([]).positions == 128


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_folder_gives_the_models_predictions(attention: Any, llama_folder: Path) -> None:
    model = HuggingFace(str(llama_folder), attention=attention).load([])
    assert torch.equal(logits(model.module), logits(tiny.llama(attention)))
    assert model.module.config._attn_implementation == attention  # type: ignore[union-attr]
    assert model.tokenizer("a rose")["input_ids"] == tiny.tokenizer()("a rose")["input_ids"]


def test_weights_load_as_the_type_that_is_asked_for(llama_folder: Path) -> None:
    module = HuggingFace(str(llama_folder), dtype="bfloat16").load([]).module
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_a_saved_model_loads_again(llama_folder: Path, tmp_path: Path) -> None:
    factory = HuggingFace(str(llama_folder))
    model = factory.load([])
    with torch.no_grad():
        next(model.module.parameters()).add_(0.5)
    factory.save(model, tmp_path)
    assert torch.equal(logits(HuggingFace(str(tmp_path)).load([]).module), logits(model.module))


def test_an_adapter_is_saved_without_the_base(llama_folder: Path, tmp_path: Path) -> None:
    factory = HuggingFace(str(llama_folder))
    model = factory.load([])
    adapted = LoRA(rank=2).adapt(model, tiny.context(model))
    factory.save(tiny.model(adapted), tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved
    assert all("lora_" in name for name in saved)


def test_the_fingerprint_follows_the_weights(folder: Path, llama_folder: Path) -> None:
    assert HuggingFace(str(folder)).fingerprint() == HuggingFace(str(llama_folder)).fingerprint()
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert HuggingFace(str(folder)).fingerprint() != HuggingFace(str(llama_folder)).fingerprint()


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "merges.txt", "tokenizer.model", "chat.jinja"]
)
def test_the_fingerprint_follows_what_else_changes_numbers(name: str, folder: Path) -> None:
    before = HuggingFace(str(folder)).fingerprint()
    with (folder / name).open("a") as file:
        file.write(" ")
    assert HuggingFace(str(folder)).fingerprint() != before


@pytest.mark.parametrize("read", ["load", "outline"])
class TestRefused:
    """Each mistake is found both when a study is checked and when a model is loaded."""

    def refuse(self, folder: Path, read: str, message: str) -> None:
        with pytest.raises(ModelError, match=re.escape(message)):
            getattr(HuggingFace(str(folder)), read)([])

    def test_pickles_with_the_way_to_convert(self, folder: Path, read: str) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")
        self.refuse(folder, read, "must have its weights as safetensors, but has pytorch_model.bin, a pickle")
        self.refuse(folder, read, "model.save_pretrained(FOLDER)")

    def test_no_weights(self, folder: Path, read: str) -> None:
        (folder / "model.safetensors").unlink()
        self.refuse(folder, read, f"must have weights, but {folder} has no weights")

    def test_weights_of_another_shape(self, folder: Path, read: str) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 3)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        self.refuse(folder, read, str(folder))

    def test_weights_that_are_not_all_there(self, folder: Path, read: str) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        self.refuse(folder, read, "must be complete, but lack 1, such as model.layers.1.mlp.up_proj.weight")

    def test_weights_of_something_else(self, folder: Path, read: str) -> None:
        save_file({"table": torch.zeros(3)}, folder / "model.safetensors", metadata={"format": "pt"})
        self.refuse(folder, read, str(folder))

    def test_half_a_file(self, folder: Path, read: str) -> None:
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
        self.refuse(folder, read, str(folder))

    def test_a_configuration_that_is_not_json(self, folder: Path, read: str) -> None:
        (folder / "config.json").write_text("{")
        self.refuse(folder, read, str(folder))

    def test_no_configuration(self, folder: Path, read: str) -> None:
        (folder / "config.json").unlink()
        self.refuse(folder, read, str(folder))

    def test_no_tokenizer(self, folder: Path, read: str) -> None:
        for path in folder.glob("tokenizer*"):
            path.unlink()
        self.refuse(folder, read, "must have a tokenizer")


def test_shapes_that_do_not_fit_are_told(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "hidden_size": 24}))
    with pytest.raises(
        ModelError, match=r"must have the shape \[257, 24\] that config.json gives, but has \[257, 16\]"
    ):
        HuggingFace(str(folder)).outline([])


def test_a_body_without_its_prefix_is_complete(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    body = {name.removeprefix("model."): value for name, value in weights.items() if name != "lm_head.weight"}
    save_file(body, folder / "model.safetensors", metadata={"format": "pt"})
    factory = HuggingFace(str(folder))
    assert factory.outline([]).module.device.type == "meta"
    assert torch.equal(logits(factory.load([]).module), logits(tiny.llama()))


@pytest.mark.parametrize("quantization", ["8bit", "nf4"])
def test_a_quantized_model_loads_and_an_adapter_on_it_learns(quantization: Any, tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama(width=64, blocks=2), tmp_path / "wide")
    whole = HuggingFace(str(folder)).load([]).module
    module = HuggingFace(str(folder), quantization=quantization).load([]).module
    layer = module.get_submodule("model.layers.0.mlp.up_proj").weight
    assert layer.dtype == {"8bit": torch.int8, "nf4": torch.uint8}[quantization]
    # Near the whole model, and not it.
    distance = (logits(module) - logits(whole)).norm() / logits(whole).norm()
    assert 0 < distance < {"8bit": 0.1, "nf4": 0.5}[quantization]
    losses, scores = tiny.losses(
        tmp_path / "trial",
        tiny.factory(folder, quantization),
        tiny.text_task("poem", tiny.POEM),
        {"lora": LoRA(rank=4)},
        steps=12,
        stages=(Stage(1, {"poem": Share(1, 1)}),),
    )
    assert sum(losses[-3:]) < sum(losses[:3])
    assert [score.stage for score in scores] == [0, 1]


def test_a_quantized_base_alone_has_nothing_to_train(llama_folder: Path) -> None:
    outline = HuggingFace(str(llama_folder), quantization="nf4").outline([])
    assert not any(parameter.requires_grad for parameter in outline.module.parameters())


# From the Hub, by a process of its own: its client reads the environment when it is imported.

HUB = """
import sys
from myosotis.errors import ConfigurationError, ModelError
from myosotis_plugins.models.huggingface import HuggingFace
path, revision = sys.argv[1], sys.argv[2] or None
try:
    factory = HuggingFace(path, revision)
    print(factory.fingerprint())
    print(sum(parameter.numel() for parameter in factory.load([]).module.parameters()))
    print(factory.outline([]).module.device)
except ModelError as error:
    print("ModelError:", error)
"""


def from_hub(cache: Path, path: str, revision: str = "", **environment: str) -> list[str]:
    cleared = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {
        "HF_HOME": str(cache.parent),
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }
    command = [sys.executable, "-c", HUB, path, revision]
    found = subprocess.run(command, env={**cleared, **settings}, capture_output=True, text=True, check=True)
    return found.stdout.strip().split("\n")


@pytest.fixture
def cache(llama_folder: Path, tmp_path: Path) -> Path:
    """The Hub's cache, as its client lays it out."""
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(llama_folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


OFFLINE = {"HF_HUB_OFFLINE": "1"}
# A port that nothing listens on: what a machine without a network looks like to the client.
UNREACHABLE = {"HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize("network", [OFFLINE, UNREACHABLE], ids=["offline", "unreachable"])
def test_a_hub_model_in_the_cache_needs_no_network(network: dict[str, str], cache: Path) -> None:
    parameters = sum(parameter.numel() for parameter in tiny.llama().parameters())
    expected = [f"someone/tiny@{COMMIT}", str(parameters), "meta"]
    assert from_hub(cache, "someone/tiny", **network) == expected


def test_a_revision_may_be_a_commit(cache: Path) -> None:
    assert from_hub(cache, "someone/tiny", COMMIT, **OFFLINE)[0] == f"someone/tiny@{COMMIT}"


@pytest.mark.parametrize("network", [OFFLINE, UNREACHABLE], ids=["offline", "unreachable"])
def test_an_unknown_hub_model_without_a_network_is_refused_quickly(
    network: dict[str, str], cache: Path
) -> None:
    started = time.perf_counter()
    (answer,) = from_hub(cache, "someone/other", **network)
    assert answer.startswith("ModelError: path must be a folder or an id of the Hub, but 'someone/other'")
    assert "Without a network, give the path of a folder" in answer
    assert time.perf_counter() - started < 60


def test_a_path_that_is_neither_is_refused(cache: Path) -> None:
    (answer,) = from_hub(cache, "/no/such/folder", **OFFLINE)
    assert answer.startswith("ModelError: path must be a folder")


@pytest.mark.parametrize("read", ["load", "outline"])
def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(read: str, tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama(), tmp_path / "base")
    larger = tiny.tokenizer()
    larger.add_tokens(["<one>", "<two>"])
    larger.save_pretrained(folder)
    with pytest.raises(ModelError, match="at most the 257 tokens that the model embeds, but has 259"):
        getattr(tiny.factory(folder), read)([])


# An adapter as the beginning


@pytest.fixture
def adapted(tmp_path: Path) -> tuple[Path, Path]:
    """A base, and an adapter of it that is no beginner."""
    folder = tiny.save(tiny.llama(), tmp_path / "base")
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(tiny.llama(), config).save_pretrained(str(tmp_path / "adapter"))
    return folder, tmp_path / "adapter"


@torch.no_grad()
def test_an_adapter_is_merged_into_the_base(adapted: tuple[Path, Path]) -> None:
    folder, adapter = adapted
    model = HuggingFace(str(folder), adapter=str(adapter)).load([])
    ids = torch.tensor([[5, 6, 7, 8]])
    by_peft = PeftModel.from_pretrained(tiny.llama(), str(adapter)).eval()
    torch.testing.assert_close(model.module.eval()(ids).logits, by_peft(ids).logits, rtol=1e-4, atol=1e-4)
    assert all(each.requires_grad for each in model.module.parameters())
    assert not any("lora" in name for name, _ in model.module.named_modules())


def test_the_adapter_is_part_of_what_the_model_is(adapted: tuple[Path, Path]) -> None:
    folder, adapter = adapted
    alone, together = (HuggingFace(str(folder), adapter=each).fingerprint() for each in (None, str(adapter)))
    assert together.startswith(f"{alone} with ")
    (adapter / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text() + " ")
    assert HuggingFace(str(folder), adapter=str(adapter)).fingerprint() != together


@pytest.mark.parametrize("read", ["load", "outline"])
def test_what_is_no_adapter_of_layers_is_refused(
    read: str, adapted: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, adapter = adapted
    with pytest.raises(
        ModelError, match=r"must be the folder of an adapter of PEFT's, but .* has no adapter_config"
    ):
        getattr(HuggingFace(str(folder), adapter=str(folder)), read)([])
    (adapter / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING"}')
    with pytest.raises(ModelError, match="holds virtual tokens, which cannot be merged"):
        getattr(HuggingFace(str(folder), adapter=str(adapter)), read)([])
    with pytest.raises(ConfigurationError, match="but quantization=8bit; merge it once"):
        HuggingFace(str(folder), quantization="8bit", adapter=str(adapter))
