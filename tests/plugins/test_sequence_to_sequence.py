"""From text to text, by a decoder and by an encoder with one: losses and texts are transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from myosotis.errors import ConfigurationError, DataError, ModelError
from myosotis.interfaces import Example, Model, Objective, Rows
from myosotis.testing import ObjectiveTestSuite
from myosotis_plugins.objectives.sequence_to_sequence import SequenceToSequence
from tests.plugins import tiny
from tests.plugins.encoders import loaded

ROWS = [
    {"source": "sugar is sweet", "target": "sweet"},
    {"source": "rain", "target": "wet"},
    {"source": "a rose is red and so is wine", "target": "red things"},
    {"source": "b", "target": "c"},
]


class OfOneModel(ObjectiveTestSuite):
    kind = "t5"

    @pytest.fixture(autouse=True)
    def _model(self, tmp_path: Path) -> None:
        self._loaded = loaded(self.kind, tmp_path, self.make())

    def make(self) -> Objective:
        return SequenceToSequence(length=48, target_length=16)

    def model(self) -> Model:
        return self._loaded

    def rows(self) -> Rows:
        return ROWS

    def weight(self, example: Example) -> float:
        return len(example.get("target", example.get("response")))


class TestT5(OfOneModel):
    pass


class TestLlama(OfOneModel):
    kind = "llama"


class TestGPT2(OfOneModel):
    kind = "gpt2"


def t5(folder: Path) -> Model:
    """Load a T5 whose tokenizer ends every text, as T5's own does."""
    model = loaded("t5", folder, SequenceToSequence())
    model.tokenizer.eos_token = "[SEP]"
    model.module.eval()
    return model


def test_the_loss_is_that_of_transformers(tmp_path: Path) -> None:
    model, objective = t5(tmp_path), SequenceToSequence(template="{source}")
    batch = objective.collate(objective.encode(ROWS[:1], model), model)
    source = torch.tensor([model.tokenizer(ROWS[0]["source"])["input_ids"]])
    target = model.tokenizer(ROWS[0]["target"], add_special_tokens=False)["input_ids"]
    labels = torch.tensor([[*target, model.tokenizer.eos_token_id]])
    expected = model.module(input_ids=source, labels=labels).loss
    loss = objective.loss(objective.forward(model.module, batch), batch)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("kind", ["t5", "llama"])
@torch.no_grad()
def test_what_is_written_is_what_transformers_generates(kind: str, tmp_path: Path) -> None:
    """Alone, and in a batch of sources of different lengths."""
    objective = SequenceToSequence(target_length=12, template="{source}:")
    model = t5(tmp_path) if kind == "t5" else loaded(kind, tmp_path, objective)
    model.module.eval()
    module: Any = model.module
    written = objective.generate(model.module, objective.encode(ROWS, model), model)
    assert written["reference"].tolist() == [row["target"] for row in ROWS]
    for row, text in zip(ROWS, written["text"], strict=True):
        ids = torch.tensor([model.tokenizer(f"{row['source']}:")["input_ids"]])
        found = module.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0]
        expected = found[1 if kind == "t5" else ids.shape[1] :]
        assert text == model.tokenizer.decode(expected, skip_special_tokens=True)
    assert set(written["settings"]) == {"greedy, at most 12 new tokens"}


def test_a_long_source_loses_its_end_not_the_templates(tmp_path: Path) -> None:
    objective = SequenceToSequence(length=10, template="say: {source}!")
    [decoder] = objective.encode(ROWS[:1], loaded("llama", tmp_path, objective))
    assert tiny.tokenizer().decode(decoder["prompt"]) == "say: suga!"
    model = t5(tmp_path)
    [both] = objective.encode(ROWS[:1], model)
    assert model.tokenizer.decode(both["source"]) == "[CLS]say: su![SEP]"


def test_a_target_that_is_too_long_is_refused_with_its_row(tmp_path: Path) -> None:
    objective = SequenceToSequence(target_length=6)
    with pytest.raises(DataError, match="row 3: a target must have 1 to 6 tokens with its end, but has 11"):
        objective.encode(ROWS, loaded("llama", tmp_path, objective))


def test_an_encoder_alone_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="must have a model that is a decoder, but this one is a encoder"):
        loaded("bert", tmp_path, SequenceToSequence())


@pytest.mark.parametrize("options", [{"length": 1}, {"target_length": 1}, {"template": "translate"}])
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must"):
        SequenceToSequence(**options)
