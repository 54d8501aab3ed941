"""Choosing a label for every word, such as the kind of a named entity."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, RowError, unknown_name
from myosotis.interfaces import Batch, Columns, Example, Logits, Loss, Model, Objective, Piece, Rows
from myosotis_plugins.objectives import placed
from myosotis_plugins.objectives.causal import IGNORED, WITHOUT_LIMIT, objects, on_device, padded
from myosotis_plugins.objectives.heads import TOKEN_LABELS, Head, Shape, columns_of, label_names

MYOSOTIS_API = 1

OUTSIDE = "O"


@dataclass(frozen=True)
class TokenClassification(Objective):
    """Tag the words of a sentence; rows are `{"tokens": [word, …], "tags": [tag, …]}`.

    One layer on top of the model has an output for each tag; it begins with random weights and always trains. A
    word's tag is predicted at its first piece; the others are neither trained on nor scored. Words behind the most
    tokens are cut off and count as tagged O, as do those of which the tokenizer makes nothing: a sentence that is
    too long costs what it should.

    Args:
        tags: the tags, `O` and those that begin with `B-` or `I-` (IOB2).
        length: the most tokens of a sentence.
    """

    metrics = ("entity_f1", "tag_accuracy")
    in_order = True
    row_by_row = True

    tags: tuple[str, ...]
    length: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", tuple(self.tags))
        odd = [tag for tag in self.tags if tag != OUTSIDE and tag[:2] not in ("B-", "I-")]
        if odd or len(set(self.tags)) != len(self.tags) or len(self.tags) < 2:
            raise ConfigurationError(
                f"tags must be {OUTSIDE} and different ones that begin with B- or I-, but got {list(self.tags)}"
            )

    def head(self, shape: Shape) -> Head:
        """Ask for an output a tag."""
        return Head(TOKEN_LABELS, self.tags)

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        """Turn words into pieces, each word's tag at its first.

        Raises:
            DataError: a row has another number of tags than of words, an unknown tag, or no word.
        """
        read = [rows[index] for index in range(len(rows))]
        for number, row in enumerate(read, 1):
            self._check(number, row)
        outputs = dict(zip(self.tags, columns_of(model.module.config, self.tags), strict=True))
        encoded = model.tokenizer(
            [list(row["tokens"]) for row in read],
            is_split_into_words=True,
            truncation=True,
            max_length=self.length,
        )
        return [
            {
                "ids": encoded["input_ids"][index],
                "words": _first_pieces(encoded.word_ids(index)),
                "outputs": [outputs[tag] for tag in row["tags"]],
                "tags": list(row["tags"]),
            }
            for index, row in enumerate(read)
        ]

    def _check(self, number: int, row: Mapping[str, Any]) -> None:
        words, tags = row["tokens"], row["tags"]
        if len(words) != len(tags) or not words:
            raise RowError(
                f"every word must have a tag, and there must be one, but there are {len(words)} words and "
                f"{len(tags)} tags: {' '.join(map(str, words))[:60]}",
                number,
            )
        for tag in tags:
            if tag not in self.tags:
                raise RowError(unknown_name("tag", str(tag), self.tags), number)

    def tokens(self, example: Example) -> int:
        """Count the pieces."""
        return len(example["ids"])

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        """Pad sentences to one length."""
        targets = [
            [IGNORED if word is None else example["outputs"][word] for word in example["words"]]
            for example in examples
        ]
        return {
            **placed.encoder_batch([example["ids"] for example in examples], model),
            placed.TARGETS: padded(targets, IGNORED),
        }

    def longest(self, model: Model) -> int | None:
        """Give the most tokens of a row."""
        return self.length

    def unlimited(self) -> Objective:
        """Let rows be as long as they are."""
        return replace(self, length=WITHOUT_LIMIT)

    def pieces(self, example: Example, model: Model) -> Sequence[Piece]:
        """Give the sentence's pieces, each word's tag at its first."""
        return [
            Piece(
                model.tokenizer.decode([token]),
                word is not None,
                "" if word is None else example["tags"][word],
            )
            for token, word in zip(example["ids"], example["words"], strict=True)
        ]

    def forward(self, module: nn.Module, batch: Batch) -> Any:
        """Give the logits."""
        return placed.logits(module, batch)

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Give the mean over the words."""
        return placed.mean_loss(outputs, batch[placed.TARGETS])

    def count(self, batch: Batch) -> int:
        """Count the words."""
        return placed.count(batch[placed.TARGETS])

    def columns(self, model: Model) -> Collection[str]:
        """Name tags and their losses."""
        return "tags", "predicted_tags", "loss", "tokens"

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        """Give each sentence's tags, those predicted, and the summed loss in nats of those not cut off."""
        batch = on_device(self.collate(examples, model), module)
        scores = placed.logits(module, batch)
        best = scores.argmax(dim=-1).cpu().numpy()
        names = label_names(model)
        found = []
        for outputs, example in zip(best, examples, strict=True):
            tags = [OUTSIDE] * len(example["tags"])
            for place, word in enumerate(example["words"]):
                if word is not None:
                    tags[word] = names[int(outputs[place])]
            found.append(tags)
        return {
            "tags": objects([example["tags"] for example in examples]),
            "predicted_tags": objects(found),
            **placed.row_losses(scores, batch[placed.TARGETS]),
        }

    def predicted_logits(
        self, module: nn.Module, examples: Sequence[Example], model: Model
    ) -> Sequence[Logits]:
        """Give the logits of each word that is not cut off."""
        return placed.predicted_logits(module, on_device(self.collate(examples, model), module))

    def answer(self, model: Model, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Give each sentence's words with their tags, those outside without."""
        words = [prompt.split() for prompt in prompts]
        rows = [{"tokens": each, "tags": [self.tags[0]] * len(each)} for each in words]
        found = self.predict(model.module, self.encode(rows, model), model)["predicted_tags"]
        return [
            " ".join(word if tag == OUTSIDE else f"{word}/{tag}" for word, tag in zip(*pair, strict=True))
            for pair in zip(words, found, strict=True)
        ]


def _first_pieces(words: Sequence[int | None]) -> list[int | None]:
    """Give each piece's word where it is the word's first."""
    before = [None, *words[:-1]]
    return [None if word == last else word for word, last in zip(words, before, strict=True)]


@hookimpl
def myosotis_objectives() -> Mapping[str, type[Objective]]:
    """Give the objective."""
    return {"token_classification": TokenClassification}
