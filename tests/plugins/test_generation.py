"""Texts are written as the objective says: transformers' own for the same settings, whatever the base's are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Model
from myosotis_plugins.objectives.generation import Decoding, continued, transduced
from myosotis_plugins.objectives.instruction import Instruction
from myosotis_plugins.objectives.sequence_to_sequence import SequenceToSequence
from tests.plugins import tiny

PROMPTS = ("sugar is", "a rose", "all that is gold does not glitter", "b")
NEW_TOKENS = 12
OWN = {
    "repetition_penalty": 1.5,
    "no_repeat_ngram_size": 2,
    "num_beams": 3,
    "min_new_tokens": 5,
    "suppress_tokens": [*range(60, 90)],
    "bad_words_ids": [[100]],
}
"""What a base may come with."""


def made(kind: str) -> Model:
    """Make a model whose texts differ from token to token."""
    if kind == "t5":
        module: Any = tiny.t5()
        torch.nn.init.normal_(module.lm_head.weight, std=3.0, generator=torch.Generator().manual_seed(0))
        tokenizer = tiny.encoder_tokenizer()
        tokenizer.eos_token = "[SEP]"
        return Model(module.eval(), tokenizer)
    llama: Any = tiny.llama()
    if kind == "peft":
        llama = get_peft_model(llama, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")).eval()
    return tiny.model(llama)


def ids(model: Model, kind: str) -> list[list[int]]:
    found: list[list[int]] = model.tokenizer(list(PROMPTS))["input_ids"]
    return found


@torch.no_grad()
def texts(model: Model, kind: str, decoding: Decoding, prompts: list[list[int]] | None = None) -> list[str]:
    write = transduced if kind == "t5" else continued
    return write(model, prompts or ids(model, kind), NEW_TOKENS, decoding)


@torch.no_grad()
def expected(model: Model, kind: str, **settings: Any) -> list[str]:
    """Let transformers write after each prompt alone."""
    module: Any = model.module
    found = []
    for prompt in ids(model, kind):
        written = module.generate(
            input_ids=torch.tensor([prompt]),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=model.tokenizer.eos_token_id,
            **settings,
        )[0]
        found.append(written[1 if kind == "t5" else len(prompt) :])
    return [model.tokenizer.decode(each, skip_special_tokens=True) for each in found]


@pytest.mark.parametrize("kind", ["llama", "peft", "t5"])
def test_the_bases_own_settings_change_nothing_and_stay(kind: str) -> None:
    model = made(kind)
    plain = texts(model, kind, Decoding())
    assert plain == expected(model, kind)
    assert len(set(plain)) > 1
    model.module.generation_config.update(**OWN)  # type: ignore[union-attr, operator]
    before = [vars(each).get("generation_config") for each in model.module.modules()]
    assert expected(model, kind) != plain
    assert texts(model, kind, Decoding()) == plain
    after = [vars(each).get("generation_config") for each in model.module.modules()]
    assert all(one is other for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2, "num_beams": 2, "repetition_penalty": 1.3},
    ],
)
def test_a_setting_does_in_a_batch_what_it_does_in_transformers_alone(
    kind: str, settings: Mapping[str, Any]
) -> None:
    model = made(kind)
    found = texts(model, kind, Decoding(**settings))
    assert found == expected(model, kind, **settings)
    assert found != texts(model, kind, Decoding())


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_what_is_drawn_is_the_same_again_and_in_every_batch(kind: str) -> None:
    model, decoding = made(kind), Decoding(temperature=1.5, top_p=0.9)
    torch.manual_seed(1)
    together = texts(model, kind, decoding)
    torch.manual_seed(2)
    assert together == [texts(model, kind, decoding, [each])[0] for each in ids(model, kind)]
    assert together != texts(model, kind, Decoding())


@torch.no_grad()
def test_tokens_are_drawn_as_likely_as_they_are() -> None:
    """After prompts that differ, but for the last token, by which alone the model goes."""
    model, temperature = made("llama"), 0.7
    rows = [[number, other, 40] for number in range(40) for other in range(50)]
    module: Any = model.module
    module.model.layers = torch.nn.ModuleList()  # so that only the last token counts
    scores = module(input_ids=torch.tensor(rows[:1])).logits[0, -1]
    likely = (scores / temperature).softmax(0)
    shares = Counter[str]()
    for token, share in enumerate(likely.tolist()):
        shares[model.tokenizer.decode([token], skip_special_tokens=True)] += share
    counts = Counter(continued(model, rows, 1, Decoding(temperature=temperature)))
    for text, share in shares.most_common(4):
        deviation = (share * (1 - share) / len(rows)) ** 0.5
        assert counts[text] / len(rows) == pytest.approx(share, abs=4 * deviation)
    almost_none = Decoding(temperature=temperature, top_p=float(likely.max()) / 2)
    assert len(set(continued(model, rows, 1, almost_none))) == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "greedy, at most 64 new tokens"),
        ({"num_beams": 4}, "4 beams, at most 64 new tokens"),
        (
            {"repetition_penalty": 1.5, "no_repeat_ngram_size": 3},
            "greedy, repetition_penalty 1.5, no_repeat_ngram_size 3, at most 64 new tokens",
        ),
        ({"temperature": 0.7, "top_p": 0.9}, "drawn at temperature 0.7, top_p 0.9, at most 64 new tokens"),
    ],
)
@pytest.mark.parametrize("kind", [Instruction, SequenceToSequence])
def test_the_settings_stand_beside_what_is_written(
    kind: type[Instruction | SequenceToSequence], settings: Mapping[str, Any], told: str
) -> None:
    objective, model = kind(**settings), made("llama")
    names = ("prompt", "response") if kind is Instruction else ("source", "target")
    rows = [dict.fromkeys(names, "rose"), dict.fromkeys(names, "thorn and brook")]
    with torch.no_grad():
        columns = objective.generate(model.module, objective.encode(rows, model), model)
    assert columns["settings"].tolist() == [told, told]


@pytest.mark.parametrize("kind", [Instruction, SequenceToSequence])
def test_a_users_prompts_are_answered_with_the_same_settings(
    kind: type[Instruction | SequenceToSequence],
) -> None:
    model = made("llama")
    with torch.no_grad():
        plain, other = (
            objective.answer(model, PROMPTS, NEW_TOKENS)
            for objective in (kind(), kind(repetition_penalty=1.8))
        )
    assert plain != other


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"top_p": 0.0}, "top_p above 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty above 0"),
        ({"num_beams": 0}, "num_beams must be at least 1"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size at least 0"),
        ({"temperature": 1.0, "num_beams": 2}, "drawn, or searched for by beams, but both"),
        ({"top_p": 0.9}, "must have a temperature above 0"),
    ],
)
@pytest.mark.parametrize("kind", [Instruction, SequenceToSequence])
def test_settings_that_cannot_be_are_refused(
    kind: type[Instruction | SequenceToSequence], settings: Mapping[str, Any], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        kind(**settings)
