"""The loss is on the response, as Hugging Face's own labels give it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from myosotis.errors import ConfigurationError, DataError
from myosotis.interfaces import Example, Model, Objective, Rows
from myosotis.testing import ObjectiveTestSuite
from myosotis_plugins.objectives.instruction import Instruction
from myosotis_plugins.objectives.turns import TEMPLATES, end_of_turn
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


def ids_of(model: Model, text: str) -> list[int]:
    found: list[int] = model.tokenizer(text, add_special_tokens=False)["input_ids"]
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


# Conversations

TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And one?"},
    {"role": "assistant", "content": "5"},
]
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def spoken(objective: Instruction, model: Model, messages: object) -> tuple[list[int], list[int]]:
    """Give a conversation's tokens, and those that are trained on."""
    examples = objective.encode([{"messages": messages}], model)
    batch = objective.collate(examples, model)
    return batch["input_ids"][0].tolist(), [each for each in batch["labels"][0].tolist() if each != -100]


def test_every_answer_of_a_conversation_is_trained_on_and_nothing_else() -> None:
    model = tiny.model()
    end = model.tokenizer.eos_token_id
    tokens, trained = spoken(Instruction(template="question"), model, TALK)
    first, second = "Be short.\n\nQuestion: Two and two?\nAnswer: ", "Question: And one?\nAnswer: "
    assert tokens == [*ids(first), *ids("4"), end, *ids(second), *ids("5"), end]
    assert trained == [*ids("4"), end, *ids("5"), end]


def test_a_conversation_by_the_tokenizers_template_is_what_that_writes() -> None:
    model = tiny.model()
    model.tokenizer.chat_template = CHATML
    tokens, trained = spoken(Instruction(template="chat"), model, TALK)
    assert tokens == model.tokenizer.apply_chat_template(TALK, return_dict=False)
    end = model.tokenizer.eos_token_id
    assert trained == [*ids("4"), end, *ids("5"), end]


IM = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MODEL_TURNS = (
    "<s>{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)
BARE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "</s>"),
        (IM.replace("<|im_end|>", "</s>"), "</s>"),
        (IM, "<|im_end|>"),
        (MODEL_TURNS, "<end_of_turn>"),
    ],
)
def test_a_conversation_has_the_templates_tokens_whatever_ends_its_turns(template: str, end: str) -> None:
    """Qwen's base models and Gemma's end a turn with another token than a text."""
    model = tiny.model()
    model.tokenizer.add_special_tokens({"extra_special_tokens": [end, "<|im_start|>", "<start_of_turn>"]})
    model.tokenizer.chat_template = template
    for talk in (TALK, TALK[1:3]):
        tokens, trained = spoken(Instruction(template="chat"), model, talk)
        assert tokens == model.tokenizer.apply_chat_template(talk, tokenize=True, return_dict=False)
        written = "\n" if template.endswith("assistant\n{% endif %}") else ""
        answers = [each["content"] for each in talk if each["role"] == "assistant"]
        assert trained == ids_of(model, "".join(f"{answer}{end}{written}" for answer in answers))


def test_a_template_that_ends_no_turn_is_ended_after_the_last() -> None:
    model = tiny.model()
    model.tokenizer.chat_template = BARE
    tokens, _ = spoken(Instruction(template="chat"), model, TALK)
    told = model.tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=False)
    assert tokens == [*told, model.tokenizer.eos_token_id]


def test_a_tokenizer_that_begins_texts_with_a_space_does_so_once_a_conversation() -> None:
    """As those of Llama 2 and Gemma do."""
    model = tiny.model()
    made = Tokenizer(
        models.BPE(
            {letter: number for number, letter in enumerate("▁ <|>/abcdefghijklmnopqrstuvwxyz.?450123BTAS")},
            [],
        )
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")
    tokenizer.chat_template = CHATML
    tokens, trained = spoken(Instruction(template="chat"), replace(model, tokenizer=tokenizer), TALK)
    assert tokens == tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=False)
    assert tokenizer.convert_ids_to_tokens(trained) == ["4", "</s>", "5", "</s>"]


def test_a_template_that_cannot_write_its_end_has_none() -> None:
    model = tiny.model()
    model.tokenizer.eos_token = None
    model.tokenizer.chat_template = TEMPLATES["plain"].jinja(begins=False)
    assert end_of_turn(model.tokenizer) is None


def test_an_answer_is_over_where_the_template_ends_a_turn() -> None:
    model = tiny.model()
    asked = torch.tensor([ids("<user>?<assistant>")])
    written = model.module.generate(asked, max_new_tokens=8, do_sample=False)[0, asked.shape[1] :].tolist()
    end = next(token for token in written if token != written[0])
    mark = model.tokenizer.convert_ids_to_tokens(end)
    model.tokenizer.add_special_tokens({"extra_special_tokens": [mark]})
    answered = f"{{% if m.role == 'assistant' %}}{mark}{{% endif %}}"
    model.tokenizer.chat_template = BARE.replace("{{ m.content }}", f"{{{{ m.content }}}}{answered}")
    [answer] = Instruction(template="chat").answer(model, ["?"], 8)
    assert answer == model.tokenizer.decode(written[: written.index(end)], skip_special_tokens=True)


def test_a_template_that_writes_earlier_turns_anew_is_refused_for_conversations() -> None:
    model = tiny.model()
    model.tokenizer.chat_template = CHAT
    with pytest.raises(DataError, match="must write a conversation's beginning the same"):
        Instruction(template="chat").encode([{"messages": TALK}], model)


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        (TALK[2:], "goes assistant, user, assistant"),
        (TALK[:2], "goes system, user"),
        ([], "goes nowhere"),
        (
            [{"role": "human", "content": "?"}, TALK[2]],
            "role must be system or user or assistant, but is 'human'",
        ),
        ([{"role": "user", "content": 3}, TALK[2]], "a text as its content"),
        ("Hello", "messages must be a list, but is 'Hello'"),
    ],
)
def test_what_is_no_conversation_is_refused_with_its_row(messages: object, told: str) -> None:
    rows = [{"messages": TALK}, {"messages": messages}]
    with pytest.raises(DataError, match=f"row 2: .*{told}"):
        Instruction().encode(rows, tiny.model())


@pytest.mark.parametrize("template", ["plain", "question", "instruction"])
@pytest.mark.parametrize("begins", [False, True])
def test_the_exported_template_gives_the_tokens_that_were_trained(template: str, begins: bool) -> None:
    model, objective = tiny.model(), Instruction(template=template)
    if begins:
        model.tokenizer.bos_token = "</s>"
        model.tokenizer.add_bos_token = True
    tokens, _ = spoken(objective, model, TALK)
    model.tokenizer.chat_template = objective.chat_template(model)
    assert model.tokenizer.apply_chat_template(TALK, return_dict=False) == tokens


def test_the_answer_is_what_transformers_generates() -> None:
    model, objective = tiny.model(), Instruction(template="plain")
    prompts = ["Name a flower.", "?"]
    for prompt, answer in zip(prompts, objective.answer(model, prompts, 8), strict=True):
        asked = torch.tensor([ids(f"{prompt}\n")])
        written = model.module.generate(asked, max_new_tokens=8, do_sample=False)[0, asked.shape[1] :]
        assert answer == model.tokenizer.decode(written, skip_special_tokens=True)
