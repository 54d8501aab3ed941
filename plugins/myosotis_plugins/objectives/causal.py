"""What the objectives of causal language models share: batches of tokens, their loss, their masks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from myosotis.interfaces import Batch, Columns, Logits, Model

IGNORED = -100
"""The label of a token that is not trained on."""
WITHOUT_LIMIT = 10**9
"""A length that no row has."""


def logits(module: nn.Module, batch: Batch) -> Float[Tensor, "rows tokens vocabulary"]:
    """Run a causal model over a batch."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    output: Tensor = module(**inputs, use_cache=False).logits
    return output


def mean_token_loss(
    scores: Float[Tensor, "rows tokens vocabulary"], labels: Int[Tensor, "rows tokens"]
) -> Float[Tensor, ""]:
    """Give the mean cross-entropy over the tokens trained on, each predicted from those before it; nats."""
    shifted = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    return functional.cross_entropy(scores.flatten(0, 1).float(), shifted.flatten(), ignore_index=IGNORED)


def count(labels: Int[Tensor, "rows tokens"]) -> int:
    """Count the tokens trained on."""
    return int((labels[:, 1:] != IGNORED).sum())


def token_losses(module: nn.Module, batch: Batch) -> Columns:
    """Give, for each row, the sum of its token losses in nats and how many there are."""
    scores, labels = logits(module, batch)[:, :-1], batch["labels"][:, 1:]
    losses = functional.cross_entropy(
        scores.transpose(1, 2).float(), labels, ignore_index=IGNORED, reduction="none"
    )
    return {
        "loss": losses.sum(dim=1, dtype=torch.float64).cpu().numpy(),
        "tokens": (labels != IGNORED).sum(dim=1).cpu().numpy(),
    }


def predicted_logits(module: nn.Module, batch: Batch) -> list[Logits]:
    """Give each row's logits of the tokens that have a label."""
    scores, labels = logits(module, batch)[:, :-1], batch["labels"][:, 1:]
    return [row[own] for row, own in zip(scores, labels != IGNORED, strict=True)]


def on_device(batch: Batch, module: nn.Module) -> Batch:
    """Move a batch to where the module is."""
    device = next(module.parameters()).device
    return {name: value.to(device) for name, value in batch.items()}


def padded(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "rows tokens"]:
    """Make a rectangle of rows, filled up on the right."""
    filled = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for index, row in enumerate(rows):
        filled[index, : len(row)] = row
    return torch.from_numpy(filled)


def completion_batch(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]] | None = None,
) -> Batch:
    """Collate prompts and what follows them; of that, the labels are trained on, all of it where not given."""
    whole = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    trained = [
        [IGNORED] * len(prompt) + list(each)
        for prompt, each in zip(prompts, labels or responses, strict=True)
    ]
    return {
        "input_ids": padded(whole, 0),
        "labels": padded(trained, IGNORED),
        "attention_mask": padded([[1] * len(row) for row in whole], 0),
    }


def additive_mask(visible: Tensor) -> Float[Tensor, "rows 1 tokens tokens"]:
    """Make an attention mask of what each token may see, shape (rows, tokens, tokens).

    A float mask of 0 and the lowest number is right under every attention implementation; a boolean one
    leaks silently under some. A token that may see nothing (padding) sees itself, so that no row is empty.
    """
    diagonal = torch.eye(visible.shape[-1], dtype=torch.bool)
    mask = torch.zeros(visible.shape, dtype=torch.float32)
    return mask.masked_fill_(~(visible | diagonal), torch.finfo(torch.float32).min)[:, None]


def token_ids(model: Model, texts: Sequence[str], special: bool = True) -> list[list[int]]:
    """Tokenize texts."""
    if not texts:
        return []
    # Documents may be longer than the model's context: blocks are cut from them afterwards.
    encoded: Any = model.tokenizer(
        list(texts), add_special_tokens=special, return_attention_mask=False, verbose=False
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def ids_of_parts(model: Model, rows: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    """Tokenize each row's parts as the one text that they are; a token belongs to the part in which it ends."""
    tokenizer: Any = model.tokenizer
    if not tokenizer.is_fast:  # it does not say where its tokens stand
        return [token_ids(model, row, special=False) for row in rows]
    encoded = tokenizer(
        ["".join(row) for row in rows], add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    found = []
    for row, ids, places in zip(rows, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        ends, parts = list(accumulate(map(len, row))), [list[int]() for _ in row]
        for token, (_, end) in zip(ids, places, strict=True):
            parts[bisect_left(ends, max(end, 1))].append(token)
        found.append(parts)
    return found


def objects(values: Sequence[Any]) -> np.ndarray:
    """Make a column of whatever there is, one element a value."""
    column = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        column[index] = value
    return column
