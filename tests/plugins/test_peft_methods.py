"""DoRA, IA3, prefix and prompt tuning give plain PEFT's numbers; virtual tokens change no objective's meaning."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
)
from torch import Tensor

from myosotis.adaptation import adapt, frozen_names
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Method, Model, Objective, Share, Stage
from myosotis.testing import MethodTestSuite, TinyModel
from myosotis.testing.rehearsal import Rehearsal
from myosotis_plugins.methods.adapter_per_task import AdapterPerTask
from myosotis_plugins.methods.adapters import Adapters
from myosotis_plugins.methods.dora import DoRA
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.ia3 import IA3
from myosotis_plugins.methods.inc_lora import IncLoRA
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.olora import OLoRA
from myosotis_plugins.methods.prefix import Prefix
from myosotis_plugins.methods.prompt import Prompt
from myosotis_plugins.methods.replay import Replay
from myosotis_plugins.models.huggingface import HuggingFace
from myosotis_plugins.objectives.classification import Classification
from myosotis_plugins.objectives.instruction import Instruction
from myosotis_plugins.objectives.language_modeling import LanguageModeling
from tests.plugins import tiny
from tests.plugins.test_lora import IDS, check_against_peft, logits, trained

METHODS: dict[str, Callable[[], Method]] = {
    "dora": lambda: DoRA(rank=2),
    "ia3": IA3,
    "prefix": lambda: Prefix(tokens=3),
    "prompt": lambda: Prompt(tokens=3),
}
VIRTUAL = ["prefix", "prompt"]


class TestDoRA(tiny.OnLlama):
    def make(self) -> Method:
        return DoRA(rank=2)


class TestDoRAOnLinearLayers(MethodTestSuite):
    def make(self) -> Method:
        return DoRA(rank=2, dropout=0.1)


class TestIA3(tiny.OnLlama):
    def make(self) -> Method:
        return IA3()


class TestIA3OnLinearLayers(MethodTestSuite):
    def make(self) -> Method:
        return IA3(targets=["0", "3"], feedforward=["3"])


class TestPrefix(tiny.OnLlama):
    def make(self) -> Method:
        return Prefix(tokens=3)


class TestPrefixFromANetwork(TestPrefix):
    def make(self) -> Method:
        return Prefix(tokens=3, hidden=8)


class TestPrompt(tiny.OnLlama):
    def make(self) -> Method:
        return Prompt(tokens=3)


# Against PEFT


@pytest.mark.parametrize(
    ("method", "config"),
    [
        (DoRA(rank=4), LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules="all-linear")),
        (IA3(), IA3Config()),
        (Prefix(tokens=5), PrefixTuningConfig(num_virtual_tokens=5)),
        (
            Prefix(tokens=5, hidden=8),
            PrefixTuningConfig(num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=8),
        ),
        (
            Prompt(tokens=5),
            PromptTuningConfig(num_virtual_tokens=5, prompt_tuning_init="SAMPLE_VOCAB"),
        ),
        (Prompt(tokens=5, initialization="random"), PromptTuningConfig(num_virtual_tokens=5)),
    ],
    ids=["dora", "ia3", "prefix", "prefix-network", "prompt", "prompt-random"],
)
def test_losses_are_those_of_plain_peft(
    method: Method, config: Any, llama_folder: Path, tmp_path: Path
) -> None:
    config.task_type = "CAUSAL_LM"
    check_against_peft(method, config, llama_folder, tmp_path, drop=0.01)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", tiny.MODELS)
def test_what_is_saved_gives_the_same_predictions_in_peft(name: str, kind: str, tmp_path: Path) -> None:
    factory = tiny.factory(tiny.save(tiny.MODELS[kind](), tmp_path / "base"))
    model = factory.load([])
    base = logits(model.module)
    adapted = trained(METHODS[name]().adapt(model, tiny.context(model)))
    factory.save(Model(adapted), tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(factory.load([]).module, tmp_path / "adapter")
    expected = logits(adapted)
    assert expected.shape == base.shape
    torch.testing.assert_close(logits(loaded)[:, -IDS.shape[1] :], expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, base, atol=1e-2)


@pytest.mark.parametrize("name", VIRTUAL)
def test_without_its_virtual_tokens_the_model_is_the_base(name: str) -> None:
    model = tiny.model()
    base = logits(model.module)
    adapted: Any = METHODS[name]().adapt(model, tiny.context(model))
    assert not torch.allclose(logits(adapted), base, atol=1e-2)
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted), base)


@pytest.mark.parametrize(
    ("kind", "outputs", "inputs"),
    [
        ("llama", {"self_attn.k_proj", "self_attn.v_proj"}, {"mlp.down_proj"}),
        ("gpt2", {"attn.c_attn"}, {"mlp.c_proj"}),
        ("opt", {"self_attn.q_proj", "self_attn.k_proj"}, {"fc2"}),
    ],
)
def test_ia3_takes_the_layers_that_peft_knows(kind: str, outputs: set[str], inputs: set[str]) -> None:
    model = tiny.model(tiny.MODELS[kind]())
    module = IA3().adapt(model, tiny.context(model))
    found: dict[bool, set[str]] = {False: set(), True: set()}
    for name, each in module.named_modules():
        if hasattr(each, "ia3_l"):
            found[each.is_feedforward].add(re.split(r"\.\d+\.", name)[-1])
    assert found == {False: outputs, True: inputs}


def test_ia3_names_the_architectures_that_peft_knows() -> None:
    model = TinyModel().load([])
    with pytest.raises(ConfigurationError, match=r"targets must be given for Sequential; PEFT knows .*llama"):
        IA3().adapt(model, tiny.context(model))


# Virtual tokens and what objectives give a model


def by_peft(module: Any, ids: Sequence[int]) -> Tensor:
    """Give the log-probabilities after each of one row's tokens by PEFT's own forward pass, which nothing pads."""
    with torch.no_grad():
        outputs = module.inner(input_ids=torch.tensor([list(ids)]))
    return outputs.logits[0, -len(ids) :].float().log_softmax(dim=-1)


def loss_by_peft(module: Any, ids: Sequence[int], first: int) -> float:
    """Sum −log p of the tokens from a place on."""
    scores = by_peft(module, ids)
    return -float(sum(scores[place - 1, ids[place]] for place in range(first, len(ids))))


@pytest.fixture(
    params=[(kind, attention) for kind in tiny.MODELS for attention in ("sdpa", "eager")], ids="-".join
)
def bare(request: pytest.FixtureRequest) -> Model:
    kind, attention = request.param
    module = tiny.MODELS[kind]()
    module.set_attn_implementation(attention)
    return tiny.model(module)


def with_tokens(name: str, model: Model) -> Model:
    return Model(METHODS[name]().adapt(model, tiny.context(model)).eval(), model.tokenizer)


def predicted(objective: Objective, model: Model, rows: list[dict[str, str]]) -> Any:
    with torch.no_grad():
        return objective.predict(model.module, objective.encode(rows, model), model)


@pytest.mark.parametrize("name", VIRTUAL)
def test_documents_of_a_packed_block_are_scored_as_each_alone(name: str, bare: Model) -> None:
    model = with_tokens(name, bare)
    objective = LanguageModeling(length=60, packing="isolated")
    found = predicted(objective, model, [{"text": text} for text in tiny.POEM[:3]])
    documents = model.tokenizer(list(tiny.POEM[:3]))["input_ids"]
    expected = sum(loss_by_peft(model.module, ids, first=1) for ids in documents)
    assert len(found["loss"]) < 3
    assert found["loss"].sum() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", VIRTUAL)
def test_responses_are_scored_as_each_row_without_padding(name: str, bare: Model) -> None:
    model = with_tokens(name, bare)
    rows = [{"prompt": "a rose", "response": "is red"}, {"prompt": "x", "response": "and all the rest of it"}]
    objective = Instruction(template="plain")
    found = predicted(objective, model, rows)
    expected = [
        loss_by_peft(model.module, [*each["prompt"], *each["response"]], first=len(each["prompt"]))
        for each in objective.encode(rows, model)
    ]
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-4)


@pytest.mark.parametrize("name", VIRTUAL)
def test_labels_are_scored_as_each_alone_after_the_prompt(name: str, bare: Model) -> None:
    model = with_tokens(name, bare)
    objective = Classification(labels=("rose", "violet", "thorn"))
    rows = [{"text": "red", "label": "rose"}, {"text": "blue as the sea", "label": "violet"}]
    found = predicted(objective, model, rows)
    for index, each in enumerate(objective.encode(rows, model)):
        start = len(each["prompt"])
        likelihoods = -torch.tensor(
            [
                loss_by_peft(model.module, [*each["prompt"], *option], first=start)
                for option in each["options"]
            ]
        )
        expected = -likelihoods.log_softmax(dim=0)[each["label"]].item()
        assert found["loss"][index] == pytest.approx(expected, abs=1e-3)
        assert found["prediction"][index] == likelihoods.argmax()


@pytest.mark.parametrize("name", VIRTUAL)
def test_the_training_loss_is_the_mean_over_the_scored_tokens(name: str, bare: Model) -> None:
    model = with_tokens(name, bare)
    objective = Instruction(template="plain")
    rows = [{"prompt": "a rose", "response": "is red"}, {"prompt": "x", "response": "and all the rest of it"}]
    examples = objective.encode(rows, model)
    batch = objective.collate(examples, model)
    loss = objective.loss(objective.forward(model.module, batch), batch)
    sums = [
        loss_by_peft(model.module, [*each["prompt"], *each["response"]], first=len(each["prompt"]))
        for each in examples
    ]
    assert loss.item() == pytest.approx(sum(sums) / sum(len(each["response"]) for each in examples), rel=1e-4)
    loss.backward()
    inner: Any = model.module.inner
    assert all(each.grad is not None and each.grad.any() for each in inner.prompt_encoder.parameters())
    assert all(each.grad is None for each in inner.base_model.parameters())


@pytest.mark.parametrize("name", VIRTUAL)
def test_no_block_is_taken_for_frozen(name: str, llama_folder: Path) -> None:
    """Every block sees the virtual tokens, which train: none of their outputs may be kept."""
    factory = tiny.factory(llama_folder)
    model = factory.load([])
    adapted = adapt(model, {name: METHODS[name]()}, tiny.context(model), trains=True, blocks=factory.blocks)
    assert len(factory.blocks(adapted.model.module).chain) == tiny.BLOCKS
    assert len(adapted.prefix) == 0


# With other bases, precisions and methods


@pytest.mark.parametrize(
    ("name", "quantization"),
    [(name, kind) for name in METHODS for kind in ("8bit", "nf4") if (name, kind) != ("dora", "8bit")],
)
def test_learns_on_a_quantized_base(name: str, quantization: Any, tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama(width=64, blocks=2), tmp_path / "wide")
    losses, _ = tiny.losses(
        tmp_path / "trial",
        tiny.factory(folder, quantization),
        tiny.text_task("poem", tiny.POEM),
        {name: METHODS[name]()},
        steps=12,
        stages=(Stage(1, {"poem": Share(1, 1)}),),
    )
    assert sum(losses[-4:]) < sum(losses[:4])


def test_dora_refuses_8_bits_on_a_cpu(tmp_path: Path) -> None:
    model = tiny.factory(tiny.save(tiny.llama(width=64, blocks=1), tmp_path), "8bit").load([])
    with pytest.raises(ConfigurationError, match="on a CPU the base must not be in 8 bits"):
        DoRA().adapt(model, tiny.context(model))


EVERY: dict[str, Callable[[], Method]] = {
    **METHODS,
    "lora": lambda: LoRA(rank=2, rslora=True),
    "pissa": lambda: LoRA(rank=2, initialization="pissa"),
    "olora initialization": lambda: LoRA(rank=2, initialization="olora"),
    "adapters": lambda: Adapters(bottleneck=4),
    "inc_lora": lambda: IncLoRA(rank=2),
    "olora": lambda: OLoRA(rank=2, decay=0.01),
    "adapter_per_task": lambda: AdapterPerTask(rank=2),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "32-true"), ("float32", "bf16-mixed")])
def test_learns_in_bfloat16_with_parameters_of_its_own_in_float32(
    name: str, dtype: Any, precision: str, llama_folder: Path, tmp_path: Path
) -> None:
    trial = Rehearsal(
        tmp_path / "trial",
        HuggingFace(str(llama_folder), dtype=dtype),
        {"poem": tiny.text_task("poem", tiny.POEM)},
        EVERY[name](),
        trainer={"precision": precision, "max_steps": 12, "log_every_n_steps": 4},
    ).run()
    assert {each.dtype for each in trial.after.ends[-1].values()} == {torch.float32}
    lines = (trial.folder / "metrics.jsonl").read_text().splitlines()
    first, *_, last = [json.loads(line)["loss"] for line in lines]
    assert last < first - 0.01
    assert all(np.isfinite(score.value) for score in trial.scores)


def test_no_factors_go_into_frozen_blocks() -> None:
    model = tiny.model()
    methods: dict[str, Method] = {"ia3": IA3(), "freeze": Freeze(first=2)}
    context = tiny.context(model, frozen_names(model, methods))
    trained_names = set(adapt(model, methods, context, trains=True).trainable())
    layers = ("self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj")
    assert trained_names == {f"base_model.model.model.layers.2.{layer}.ia3_l.default" for layer in layers}


def test_a_prefix_goes_into_no_frozen_block() -> None:
    model = tiny.model()
    methods: dict[str, Method] = {"prefix": Prefix(), "freeze": Freeze(first=1)}
    context = tiny.context(model, frozen_names(model, methods))
    with pytest.raises(ConfigurationError, match="no block must be frozen, for every one sees the prefix"):
        adapt(model, methods, context, trains=True)


@pytest.mark.parametrize("name", METHODS)
def test_replay_and_frozen_embeddings_go_along(name: str, llama_folder: Path, tmp_path: Path) -> None:
    methods = {name: METHODS[name](), "freeze": Freeze(embeddings=True), "replay": Replay(share=0.5)}
    stages = (Stage(1, {"poem": Share(1, 1)}), Stage(2, {"poem": Share(1, 1)}))
    task = tiny.text_task("poem", tiny.POEM)
    losses, _ = tiny.losses(
        tmp_path / "trial", tiny.factory(llama_folder), task, methods, steps=8, stages=stages
    )
    assert len(losses) == 16
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("first", METHODS)
@pytest.mark.parametrize("second", [*METHODS, "lora"])
def test_adapters_on_adapters_are_refused(first: str, second: str) -> None:
    methods = {**METHODS, "lora": LoRA}
    model = tiny.model()
    adapted = Model(methods[first]().adapt(model, tiny.context(model)))
    with pytest.raises(ConfigurationError, match="must go onto a base without adapters"):
        methods[second]().adapt(adapted, tiny.context(adapted))


@pytest.mark.parametrize("name", VIRTUAL)
def test_virtual_tokens_need_a_language_model(name: str) -> None:
    model = TinyModel().load([])
    with pytest.raises(
        ConfigurationError, match="causal language model of transformers, but this is a Sequential"
    ):
        METHODS[name]().adapt(model, tiny.context(model))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DoRA(rank=0), "rank must be at least 1, but got 0"),
        (lambda: DoRA(dropout=1.0), "dropout must be at least 0 and less than 1, but got 1.0"),
        (
            lambda: IA3(targets=["a"], feedforward=["b"]),
            r"feedforward must be among targets \['a'\], but got \['b'\]",
        ),
        (lambda: Prefix(tokens=0), "tokens must be at least 1, but got 0"),
        (lambda: Prefix(hidden=0), "hidden must be at least 1 unit, but got 0"),
        (lambda: Prompt(tokens=0), "tokens must be at least 1, but got 0"),
        (
            lambda: Prompt(initialization="text"),  # type: ignore[arg-type]
            "initialization must be vocabulary or random, but got 'text'",
        ),
    ],
)
def test_values_out_of_range_are_refused(make: Callable[[], Method], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()
