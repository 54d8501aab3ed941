"""Choosing a label by the likelihood of its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, DataError, unknown_name
from myosotis.interfaces import Batch, Columns, Example, Loss, Model, Objective, Rows
from myosotis_plugins.objectives import causal

MYOSOTIS_API = 1


@dataclass(frozen=True)
class Classification(Objective):
    """Choose the label whose words a causal model finds likeliest; rows are `{"text": …, "label": …}`.

    Trained on the label's words after the prompt. A prediction sums the log-probabilities of each label's
    tokens; the prompt is computed once for all labels.

    Args:
        labels: the labels, as words.
        length: the most tokens of prompt and label; the text's end is cut to fit.
        template: the prompt, `{text}` standing for the row's text; the label follows after a space.
    """

    metrics = ("accuracy", "label_cross_entropy")
    in_order = True

    labels: tuple[str, ...]
    length: int = 128
    template: str = "{text}\nLabel:"

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        if len(set(self.labels)) < 2 or len(set(self.labels)) < len(self.labels):
            raise ConfigurationError(
                f"labels must be two or more different ones, but got {list(self.labels)}"
            )
        if "{text}" not in self.template:
            raise ConfigurationError(f"template must contain {{text}}, but got {self.template!r}")

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        """Put each text into the template.

        Raises:
            DataError: a label is not among the labels, or there is no room for a text.
        """
        options = causal.token_ids(model, [f" {label}" for label in self.labels], special=False)
        before, after = self.template.split("{text}", 1)
        suffix = causal.token_ids(model, [after], special=False)[0]
        room = self.length - len(suffix) - max(map(len, options))
        if room < 1:
            raise DataError(
                f"length must leave room for a text beside the template and the longest label, which take "
                f"{self.length - room} tokens, but got {self.length}"
            )
        texts = causal.token_ids(model, [before + rows[index]["text"] for index in range(len(rows))])
        numbers = {label: number for number, label in enumerate(self.labels)}
        examples = []
        for index, text in enumerate(texts):
            label = rows[index]["label"]
            if label not in numbers:
                raise DataError(f"row {index + 1}: " + unknown_name("label", str(label), self.labels))
            examples.append({"prompt": [*text[:room], *suffix], "options": options, "label": numbers[label]})
        return examples

    def tokens(self, example: Example) -> int:
        """Count the tokens of the prompt and its label."""
        return len(example["prompt"]) + len(example["options"][example["label"]])

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        """Pad prompts, each with its right label, to one length."""
        return causal.completion_batch(
            [example["prompt"] for example in examples],
            [example["options"][example["label"]] for example in examples],
        )

    def forward(self, module: nn.Module, batch: Batch) -> Any:
        """Give the logits."""
        return causal.logits(module, batch)

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Give the mean over the labels' tokens."""
        return causal.mean_token_loss(outputs, batch["labels"])

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        """Give each row's label, its prediction, and the loss of its label among the labels in nats."""
        layouts = [_Layout.of(example) for example in examples]
        scores = causal.logits(module, causal.on_device(_option_batch(layouts), module)).float()
        likelihoods = torch.stack(
            [_likelihoods(row, layout) for row, layout in zip(scores, layouts, strict=True)]
        )
        labels = torch.tensor([example["label"] for example in examples], device=likelihoods.device)
        losses = torch.nn.functional.cross_entropy(likelihoods, labels, reduction="none")
        return {
            "label": labels.cpu().numpy(),
            "prediction": likelihoods.argmax(dim=1).cpu().numpy(),
            "loss": losses.double().cpu().numpy(),
            "tokens": np.ones(len(examples), dtype=np.int64),
        }

    def answer(self, model: Model, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Give each text's likeliest label."""
        examples = self.encode([{"text": prompt, "label": self.labels[0]} for prompt in prompts], model)
        found = self.predict(model.module, examples, model)["prediction"]
        return [self.labels[number] for number in found]


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


def _likelihoods(scores: torch.Tensor, layout: _Layout) -> torch.Tensor:
    device = scores.device
    tokens = torch.tensor(layout.ids[layout.prompt :], device=device)
    previous = torch.tensor(layout.previous, device=device)
    option = torch.tensor(layout.segment[layout.prompt :], device=device) - 1
    chosen = scores[previous].log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
    return torch.zeros(layout.options, device=device).index_add_(0, option, chosen)


@hookimpl
def myosotis_objectives() -> Mapping[str, type[Objective]]:
    """Give the objective."""
    return {"classification": Classification}
