"""Choosing a label by the likelihood of its words: a prompt, computed once, and every label behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from myosotis.errors import DataError
from myosotis.interfaces import Batch, Columns, Example, Model
from myosotis_plugins.objectives import causal


def encode(
    texts: Sequence[str],
    labels: Sequence[int],
    words: Sequence[str],
    template: str,
    length: int,
    model: Model,
) -> list[Example]:
    """Put each text into the template.

    Args:
        texts: the rows' texts.
        labels: their labels' places among the words.
        words: the labels.
        template: the prompt, with `{text}`.
        length: the most tokens of a prompt and a label.
        model: whose tokenizer is used.

    Raises:
        DataError: there is no room for a text.
    """
    options = causal.token_ids(model, [f" {label}" for label in words], special=False)
    before, after = template.split("{text}", 1)
    suffix = causal.token_ids(model, [after], special=False)[0]
    room = length - len(suffix) - max(map(len, options))
    if room < 1:
        raise DataError(
            f"length must leave room for a text beside the template and the longest label, which take "
            f"{length - room} tokens, but got {length}"
        )
    ids = causal.token_ids(model, [before + text for text in texts])
    return [
        {"prompt": [*text[:room], *suffix], "options": options, "label": label}
        for text, label in zip(ids, labels, strict=True)
    ]


def collate(examples: Sequence[Example]) -> Batch:
    """Pad prompts, each with its right label, to one length."""
    return causal.completion_batch(
        [example["prompt"] for example in examples],
        [example["options"][example["label"]] for example in examples],
    )


def likelihoods(module: nn.Module, examples: Sequence[Example]) -> Float[Tensor, "rows options"]:
    """Give the log-likelihood of each row's options after its prompt."""
    layouts = [_Layout.of(example) for example in examples]
    scores = causal.logits(module, causal.on_device(_option_batch(layouts), module)).float()
    return torch.stack([_likelihoods(row, layout) for row, layout in zip(scores, layouts, strict=True)])


def predict(module: nn.Module, examples: Sequence[Example]) -> Columns:
    """Give each row's label, its prediction, and the loss of its label among the labels in nats."""
    found = likelihoods(module, examples)
    labels = torch.tensor([example["label"] for example in examples], device=found.device)
    losses = torch.nn.functional.cross_entropy(found, labels, reduction="none")
    return {
        "label": labels.cpu().numpy(),
        "prediction": found.argmax(dim=1).cpu().numpy(),
        "loss": losses.double().cpu().numpy(),
        "tokens": np.ones(len(examples), dtype=np.int64),
    }


@dataclass(frozen=True)
class _Layout:
    """A prompt followed by all its options, each of which sees the prompt and itself.

    Attributes:
        segment: 0 for the prompt, then 1 for the first option, and so on.
        position: the place that a token would have if its option stood alone after the prompt.
        previous: the index of the token from which each option's token is predicted.
    """

    ids: list[int]
    segment: list[int]
    position: list[int]
    previous: list[int]
    prompt: int
    options: int

    @classmethod
    def of(cls, example: Example) -> _Layout:
        prompt, options = example["prompt"], example["options"]
        ids, segment = list(prompt), [0] * len(prompt)
        position, previous = list(range(len(prompt))), []
        for number, option in enumerate(options, 1):
            start = len(ids)
            previous += [len(prompt) - 1, *range(start, start + len(option) - 1)]
            position += range(len(prompt), len(prompt) + len(option))
            ids += option
            segment += [number] * len(option)
        return cls(ids, segment, position, previous, len(prompt), len(options))


def _option_batch(layouts: Sequence[_Layout]) -> Batch:
    segments = causal.padded([layout.segment for layout in layouts], -1)
    causally = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()
    prompt_or_own = (segments[:, None, :] == 0) | (segments[:, :, None] == segments[:, None, :])
    return {
        "input_ids": causal.padded([layout.ids for layout in layouts], 0),
        "position_ids": causal.padded([layout.position for layout in layouts], 0),
        "attention_mask": causal.additive_mask(prompt_or_own & causally & (segments >= 0)[:, :, None]),
    }


def _likelihoods(scores: Tensor, layout: _Layout) -> Tensor:
    device = scores.device
    tokens = torch.tensor(layout.ids[layout.prompt :], device=device)
    previous = torch.tensor(layout.previous, device=device)
    option = torch.tensor(layout.segment[layout.prompt :], device=device) - 1
    chosen = scores[previous].log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
    return torch.zeros(layout.options, device=device).index_add_(0, option, chosen)
