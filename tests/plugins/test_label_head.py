"""Classification by a head of labels: against transformers' own classes, alone and in whole trials."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForSequenceClassification

from myosotis.adaptation import adapt
from myosotis.errors import ConfigurationError, ModelError
from myosotis.interfaces import Method, Model, Objective, Rows, Share, Stage
from myosotis.stacking import Branch, obstacle
from myosotis.testing import ObjectiveTestSuite
from myosotis_plugins.methods.adapter_per_task import AdapterPerTask
from myosotis_plugins.methods.adapters import Adapters
from myosotis_plugins.methods.dora import DoRA
from myosotis_plugins.methods.finetuned import Finetuned
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.full import Full
from myosotis_plugins.methods.ia3 import IA3
from myosotis_plugins.methods.inc_lora import IncLoRA
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.olora import OLoRA
from myosotis_plugins.objectives.classification import Classification
from myosotis_plugins.objectives.language_modeling import LanguageModeling
from tests.plugins import tiny
from tests.plugins.encoders import loaded

LABELS = ("sad", "glad")
ROWS = [
    {"text": "sugar is sweet", "label": "glad"},
    {"text": "rain", "label": "sad"},
    {"text": "for every rose there is a thorn", "label": "sad"},
    {"text": "a feast", "label": "glad"},
]
KINDS = ["distilbert", "bert", "llama", "gpt2"]
PATHS = {
    "distilbert": ("classifier", "pre_classifier"),
    "bert": ("classifier",),
    "llama": ("score",),
    "gpt2": ("score",),
    "t5": ("classification_head.dense", "classification_head.out_proj"),
}


def by_head(name: str = "", labels: tuple[str, ...] = LABELS) -> Classification:
    return Classification(labels, length=24, by="head", head_name=name)


class OfOneModel(ObjectiveTestSuite):
    kind = "distilbert"

    @pytest.fixture(autouse=True)
    def _model(self, tmp_path: Path) -> None:
        self._loaded = loaded(self.kind, tmp_path, self.make())

    def make(self) -> Objective:
        return by_head()

    def model(self) -> Model:
        return self._loaded

    def rows(self) -> Rows:
        return ROWS


class TestDistilBert(OfOneModel):
    pass


class TestBert(OfOneModel):
    kind = "bert"


class TestLlama(OfOneModel):
    kind = "llama"


class TestT5(OfOneModel):
    kind = "t5"

    def rows(self) -> Rows:
        # T5 classifies by its last end token, and there must be as many in each row of a batch.
        return [{**row, "text": f"{row['text']}</s>"} for row in ROWS]


# Loading


@pytest.mark.parametrize("kind", PATHS)
def test_the_head_is_new_and_the_same_every_time(kind: str, tmp_path: Path) -> None:
    objective = by_head()
    one = loaded(kind, tmp_path, objective)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    other = tiny.factory(tmp_path / kind).load([objective])
    assert torch.equal(torch.get_rng_state(), state)
    assert one.new == other.new == PATHS[kind]
    for name, value in one.module.state_dict().items():
        assert torch.equal(value, other.module.state_dict()[name]), name
    outlined = tiny.factory(tmp_path / kind).outline([objective])
    assert outlined.new == one.new
    shapes = {name: value.shape for name, value in one.module.named_parameters()}
    assert {name: value.shape for name, value in outlined.module.named_parameters()} == shapes


def test_the_body_is_the_bases(tmp_path: Path) -> None:
    model = loaded("distilbert", tmp_path, by_head())
    base = tiny.distilbert().state_dict()
    for name, value in model.module.state_dict().items():
        if name.startswith("distilbert."):
            assert torch.equal(value, base[name]), name


def test_one_head_has_the_labels_of_all_tasks(tmp_path: Path) -> None:
    shared = [by_head(), by_head(labels=("glad", "mad"))]
    config: Any = loaded("bert", tmp_path, *shared).module.config
    assert config.id2label == {0: "sad", 1: "glad", 2: "mad"}
    own = [by_head("one"), by_head("other")]
    config = loaded("bert", tmp_path, *own).module.config
    assert list(config.id2label.values()) == ["one: sad", "one: glad", "other: sad", "other: glad"]


def test_a_decoder_is_asked_for_words_unless_told_otherwise(tmp_path: Path) -> None:
    words = loaded("llama", tmp_path, Classification(LABELS))
    assert type(words.module).__name__ == "LlamaForCausalLM"
    assert words.new == ()
    assert type(loaded("llama", tmp_path, by_head()).module).__name__ == "LlamaForSequenceClassification"
    encoder = loaded("bert", tmp_path, Classification(LABELS))
    assert type(encoder.module).__name__ == "BertForSequenceClassification"


def test_two_kinds_of_heads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"one kind of head.*Classification.*and LanguageModeling"):
        loaded("bert", tmp_path, by_head(), LanguageModeling())


def test_an_encoder_finds_no_words_likely(tmp_path: Path) -> None:
    folder = tiny.save_encoder(tiny.distilbert(), tmp_path / "base")
    with pytest.raises(ModelError, match=r"must be those of a|cannot be loaded"):
        tiny.factory(folder).load([Classification(LABELS, by="likelihood")])


def test_a_body_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny.save_encoder(tiny.bert(), tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layer.0.output.dense.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for read in ("load", "outline"):
        with pytest.raises(ModelError, match=r"must be complete, but lack 1, such as .*output.dense.weight"):
            getattr(tiny.factory(folder), read)([by_head()])


# Values


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_transformers(kind: str, tmp_path: Path) -> None:
    objective = Classification(LABELS, length=64, by="head")
    model = loaded(kind, tmp_path, objective)
    model.module.eval()
    batch = objective.collate(objective.encode(ROWS, model), model)
    labels = torch.tensor([LABELS.index(row["label"]) for row in ROWS])
    encoded = model.tokenizer([row["text"] for row in ROWS])["input_ids"]
    losses = [
        model.module(input_ids=torch.tensor([ids]), labels=label[None]).loss.item()
        for ids, label in zip(encoded, labels, strict=True)
    ]
    loss = objective.loss(objective.forward(model.module, batch), batch)
    assert loss.item() == pytest.approx(np.mean(losses), abs=1e-5)


def test_a_long_text_keeps_its_beginning_and_its_last_special_token(tmp_path: Path) -> None:
    objective = Classification(LABELS, length=6, by="head")
    model = loaded("bert", tmp_path, objective)
    [example] = objective.encode([{"text": "sugar is sweet", "label": "glad"}], model)
    assert model.tokenizer.decode(example["ids"]) == "[CLS]suga[SEP]"


def test_a_task_with_a_head_of_its_own_chooses_among_its_labels(tmp_path: Path) -> None:
    one, other = by_head("one"), by_head("other")
    model = loaded("bert", tmp_path, one, other)
    model.module.eval()
    for number, objective in enumerate((one, other)):
        examples = objective.encode(ROWS, model)
        with torch.no_grad():
            columns = objective.predict(model.module, examples, model)
            batch = objective.collate(examples, model)
            logits = model.module(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits[:, 2 * number : 2 * number + 2]
        expected = torch.tensor([LABELS.index(row["label"]) for row in ROWS])
        assert (columns["label"] - 2 * number == expected.numpy()).all()
        assert (columns["prediction"] - 2 * number == logits.argmax(dim=1).numpy()).all()
        losses = torch.nn.functional.cross_entropy(logits, expected, reduction="none")
        np.testing.assert_allclose(columns["loss"], losses.numpy(), rtol=1e-5)


def test_tasks_that_share_a_head_choose_among_all_labels(tmp_path: Path) -> None:
    first, second = by_head(), by_head(labels=("mad", "calm"))
    model = loaded("bert", tmp_path, first, second)
    [example] = second.encode([{"text": "storm", "label": "calm"}], model)
    assert example["label"] == 3
    assert sorted(example["outputs"]) == [0, 1, 2, 3]


@torch.no_grad()
def test_a_label_may_hold_what_stands_between_a_head_and_its_labels(tmp_path: Path) -> None:
    labels = ("politics", "sport: tennis", "sport: football")
    objective = by_head(labels=labels)
    model = loaded("bert", tmp_path, objective)
    model.module.eval()
    rows = [{"text": "a match", "label": label} for label in labels]
    losses = objective.predict(model.module, objective.encode(rows, model), model)["loss"]
    ids = torch.tensor([model.tokenizer("a match")["input_ids"]] * 3)
    logits = model.module(input_ids=ids).logits
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(3), reduction="none")
    np.testing.assert_allclose(losses, expected.numpy(), rtol=1e-5)


def test_a_head_is_found_whatever_others_are_called(tmp_path: Path) -> None:
    one, other = by_head("a"), by_head("a: b")
    model = loaded("bert", tmp_path, one, other)
    found = [each.encode(ROWS[:1], model)[0]["outputs"] for each in (one, other)]
    assert found == [[0, 1], [2, 3]]


def test_an_output_of_two_heads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'sport: sad' names one of the head '' and one of 'sport'"):
        loaded("bert", tmp_path, by_head("sport"), by_head(labels=("sport: sad", "glad")))


# Methods


METHODS: dict[str, Method] = {
    "full": Full(),
    "freeze": Freeze(first=1),
    "lora": LoRA(rank=2),
    "pissa": LoRA(rank=2, initialization="pissa"),
    "olora": LoRA(rank=2, initialization="olora"),
    "inc_lora": IncLoRA(rank=2),
    "o_lora": OLoRA(rank=2),
    "dora": DoRA(rank=2),
    "adapters": Adapters(bottleneck=4),
    "ia3": IA3(targets=["q_lin", "v_lin"]),
}


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_what_is_new_trains_and_is_saved(name: str, tmp_path: Path) -> None:
    objective = by_head()
    folder = tiny.save_encoder(tiny.distilbert(), tmp_path / "base")
    factory = tiny.factory(folder)
    model = factory.load([objective])
    adapted = adapt(model, {name: METHODS[name]}, tiny.context(model), trains=True)
    trained = adapted.trainable()
    heads = {each for each in trained if "classifier" in each}
    assert len([each for each in heads if ".classifier" in f".{each}" and "pre_" not in each]) == 2
    assert len([each for each in heads if "pre_classifier" in each]) == 2
    generator = torch.Generator().manual_seed(3)
    for value in trained.values():
        value += 0.3 * torch.randn(value.shape, generator=generator)
    adapted.model.module.eval()
    examples = objective.encode(ROWS, model)
    expected = objective.predict(adapted.model.module, examples, model)["loss"]
    (tmp_path / "saved").mkdir()
    factory.save(adapted.model, tmp_path / "saved")
    for again in (
        factory.restore(tmp_path / "saved", [objective]).module,
        Finetuned(str(tmp_path / "saved")).adapt(factory.load([objective]), tiny.context(model)),
    ):
        again.eval()
        np.testing.assert_allclose(objective.predict(again, examples, model)["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("merge", [False, True])
def test_what_is_exported_loads_by_the_libraries_with_its_labels(merge: bool, tmp_path: Path) -> None:
    objective = by_head()
    factory = tiny.factory(tiny.save_encoder(tiny.distilbert(), tmp_path / "base"))
    model = factory.load([objective])
    adapted = adapt(model, {"lora": LoRA(rank=2)}, tiny.context(model), trains=True)
    with torch.no_grad():
        for value in adapted.trainable().values():
            value += 0.3
    for name in ("saved", "out"):
        (tmp_path / name).mkdir()
    factory.save(adapted.model, tmp_path / "saved")
    factory.export(tmp_path / "saved", tmp_path / "out", [objective], merge, None)
    kind: Any = AutoModelForSequenceClassification if merge else AutoPeftModelForSequenceClassification
    found = kind.from_pretrained(tmp_path / "out", num_labels=2).eval()
    adapted.model.module.eval()
    ids = torch.tensor([model.tokenizer("sugar is sweet")["input_ids"]])
    torch.testing.assert_close(found(ids).logits, adapted.model.module(ids).logits, rtol=1e-5, atol=1e-5)
    if merge:
        assert found.config.id2label == {0: "sad", 1: "glad"}


def test_what_loads_an_adapter_on_a_decoder_says_what_rows_are_filled_up_with(tmp_path: Path) -> None:
    objective = by_head()
    factory = tiny.factory(tiny.save(tiny.llama(), tmp_path / "base"))
    model = factory.load([objective])
    adapted = LoRA(rank=2).adapt(model, tiny.context(model))
    for name in ("saved", "out"):
        (tmp_path / name).mkdir()
    factory.save(replace(model, module=adapted), tmp_path / "saved")
    exported = factory.export(tmp_path / "saved", tmp_path / "out", [objective], False, None)
    made: dict[str, Any] = {}
    exec(exported.usage.replace("{folder}", str(tmp_path / "out")), made)
    end = model.tokenizer.eos_token_id
    rows = [model.tokenizer(text)["input_ids"] for text in ("rain", "a feast")]
    width = max(map(len, rows))
    ids = torch.tensor([row + [end] * (width - len(row)) for row in rows])
    alone = [adapted.eval()(torch.tensor([row])).logits[0] for row in rows]
    torch.testing.assert_close(made["model"].eval()(ids).logits, torch.stack(alone), rtol=1e-5, atol=1e-5)


def test_methods_without_a_place_for_a_head_say_so(tmp_path: Path) -> None:
    model = loaded("bert", tmp_path, by_head())
    with pytest.raises(
        ConfigurationError, match="every part of the model must be pretrained, but classifier"
    ):
        AdapterPerTask(rank=2).adapt(model, tiny.context(model))


@pytest.mark.parametrize("method", [IncLoRA(rank=2), OLoRA(rank=2)])
def test_a_head_trains_in_every_stage_and_is_saved_as_it_is_at_the_end(
    method: Method, tmp_path: Path
) -> None:
    objective = by_head()
    factory = tiny.factory(tiny.save_encoder(tiny.distilbert(), tmp_path / "base"))
    model = factory.load([objective])
    stages = tuple(Stage(index, {"poem": Share(1, 1)}) for index in (1, 2))
    context = replace(tiny.context(model), stages=stages)
    adapted = adapt(model, {"method": method}, context, trains=True)
    generator = torch.Generator().manual_seed(3)
    for stage in stages:
        method.begin_stage(stage, context)
        trains = {name: each for name, each in adapted.model.module.named_parameters() if each.requires_grad}
        others = {name for name in trains if f"stage{stage.index}" not in name}
        assert all("classifier" in name for name in others)
        assert len([name for name in trains if "classifier" in name]) == 4
        with torch.no_grad():
            for value in trains.values():
                value += 0.3 * torch.randn(value.shape, generator=generator)
    adapted.model.module.eval()
    examples = objective.encode(ROWS, model)
    with torch.no_grad():
        expected = objective.predict(adapted.model.module, examples, model)["loss"]
        (tmp_path / "saved").mkdir()
        factory.save(adapted.model, tmp_path / "saved")
        again = factory.restore(tmp_path / "saved", [objective]).module.eval()
        np.testing.assert_allclose(objective.predict(again, examples, model)["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("quantization", ["8bit", "nf4"])
def test_the_head_of_a_quantized_base_trains(quantization: Any, tmp_path: Path) -> None:
    module = tiny.llama(width=64, blocks=1)
    model = tiny.factory(tiny.save(module, tmp_path / "base"), quantization).load([by_head()])
    adapted = adapt(model, {"full": Full()}, tiny.context(model), trains=True)
    assert list(adapted.trainable()) == ["score.weight"]


def test_trials_with_heads_can_share_a_forward_pass(tmp_path: Path) -> None:
    base = loaded("llama", tmp_path, by_head())
    branch = Branch(base.module)
    adapted = adapt(
        Model(branch.module, base.tokenizer, base.new),
        {"lora": LoRA(rank=2)},
        tiny.context(base),
        trains=True,
    )
    assert obstacle(branch, adapted.model.module) is None
