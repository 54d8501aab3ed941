"""Language modelling of an encoder: tokens are hidden as BERT's paper says, the same every time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from myosotis.errors import ModelError
from myosotis.interfaces import Example, Model, Objective, Rows
from myosotis.testing import ObjectiveTestSuite
from myosotis_plugins.objectives.language_modeling import LanguageModeling
from tests.plugins import tiny
from tests.plugins.encoders import loaded

ROWS = [{"text": text} for text in (*tiny.POEM, *tiny.PROSE)]


class OfOnePacking(ObjectiveTestSuite):
    packing = "joined"

    @pytest.fixture(autouse=True)
    def _model(self, tmp_path: Path) -> None:
        self._loaded = loaded("distilbert", tmp_path, self.make())

    def make(self) -> Objective:
        return LanguageModeling(32, self.packing)  # type: ignore[arg-type]

    def model(self) -> Model:
        return self._loaded

    def rows(self) -> Rows:
        return ROWS

    def weight(self, example: Example) -> float:
        return int((example["targets"] != -100).sum())


class TestJoined(OfOnePacking):
    pass


class TestIsolated(OfOnePacking):
    packing = "isolated"


def test_shares_are_those_of_the_paper(tmp_path: Path) -> None:
    objective = LanguageModeling(60, masking=0.15)
    model = loaded("distilbert", tmp_path, objective)
    generator = np.random.default_rng(1)
    texts = ["".join(map(chr, generator.integers(97, 123, size=5000))) for _ in range(20)]
    examples = objective.encode([{"text": text} for text in texts], model)
    hidden = np.stack([example["input_ids"] for example in examples])
    targets = np.stack([example["targets"] for example in examples])
    chosen = targets != -100
    original = np.where(chosen, targets, hidden)
    share = chosen.mean()
    assert share == pytest.approx(0.15, abs=0.01)
    mask = model.tokenizer.mask_token_id
    count = chosen.sum()
    for expected, found in (
        (0.8, (hidden[chosen] == mask).mean()),
        # A tenth becomes another token, which is its own in one of 260 cases.
        (0.1, ((hidden[chosen] != mask) & (hidden[chosen] != original[chosen])).mean()),
    ):
        assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / count)
    assert not np.isin(original[chosen], model.tokenizer.all_special_ids).any()


def test_every_encoding_hides_the_same(tmp_path: Path) -> None:
    objective = LanguageModeling(32)
    model = loaded("distilbert", tmp_path, objective)
    one, other = objective.encode(ROWS, model), objective.encode(ROWS, model)
    for first, second in zip(one, other, strict=True):
        assert (first["input_ids"] == second["input_ids"]).all()


def test_the_loss_is_that_of_transformers(tmp_path: Path) -> None:
    objective = LanguageModeling(32)
    model = loaded("distilbert", tmp_path, objective)
    model.module.eval()
    batch = objective.collate(objective.encode(ROWS, model), model)
    expected = model.module(input_ids=batch["input_ids"], labels=batch["targets"]).loss
    torch.testing.assert_close(objective.loss(objective.forward(model.module, batch), batch), expected)


@torch.no_grad()
def test_an_isolated_document_is_predicted_as_if_alone(tmp_path: Path) -> None:
    objective = LanguageModeling(64, "isolated")
    model = loaded("bert", tmp_path, objective)
    model.module.eval()
    [block, *_] = objective.encode(ROWS, model)
    logits = objective.forward(model.module, objective.collate([block], model))[0]
    document = np.asarray(block["document"])
    assert len(set(document)) > 1
    for number in sorted(set(document)):
        own = document == number
        alone = model.module(input_ids=torch.tensor(np.asarray(block["input_ids"])[own])[None]).logits[0]
        torch.testing.assert_close(logits[: len(own)][torch.tensor(own)], alone, rtol=1e-4, atol=1e-5)


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path) -> None:
    objective = LanguageModeling(32)
    model = loaded("distilbert", tmp_path, objective)
    model.tokenizer.mask_token = None
    with pytest.raises(ModelError, match="must have a tokenizer with a mask"):
        objective.encode(ROWS, model)


def test_a_model_of_both_has_no_masked_tokens(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="take the objective sequence_to_sequence"):
        loaded("t5", tmp_path, LanguageModeling())
