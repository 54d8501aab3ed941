"""Tagging words: pieces and words kept apart, losses as transformers gives them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from myosotis.errors import ConfigurationError, DataError
from myosotis.interfaces import Example, Model, Objective, Rows
from myosotis.testing import ObjectiveTestSuite
from myosotis_plugins.objectives.token_classification import TokenClassification
from tests.plugins.encoders import loaded

TAGS = ("O", "B-place", "I-place")
ROWS = [
    {"tokens": ["the", "new", "york"], "tags": ["O", "B-place", "I-place"]},
    {"tokens": ["rain"], "tags": ["O"]},
    {"tokens": ["to", "rome"], "tags": ["O", "B-place"]},
    {"tokens": ["a", "rose", "is", "red"], "tags": ["O"] * 4},
]


class OfOneModel(ObjectiveTestSuite):
    kind = "distilbert"

    @pytest.fixture(autouse=True)
    def _model(self, tmp_path: Path) -> None:
        self._loaded = loaded(self.kind, tmp_path, self.make())

    def make(self) -> Objective:
        return TokenClassification(TAGS, length=48)

    def model(self) -> Model:
        return self._loaded

    def rows(self) -> Rows:
        return ROWS

    def weight(self, example: Example) -> float:
        return len(example["tags"])


class TestDistilBert(OfOneModel):
    pass


class TestLlama(OfOneModel):
    kind = "llama"


class TestGPT2(OfOneModel):
    kind = "gpt2"


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return loaded("distilbert", tmp_path, TokenClassification(TAGS))


def test_a_words_tag_is_at_its_first_piece(model: Model) -> None:
    objective = TokenClassification(TAGS)
    batch = objective.collate(objective.encode(ROWS[:1], model), model)
    pieces = model.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert pieces == ["[CLS]", *"the", *"new", *"york", "[SEP]"]
    expected = [-100, 0, -100, -100, 1, -100, -100, 2, -100, -100, -100, -100]
    assert batch["targets"][0].tolist() == expected


def test_the_loss_is_that_of_transformers(model: Model) -> None:
    objective = TokenClassification(TAGS)
    model.module.eval()
    batch = objective.collate(objective.encode(ROWS, model), model)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = model.module(**inputs, labels=batch["targets"]).loss
    loss = objective.loss(objective.forward(model.module, batch), batch)
    torch.testing.assert_close(loss, expected)


@torch.no_grad()
def test_words_behind_the_length_count_as_outside(model: Model) -> None:
    long = {"tokens": ["paris", "rome"] * 8, "tags": ["B-place"] * 16}
    model.module.eval()
    # Tag everything as a place.
    model.module.classifier.weight.zero_()  # type: ignore[union-attr, operator]
    model.module.classifier.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))  # type: ignore[union-attr, operator]
    objective = TokenClassification(TAGS, length=16)
    columns = objective.predict(model.module, objective.encode([long], model), model)
    # [CLS] paris rome paris [SEP]: 1 + 5 + 4 + 5 + 1 pieces.
    assert columns["predicted_tags"][0] == ["B-place"] * 3 + ["O"] * 13
    assert columns["tags"][0] == long["tags"]
    assert columns["tokens"].tolist() == [3]


def test_a_word_of_which_the_tokenizer_makes_nothing_keeps_the_others_in_place(model: Model) -> None:
    objective = TokenClassification(TAGS)
    row = {"tokens": ["", "rome"], "tags": ["O", "B-place"]}
    [example] = objective.encode([row], model)
    assert [word for word in example["words"] if word is not None] == [1]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "there are 2 words and 1 tags: a b"),
        ({"tokens": [], "tags": []}, "there are 0 words"),
        ({"tokens": ["a"], "tags": ["B-plase"]}, "no tag named 'B-plase'. Did you mean B-place"),
    ],
)
def test_rows_that_do_not_fit_are_refused(row: dict[str, list[str]], told: str, model: Model) -> None:
    with pytest.raises(DataError, match=f"row 2: .*{told}"):
        TokenClassification(TAGS).encode([ROWS[0], row], model)


@pytest.mark.parametrize("tags", [["O"], ["O", "place"], ["O", "B-a", "B-a"]])
def test_tags_are_in_iob(tags: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="begin with B- or I-"):
        TokenClassification(tuple(tags))
