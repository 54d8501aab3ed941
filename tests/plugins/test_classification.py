"""Choosing labels: the same as scoring each label after the prompt, one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from myosotis.errors import ConfigurationError, DataError
from myosotis.interfaces import Example, Model, Objective, Rows
from myosotis.testing import ObjectiveTestSuite
from myosotis_plugins.objectives.classification import Classification
from tests.plugins import tiny

LABELS = ("verse", "prose", "a list")
ROWS = [
    {"text": text, "label": LABELS[index % len(LABELS)]}
    for index, text in enumerate((*tiny.POEM, *tiny.PROSE))
]


def ids(text: str) -> list[int]:
    found: list[int] = tiny.tokenizer()(text)["input_ids"]
    return found


class TestClassification(ObjectiveTestSuite):
    def make(self) -> Objective:
        return Classification(LABELS, length=48)

    def model(self) -> Model:
        return tiny.model()

    def rows(self) -> Rows:
        return ROWS

    def weight(self, example: Example) -> float:
        return len(example["options"][example["label"]])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2], ids=["llama", "gpt2"])
def test_predictions_are_those_of_each_label_scored_alone(make: Any, attention: str) -> None:
    model = tiny.model(make(attention))
    objective = Classification(LABELS, length=80)
    with torch.no_grad():
        columns = objective.predict(model.module, objective.encode(ROWS, model), model)
        likelihoods = [
            [likelihood(model, f"{row['text']}\nLabel:", f" {label}") for label in LABELS] for row in ROWS
        ]
    expected = np.array(likelihoods)
    labels = [LABELS.index(row["label"]) for row in ROWS]
    assert columns["prediction"].tolist() == expected.argmax(axis=1).tolist()
    assert columns["label"].tolist() == labels
    assert len(set(columns["prediction"])) > 1, "the labels that are chosen differ"
    losses = np.log(np.exp(expected).sum(axis=1)) - expected[range(len(ROWS)), labels]
    np.testing.assert_allclose(columns["loss"], losses, rtol=0, atol=1e-5)


def likelihood(model: Model, prompt: str, label: str) -> float:
    """Sum the log-probabilities of a label's tokens after a prompt."""
    before, after = ids(prompt), ids(label)
    scores = model.module(torch.tensor([before + after])).logits[0].double().log_softmax(dim=-1)
    return sum(scores[len(before) - 1 + place, token].item() for place, token in enumerate(after))


def test_it_trains_on_the_right_labels_words() -> None:
    model, objective = tiny.model(), Classification(LABELS)
    batch = objective.collate(objective.encode(ROWS[2:3], model), model)
    prompt, label = ids(f"{ROWS[2]['text']}\nLabel:"), ids(" a list")
    labels = torch.tensor([[-100] * len(prompt) + label])
    expected = model.module(input_ids=torch.tensor([prompt + label]), labels=labels).loss
    loss = objective.loss(objective.forward(model.module, batch), batch)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_text_that_is_too_long_loses_its_end() -> None:
    (example,) = Classification(LABELS, length=20).encode([ROWS[0]], tiny.model())
    # 20 tokens less 7 of "\nLabel:" and 7 of the longest label.
    assert example["prompt"] == ids(ROWS[0]["text"][:6] + "\nLabel:")


def test_a_template_of_ones_own() -> None:
    (example,) = Classification(LABELS, template="<{text}> is").encode([ROWS[1]], tiny.model())
    assert example["prompt"] == ids("<sugar is sweet> is")


def test_an_unknown_label_is_refused_with_its_row_and_the_nearest() -> None:
    with pytest.raises(DataError, match=r"row 2: .*'vers'.*Did you mean verse"):
        Classification(LABELS).encode([ROWS[0], {"text": "x", "label": "vers"}], tiny.model())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"labels": ["one"]}, "two or more different"),
        ({"labels": ["one", "one", "two"]}, "two or more different"),
        ({"labels": LABELS, "template": "text"}, "must contain {text}"),
    ],
)
def test_values_that_cannot_be_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Classification(**parameters)


@pytest.mark.parametrize("length", [1, 14])
def test_a_length_without_room_for_text_is_refused(length: int) -> None:
    with pytest.raises((ConfigurationError, DataError), match="length"):
        Classification(LABELS, length=length).encode(ROWS, tiny.model())


def test_all_labels_count_as_scored() -> None:
    example = {"prompt": [1, 2, 3], "options": [[4], [5, 6], [7]], "label": 1}
    objective = Classification(labels=["a", "b", "c"])
    assert objective.tokens(example) == 5
    assert objective.scored_tokens(example) == 7
