"""Predicting tokens of running text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Batch, Columns, Example, Model, Objective, Piece, Rows
from myosotis.rows import AT_ONCE, parts
from myosotis_plugins.objectives import causal, masked, placed, shown
from myosotis_plugins.objectives.generation import continued
from myosotis_plugins.objectives.heads import CAUSAL, MASKED, Head, Shape, only, shape_of
from myosotis_plugins.objectives.token_losses import TokenObjective

MYOSOTIS_API = 1

ADVICE = "take the objective sequence_to_sequence, with prompts and their answers"


@dataclass(frozen=True)
class LanguageModeling(TokenObjective):
    """Predict tokens of text: the next ones, or with an encoder those that were masked; rows are `{"text": …}`.

    Args:
        length: tokens a block.
        packing: `joined` puts all documents in a row and cuts blocks from it; `isolated` fills blocks with
            whole documents that neither see each other nor count positions on.
        masking: encoders: the share of tokens that is predicted.
    """

    metrics = ("cross_entropy", "perplexity")
    in_order = True

    length: int = 128
    packing: Literal["joined", "isolated"] = "joined"
    masking: float = 0.15

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ConfigurationError(f"length must be at least 2 tokens, but got {self.length}")
        if self.packing not in ("joined", "isolated"):
            raise ConfigurationError(f"packing must be joined or isolated, but got {self.packing!r}")
        if not 0 < self.masking < 1:
            raise ConfigurationError(f"masking must be between 0 and 1, but got {self.masking}")

    def head(self, shape: Shape) -> Head:
        """Ask for a causal model, or for one of masked tokens.

        Raises:
            ModelError: the model has an encoder and a decoder.
        """
        return Head(MASKED) if shape == "encoder" else only(self, shape, "decoder", CAUSAL, ADVICE)

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        """Cut the rows' tokens into blocks; a last block that is not full is left out when joined."""
        return list(self.stream(rows, model))

    def stream(self, rows: Rows, model: Model) -> Iterator[Example]:
        """Give the blocks one by one."""
        documents = self._documents(rows, model)
        blocks = self._joined(documents) if self.packing == "joined" else self._isolated(documents)
        if self._masks(model):
            return (masked.masked(block, self.masking, model) for block in blocks)
        return blocks

    def _documents(self, rows: Rows, model: Model) -> Iterator[list[int]]:
        for part in parts(rows, AT_ONCE):
            yield from causal.token_ids(model, [part[index]["text"] for index in range(len(part))])

    def _masks(self, model: Model) -> bool:
        return self.head(shape_of(getattr(model.module, "config", None))).kind == MASKED

    def _joined(self, documents: Iterable[Sequence[int]]) -> Iterator[Example]:
        rest = np.empty(0, dtype=np.int64)
        for document in documents:
            rest = np.concatenate([rest, np.asarray(document, dtype=np.int64)])
            whole = len(rest) // self.length * self.length
            yield from ({"input_ids": block} for block in rest[:whole].reshape(-1, self.length))
            rest = rest[whole:]

    def _isolated(self, documents: Iterable[Sequence[int]]) -> Iterator[Example]:
        block: list[Sequence[int]] = []
        for document in documents:
            for start in range(0, len(document), self.length):
                piece = document[start : start + self.length]
                if len(piece) < 2:  # nothing in it is predicted
                    continue
                if block and sum(map(len, block)) + len(piece) > self.length:
                    yield _block(block)
                    block = []
                block.append(piece)
        if block:
            yield _block(block)

    def tokens(self, example: Example) -> int:
        """Count the block's tokens."""
        return len(example["input_ids"])

    def longest(self, model: Model) -> int | None:
        """Give the tokens of a block."""
        return self.length

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        """Stack blocks; isolated ones get their masks and positions."""
        if placed.TARGETS in examples[0]:
            joined = self.packing == "joined"
            return masked.joined_batch(examples) if joined else masked.isolated_batch(examples, model)
        if self.packing == "joined":
            ids = torch.from_numpy(np.stack([example["input_ids"] for example in examples]))
            return {"input_ids": ids, "labels": ids}
        return _isolated_batch(examples)

    def pieces(self, example: Example, model: Model) -> Sequence[Piece]:
        """Give the row's tokens."""
        return shown.pieces(self.collate([example], model), model)

    def columns(self, model: Model) -> Collection[str]:
        """Name losses and tokens, and for a decoder bytes."""
        return ("loss", "tokens") if self._masks(model) else ("loss", "tokens", "bytes")

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        """Give each block's summed loss in nats, and how many tokens and bytes are predicted."""
        batch = causal.on_device(self.collate(examples, model), module)
        if placed.TARGETS in batch:
            return placed.row_losses(placed.logits(module, batch), batch[placed.TARGETS])
        return {**causal.token_losses(module, batch), "bytes": _predicted_bytes(batch["labels"], model)}

    def answer(self, model: Model, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Write on from each prompt."""
        return continued(model, causal.token_ids(model, prompts), max_new_tokens)


def _predicted_bytes(labels: Tensor, model: Model) -> np.ndarray:
    """Count the bytes of the text that each row's labels stand for, from the second token on."""
    rows = [row[row != causal.IGNORED].tolist() for row in labels[:, 1:]]
    texts = model.tokenizer.batch_decode(rows, skip_special_tokens=True)
    return np.array([len(text.encode()) for text in texts])


def _block(pieces: Sequence[Sequence[int]]) -> Example:
    ids = [token for piece in pieces for token in piece]
    document = [number for number, piece in enumerate(pieces) for _ in piece]
    position = [place for piece in pieces for place in range(len(piece))]
    return {"input_ids": ids, "document": document, "position": position}


def _isolated_batch(examples: Sequence[Example]) -> Batch:
    ids = causal.padded([example["input_ids"] for example in examples], 0)
    documents = causal.padded([example["document"] for example in examples], -1)
    positions = causal.padded([example["position"] for example in examples], 0)
    causally = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    same = (documents[:, :, None] == documents[:, None, :]) & (documents >= 0)[:, :, None]
    labels = ids.masked_fill((positions == 0) | (documents < 0), causal.IGNORED)
    return {
        "input_ids": ids,
        "labels": labels,
        "position_ids": positions,
        "attention_mask": causal.additive_mask(same & causally),
    }


@hookimpl
def myosotis_objectives() -> Mapping[str, type[Objective]]:
    """Give the objective."""
    return {"language_modeling": LanguageModeling}
