"""Choosing a label by a head of its own: the outputs of one layer, one a label."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from myosotis.interfaces import Batch, Columns, Example, Loss, Model
from myosotis_plugins.objectives import placed
from myosotis_plugins.objectives.causal import on_device
from myosotis_plugins.objectives.heads import columns_of, label_names, outputs_of

OTHER_HEAD = -1e9
"""What is added to the outputs of other heads; minus infinity would make differences of two models no numbers."""


def output_names(labels: Sequence[str], head: str) -> tuple[str, ...]:
    """Name the outputs of labels, as the model's configuration holds them."""
    return tuple(f"{head}: {label}" if head else label for label in labels)


def encode(
    texts: Sequence[str], labels: Sequence[int], names: Sequence[str], head: str, length: int, model: Model
) -> list[Example]:
    """Turn texts into tokens, with the special ones that the model expects.

    Args:
        texts: the rows' texts.
        labels: their labels' places among the names.
        names: the labels.
        head: what the head is called.
        length: the most tokens of a text; its end is cut to fit.
        model: loaded for these labels.
    """
    config = model.module.config
    outputs = outputs_of(config, head)
    own = columns_of(config, output_names(names, head))
    ids = model.tokenizer(list(texts), truncation=True, max_length=length, return_attention_mask=False)[
        "input_ids"
    ]
    return [
        {"ids": text, "label": own[label], "outputs": outputs}
        for text, label in zip(ids, labels, strict=True)
    ]


def collate(examples: Sequence[Example], model: Model) -> Batch:
    """Pad rows; a target is the right label's place among its head's outputs."""
    allowed = torch.full((len(examples), len(label_names(model))), OTHER_HEAD)
    for row, example in enumerate(examples):
        allowed[row, example["outputs"]] = 0
    return {
        **placed.encoder_batch([example["ids"] for example in examples], model),
        placed.TARGETS: torch.tensor([example["label"] for example in examples]),
        "allowed": allowed,
    }


def forward(module: nn.Module, batch: Batch) -> Tensor:
    """Give the logits, shape (rows, labels of all heads); those of other heads are no choice."""
    inputs = {name: value for name, value in batch.items() if name != "allowed"}
    chosen: Tensor = placed.logits(module, inputs) + batch["allowed"]
    return chosen


def loss(outputs: Tensor, batch: Batch) -> Loss:
    """Give the mean over the rows."""
    return placed.mean_loss(outputs, batch[placed.TARGETS])


def scores(module: nn.Module, examples: Sequence[Example], model: Model) -> Float[Tensor, "rows labels"]:
    """Give each row's logits of the labels of all heads."""
    return forward(module, on_device(collate(examples, model), module)).float()


def predict(module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
    """Give each row's label, its prediction, and the loss of its label among its head's in nats."""
    found = scores(module, examples, model)
    labels = torch.tensor([example["label"] for example in examples], device=found.device)
    losses = functional.cross_entropy(found, labels, reduction="none")
    return {
        "label": labels.cpu().numpy(),
        "prediction": found.argmax(dim=1).cpu().numpy(),
        "loss": losses.double().cpu().numpy(),
        "tokens": torch.ones(len(examples), dtype=torch.int64).numpy(),
    }
