"""Blocks of running text: which tokens stand in them, what each sees, what they cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Example, Model, Objective, Rows
from myosotis.testing import ObjectiveTestSuite
from myosotis_plugins.objectives.language_modeling import LanguageModeling
from tests.plugins import tiny

DOCUMENTS = ["a rose is", "red", "", "and so it", "forgets", "n"]


def rows(texts: list[str]) -> list[dict[str, str]]:
    return [{"text": text} for text in texts]


def ids(text: str) -> list[int]:
    found: list[int] = tiny.tokenizer()(text)["input_ids"]
    return found


class TestJoined(ObjectiveTestSuite):
    def make(self) -> Objective:
        return LanguageModeling(length=12)

    def model(self) -> Model:
        return tiny.model()

    def rows(self) -> Rows:
        return rows(list(tiny.POEM))


class TestIsolated(TestJoined):
    def make(self) -> Objective:
        return LanguageModeling(length=24, packing="isolated")

    def weight(self, example: Example) -> float:
        return sum(place > 0 for place in example["position"])


def test_the_tokenizer_has_a_token_for_each_byte() -> None:
    assert len(ids("a rose")) == 6
    assert tiny.tokenizer().decode(ids("a rose")) == "a rose"


def test_joined_blocks_are_cut_from_all_documents_in_a_row() -> None:
    encoded = LanguageModeling(length=4).encode(rows(["abc", "defgh", "ij"]), tiny.model())
    assert [list(example["input_ids"]) for example in encoded] == [ids("abcd"), ids("efgh")]


def test_a_joined_block_is_its_own_label() -> None:
    objective, model = LanguageModeling(length=5), tiny.model()
    examples = objective.encode(rows(["abcdefghij"]), model)
    batch = objective.collate(examples, model)
    assert batch["input_ids"].tolist() == [ids("abcde"), ids("fghij")]
    expected = model.module(input_ids=batch["input_ids"], labels=batch["input_ids"]).loss
    loss = objective.loss(objective.forward(model.module, batch), batch)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_predictions_are_sums_over_the_predicted_tokens() -> None:
    objective, model = LanguageModeling(length=6), tiny.model()
    examples = objective.encode(rows(["forget me not"]), model)
    with torch.no_grad():
        columns = objective.predict(model.module, examples, model)
    assert columns["tokens"].tolist() == [5, 5]
    for example, loss in zip(examples, columns["loss"], strict=True):
        assert loss == pytest.approx(sum(token_losses(model.module, list(example["input_ids"]))), abs=1e-4)


def test_isolated_blocks_hold_whole_documents() -> None:
    encoded = LanguageModeling(length=8, packing="isolated").encode(
        rows(["abc", "defg", "hij", "kl"]), tiny.model()
    )
    assert [list(example["input_ids"]) for example in encoded] == [ids("abcdefg"), ids("hijkl")]
    assert encoded[0]["document"] == [0, 0, 0, 1, 1, 1, 1]
    assert encoded[0]["position"] == [0, 1, 2, 0, 1, 2, 3]


def test_a_single_token_is_no_document() -> None:
    """Nothing in it is predicted: a block of it alone would have no loss."""
    encoded = LanguageModeling(length=4, packing="isolated").encode(rows(["a", "bcdef", "gh"]), tiny.model())
    assert [list(example["input_ids"]) for example in encoded] == [ids("bcde"), ids("gh")]


def test_a_document_longer_than_a_block_is_cut() -> None:
    encoded = LanguageModeling(length=4, packing="isolated").encode(rows(["abcdefghij"]), tiny.model())
    assert [list(example["input_ids"]) for example in encoded] == [ids("abcd"), ids("efgh"), ids("ij")]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [*tiny.MODELS.values(), tiny.qwen2], ids=[*tiny.MODELS, "qwen2"])
def test_isolated_documents_are_as_if_each_stood_alone(make: Any, attention: str) -> None:
    model = tiny.model(make(attention))
    objective = LanguageModeling(length=16, packing="isolated")
    examples = objective.encode(rows(DOCUMENTS), model)
    blocks = [["a rose is", "red"], ["and so it", "forgets"]]
    assert [list(example["input_ids"]) for example in examples] == [ids("".join(block)) for block in blocks]
    batch = objective.collate(examples, model)
    with torch.no_grad():
        together = objective.forward(model.module, batch)
        loss = objective.loss(together, batch)
    for block, scores in zip(blocks, together, strict=True):
        start = 0
        for document in block:
            with torch.no_grad():
                alone = model.module(torch.tensor([ids(document)])).logits[0]
            packed = scores[start : start + len(document)]
            np.testing.assert_allclose(packed, alone, rtol=0, atol=1e-5)
            start += len(document)
    expected = [
        each for block in blocks for document in block for each in token_losses(model.module, ids(document))
    ]
    assert loss.item() == pytest.approx(np.mean(expected), abs=1e-5)
    with torch.no_grad():
        columns = objective.predict(model.module, examples, model)
    assert columns["tokens"].tolist() == [10, 14]
    assert columns["loss"].sum() == pytest.approx(sum(expected), abs=1e-4)


def test_joined_documents_do_see_each_other() -> None:
    """So that the test above can fail."""
    model = tiny.model()
    joined = LanguageModeling(length=12).encode(rows(["a rose is", "red"]), model)
    isolated = LanguageModeling(length=12, packing="isolated").encode(rows(["a rose is", "red"]), model)
    scores = []
    for packing, examples in (("joined", joined), ("isolated", isolated)):
        objective = LanguageModeling(length=12, packing=packing)  # type: ignore[arg-type]
        with torch.no_grad():
            scores.append(objective.forward(model.module, objective.collate(examples, model))[0, -1])
    assert not torch.allclose(scores[0], scores[1], atol=1e-2)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"length": 1}, "length must be at least 2 tokens, but got 1"),
        ({"packing": "tight"}, "must be joined or isolated"),
    ],
)
def test_values_that_cannot_be_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        LanguageModeling(**parameters)


def token_losses(module: nn.Module, tokens: list[int]) -> list[float]:
    """Score each token of a document from those before it, by a forward pass over it alone."""
    with torch.no_grad():
        scores = module(torch.tensor([tokens])).logits[0, :-1]
    losses = functional.cross_entropy(scores, torch.tensor(tokens[1:]), reduction="none")
    found: list[float] = losses.tolist()
    return found
