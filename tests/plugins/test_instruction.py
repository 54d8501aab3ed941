"""The loss is on the response, as Hugging Face's own labels give it."""

from __future__ import annotations

import pytest
import torch

from myosotis.errors import ConfigurationError, DataError
from myosotis.interfaces import Example, Model, Objective, Rows
from myosotis.testing import ObjectiveTestSuite
from myosotis_plugins.objectives.instruction import Instruction
from tests.plugins import tiny

ROWS = [
    {"prompt": "Name a flower.", "response": "Myosotis"},
    {"prompt": "Two and two?", "response": "4"},
    {"prompt": "Say it again, and slowly.", "response": "it, again"},
    {"prompt": "?", "response": "!"},
]
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<me>{% endif %}"
)


def ids(text: str) -> list[int]:
    found: list[int] = tiny.tokenizer()(text)["input_ids"]
    return found


class TestInstruction(ObjectiveTestSuite):
    def make(self) -> Objective:
        return Instruction(length=96)

    def model(self) -> Model:
        return tiny.model()

    def rows(self) -> Rows:
        return ROWS

    def weight(self, example: Example) -> float:
        return len(example["response"])


@pytest.mark.parametrize(
    ("template", "written"),
    [
        ("plain", "Name a flower.\n"),
        ("question", "Question: Name a flower.\nAnswer: "),
        ("instruction", "### Instruction:\nName a flower.\n\n### Response:\n"),
    ],
)
def test_the_loss_is_that_of_labels_on_the_response_alone(template: str, written: str) -> None:
    model, objective = tiny.model(), Instruction(template=template)
    batch = objective.collate(objective.encode(ROWS[:1], model), model)
    prompt, response = ids(written), [*ids("Myosotis"), model.tokenizer.eos_token_id]
    labels = torch.tensor([[-100] * len(prompt) + response])
    expected = model.module(input_ids=torch.tensor([prompt + response]), labels=labels).loss
    loss = objective.loss(objective.forward(model.module, batch), batch)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_predictions_count_the_responses_tokens_and_their_end() -> None:
    model, objective = tiny.model(), Instruction()
    with torch.no_grad():
        columns = objective.predict(model.module, objective.encode(ROWS, model), model)
    assert columns["tokens"].tolist() == [len(row["response"]) + 1 for row in ROWS]


def test_a_prompt_that_is_too_long_loses_its_beginning() -> None:
    model, objective = tiny.model(), Instruction(length=12, template="plain")
    (example,) = objective.encode(ROWS[:1], model)
    assert example["response"] == [*ids("Myosotis"), model.tokenizer.eos_token_id]
    assert example["prompt"] == ids("r.\n")


def test_a_response_that_is_too_long_is_refused_with_its_row() -> None:
    with pytest.raises(DataError, match=r"row 2: a response must leave room.* 4 tokens, but has 10"):
        Instruction(length=4).encode([ROWS[3], ROWS[2]], tiny.model())


def test_an_empty_response_is_its_end_alone_where_there_is_one() -> None:
    model = tiny.model()
    (example,) = Instruction().encode([{"prompt": "?", "response": ""}], model)
    assert example["response"] == [model.tokenizer.eos_token_id]
    model.tokenizer.eos_token = None
    with pytest.raises(DataError, match="row 1: a response must have at least one token"):
        Instruction().encode([{"prompt": "?", "response": ""}], model)


def test_a_prompt_with_braces_stays_as_it_is() -> None:
    (example,) = Instruction(template="plain").encode([{"prompt": "{x} {0}", "response": "y"}], tiny.model())
    assert example["prompt"] == ids("{x} {0}\n")


def test_the_chat_template_is_the_tokenizers() -> None:
    model = tiny.model()
    model.tokenizer.chat_template = CHAT
    (example,) = Instruction(template="chat").encode(ROWS[1:2], model)
    assert example["prompt"] == ids("<user>Two and two?<me>")


def test_a_tokenizer_without_a_chat_template_is_refused() -> None:
    with pytest.raises(DataError, match=r"chat template, .*plain, question, instruction"):
        Instruction(template="chat").encode(ROWS, tiny.model())


def test_an_unknown_template_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean question"):
        Instruction(template="questoin")
