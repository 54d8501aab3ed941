"""Letting a model write, in one batch: as an objective says, whatever the base's own settings are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Model, content_hash
from myosotis_plugins.objectives.placed import encoder_batch, padding
from myosotis_plugins.quiet import quiet_libraries

SPECIAL = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
"""What is taken of the base's own settings: the tokens by which its texts begin and end."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How each next token is chosen: the likeliest one, unless something else is asked for.

    Attributes:
        temperature: 0 takes the likeliest token. Above, tokens are drawn at it, by numbers that follow from the
            row's prompt alone: again the same ones, in every batch and by every model.
        top_p: draws from the likeliest tokens alone that have so much of the probability together.
        num_beams: how many beginnings of a text are followed at once, of which the likeliest is kept.
        repetition_penalty: by what the scores of tokens are divided that stand in the row already.
        no_repeat_ngram_size: how many tokens in a row may not be written twice; 0 allows all.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    num_beams: int = 1
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.repetition_penalty <= 0:
            raise ConfigurationError(
                "temperature must be at least 0, top_p above 0 and at most 1, and repetition_penalty above 0, but "
                f"got {self.temperature}, {self.top_p} and {self.repetition_penalty}"
            )
        if self.num_beams < 1 or self.no_repeat_ngram_size < 0:
            raise ConfigurationError(
                "num_beams must be at least 1 and no_repeat_ngram_size at least 0, but got "
                f"{self.num_beams} and {self.no_repeat_ngram_size}"
            )
        if self.temperature and self.num_beams > 1:
            raise ConfigurationError(
                "texts must be drawn, or searched for by beams, but both are asked for: "
                f"temperature={self.temperature} num_beams={self.num_beams}"
            )
        if self.top_p < 1 and not self.temperature:
            raise ConfigurationError(
                f"top_p={self.top_p} must have a temperature above 0, for without one nothing is drawn"
            )

    def settings(self, max_new_tokens: int) -> str:
        """Say in words how texts are written."""
        found = [f"{self.num_beams} beams" if self.num_beams > 1 else "greedy"]
        if self.temperature:
            found = [f"drawn at temperature {self.temperature:g}"]
        if self.top_p < 1:
            found.append(f"top_p {self.top_p:g}")
        if self.repetition_penalty != 1:
            found.append(f"repetition_penalty {self.repetition_penalty:g}")
        if self.no_repeat_ngram_size:
            found.append(f"no_repeat_ngram_size {self.no_repeat_ngram_size}")
        return ", ".join([*found, f"at most {max_new_tokens} new tokens"])


GREEDY = Decoding()


def continued(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    decoding: Decoding = GREEDY,
    ends: Sequence[int] = (),
) -> list[str]:
    """Give what a causal model writes after each prompt, up to an end token.

    Prompts that leave too little of the model's context lose their beginnings.

    Args:
        model: a causal language model.
        prompts: token ids.
        max_new_tokens: after which an answer is cut.
        decoding: how tokens are chosen.
        ends: tokens beside the tokenizer's end that end an answer, too.

    Raises:
        ConfigurationError: the model's context is no longer than the answer.
    """
    module: Any = model.module
    context = getattr(module.config, "max_position_embeddings", None)
    if context is not None and context <= max_new_tokens:
        raise ConfigurationError(
            f"an answer must leave room for its prompt in the model's {context} tokens, but may have "
            f"{max_new_tokens}"
        )
    kept = [prompt[-(context - max_new_tokens) :] if context else prompt for prompt in prompts]
    width = max(map(len, kept))
    # On the left: what is written comes right behind a prompt's last token.
    ids = [[padding(model)] * (width - len(prompt)) + list(prompt) for prompt in kept]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in kept]
    processors = _processors(decoding, kept, [width - len(prompt) for prompt in kept])
    written = _written(
        model, torch.tensor(ids), torch.tensor(mask), max_new_tokens, decoding.num_beams, processors, ends
    )
    return _texts(model, written[:, width:])


def transduced(
    model: Model, sources: Sequence[Sequence[int]], max_new_tokens: int, decoding: Decoding = GREEDY
) -> list[str]:
    """Give what a model with an encoder and a decoder writes for each source, up to its end token."""
    batch = encoder_batch(sources, model)
    processors = _processors(decoding, sources, [0] * len(sources))
    written = _written(
        model, batch["input_ids"], batch["attention_mask"], max_new_tokens, decoding.num_beams, processors
    )
    # The first token that is written is where the decoder begins.
    return _texts(model, written[:, 1:])


def _processors(decoding: Decoding, prompts: Sequence[Sequence[int]], begins: Sequence[int]) -> list[Any]:
    """Make what changes the scores of the next tokens, in the order of transformers'."""
    from transformers import (
        NoRepeatNGramLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopPLogitsWarper,
    )

    found: list[Any] = []
    own = [begin for begin in begins for _ in range(decoding.num_beams)]
    if decoding.repetition_penalty != 1:
        found.append(_Unpadded(RepetitionPenaltyLogitsProcessor(float(decoding.repetition_penalty)), own))
    if decoding.no_repeat_ngram_size:
        found.append(_Unpadded(NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram_size), own))
    if decoding.temperature:
        found.append(TemperatureLogitsWarper(float(decoding.temperature)))
        if decoding.top_p < 1:
            found.append(TopPLogitsWarper(float(decoding.top_p)))
        found.append(_Noise(prompts))
    return found


@dataclass(frozen=True)
class _Unpadded:
    """Applies a processor to each row without its padding, whose tokens would count as written."""

    processor: Any
    begins: Sequence[int]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = range(len(input_ids))
        return torch.cat(
            [
                self.processor(input_ids[row : row + 1, self.begins[row] :], scores[row : row + 1])
                for row in rows
            ]
        )


class _Noise:
    """Adds Gumbel noise, with which the likeliest token is a draw: Gumbel 1954, as in arXiv:1411.0030."""

    def __init__(self, prompts: Sequence[Sequence[int]]) -> None:
        seeds = [int(content_hash(list(prompt)), 16) for prompt in prompts]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        drawn = [torch.empty(scores.shape[1]).exponential_(generator=each) for each in self.generators]
        return scores - torch.stack(drawn).log().to(scores.device)


def _written(
    model: Model,
    ids: Tensor,
    mask: Tensor,
    max_new_tokens: int,
    num_beams: int,
    processors: list[Any],
    ends: Sequence[int] = (),
) -> Tensor:
    from transformers import GenerationConfig

    module: Any = model.module
    ends = [each for each in (model.tokenizer.eos_token_id, *ends) if each is not None]
    device = next(module.parameters()).device
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=num_beams,
        pad_token_id=padding(model),
        eos_token_id=ends or None,
        **{name: getattr(module.generation_config, name, None) for name in SPECIAL},
    )
    with quiet_libraries(), _instead(module, settings):
        written: Tensor = module.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=settings,
            logits_processor=processors,
        )
    return written


@contextmanager
def _instead(module: Any, settings: Any) -> Iterator[None]:
    """Put settings in the place of the base's, of which transformers takes what others leave open."""
    name = "generation_config"
    before = {each: vars(each)[name] for each in module.modules() if name in vars(each)}
    for each in before:
        setattr(each, name, settings)
    try:
        yield
    finally:
        for each in module.modules():
            vars(each).pop(name, None)  # PEFT puts it into further modules
        for each, own in before.items():
            setattr(each, name, own)


def _texts(model: Model, written: Tensor) -> list[str]:
    texts: list[str] = model.tokenizer.batch_decode(written, skip_special_tokens=True)
    return texts
