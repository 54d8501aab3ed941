"""From one text to another: translation, summaries, answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, RowError
from myosotis.interfaces import Batch, Columns, Example, Model, Objective, Piece, Row, Rows
from myosotis_plugins.objectives import asked, causal, few_shot, placed, shown
from myosotis_plugins.objectives.generation import Decoding, continued, transduced
from myosotis_plugins.objectives.heads import CAUSAL, SEQUENCE_TO_SEQUENCE, Head, Shape, only, shape_of
from myosotis_plugins.objectives.token_losses import TokenObjective

MYOSOTIS_API = 1


@dataclass(frozen=True)
class SequenceToSequence(TokenObjective, Decoding):
    """Write a target for a source; rows are `{"source": …, "target": …}`. The target's end is learned too.

    A model with an encoder and a decoder reads the source and writes the target; a decoder writes the target after
    the source in its template; with `evaluation.shots`, behind rows with their targets, a blank line after each.
    They are cut as rows are, and what does not fit into the model is refused.

    Args:
        length: the most tokens of a source; its end is cut to fit.
        target_length: the most tokens of a target, and of what is written; a longer target is refused.
        template: what the model reads, `{source}` standing for the source.
        temperature: 0 writes the likeliest token each time; above 0, tokens are drawn at it, the same ones at every
            evaluation.
        top_p: draws from the likeliest tokens alone that have so much of the probability together.
        num_beams: how many beginnings of a text are followed at once.
        repetition_penalty: by what the scores of tokens are divided that stand in the row already; 1 does nothing.
        no_repeat_ngram_size: how many tokens in a row may not be written twice; 0 allows all.
    """

    metrics = ("cross_entropy", "perplexity")
    in_order = True
    row_by_row = True

    length: int = 128
    target_length: int = 64
    template: str = "{source}\n"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.length, self.target_length) < 2:
            raise ConfigurationError(
                "length and target_length must be at least 2 tokens, but got "
                f"{self.length} and {self.target_length}"
            )
        if "{source}" not in self.template:
            raise ConfigurationError(f"template must contain {{source}}, but got {self.template!r}")

    def head(self, shape: Shape) -> Head:
        """Ask for a model that writes.

        Raises:
            ModelError: the model has no decoder.
        """
        if shape == "encoder-decoder":
            return Head(SEQUENCE_TO_SEQUENCE)
        return only(
            self, shape, "decoder", CAUSAL, "an encoder alone writes nothing; take one of both, or a decoder"
        )

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        """Turn sources and targets into tokens.

        Raises:
            DataError: a target is longer than it may be.
        """
        read = [rows[index] for index in range(len(rows))]
        if model.text_only:
            return [
                asked.example(self.template.replace("{source}", row["source"]), row["target"]) for row in read
            ]
        both = shape_of(getattr(model.module, "config", None)) == "encoder-decoder"
        sources = self._sources([row["source"] for row in read], model)
        targets = causal.token_ids(model, [row["target"] for row in read], special=False)
        end = model.tokenizer.eos_token_id
        examples = []
        for number, (source, target, row) in enumerate(zip(sources, targets, read, strict=True), 1):
            whole = target if end is None else [*target, end]
            if not 1 <= len(whole) <= self.target_length:
                raise RowError(
                    f"a target must have 1 to {self.target_length} tokens with its end, but has {len(whole)}; "
                    "raise target_length, or shorten the target",
                    number,
                )
            names = ("source", "target") if both else ("prompt", "response")
            examples.append({names[0]: source, names[1]: whole, "reference": row["target"]})
        return examples

    def encode_with_shots(self, rows: Rows, shots: Sequence[Row], model: Model) -> Sequence[Example]:
        """Turn sources and targets into tokens, behind the shots.

        Raises:
            ConfigurationError: the model has an encoder, whose sources show no targets.
            DataError: as `encode`, or a row does not fit into the model with its shots.
        """
        examples = self.encode(rows, model)
        if model.text_only:
            return asked.behind_shots(examples, self.encode(shots, model))
        if "source" in examples[0]:
            raise ConfigurationError(
                f"evaluation.shots must be 0 where an encoder reads the source, which shows no targets, but got "
                f"{len(shots)}; set evaluation.shots=0, or take a decoder"
            )
        shown = [
            [*each["prompt"], *few_shot.without_end(each["response"], model)]
            for each in self.encode(shots, model)
        ]
        examples = few_shot.behind_shots(examples, shown, model)
        few_shot.check_fit(list(map(self.tokens, examples)), model)
        return examples

    def _sources(self, sources: Sequence[str], model: Model) -> list[list[int]]:
        """Cut the sources, not what the template writes around them."""
        before, after = self.template.split("{source}", 1)
        suffix = causal.token_ids(model, [after], special=False)[0] if after else []
        room = self.length - len(suffix)
        ids = causal.token_ids(model, [before + source for source in sources])
        end = model.tokenizer.eos_token_id
        # Encoders' tokenizers write an end behind every text.
        closes = bool(ids) and all(each[-1:] == [end] for each in ids)
        opened = [each[:-1][: room - 1] if closes else each[:room] for each in ids]
        return [[*each, *suffix, *([end] if closes else [])] for each in opened]

    def tokens(self, example: Example) -> int:
        """Count the tokens that are read and written; 1 where the row is asked in text."""
        if asked.PROMPT in example:
            return 1
        return sum(
            len(example[name]) for name in ("source", "target", "prompt", "response") if name in example
        )

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        """Pad sources and targets to one length each."""
        if "prompt" in examples[0]:
            return causal.completion_batch(
                [example["prompt"] for example in examples], [example["response"] for example in examples]
            )
        targets = [example["target"] for example in examples]
        start = int(model.module.config.decoder_start_token_id)  # type: ignore[union-attr, arg-type]
        return {
            **placed.encoder_batch([example["source"] for example in examples], model),
            "decoder_input_ids": causal.padded(
                [[start, *each[:-1]] for each in targets], placed.padding(model)
            ),
            "decoder_attention_mask": causal.padded([[1] * len(each) for each in targets], 0),
            placed.TARGETS: causal.padded(targets, causal.IGNORED),
        }

    def longest(self, model: Model) -> int | None:
        """Give the most tokens of a source with its target, or of the longer of both where each is read apart."""
        if model.text_only:
            return None
        both = shape_of(getattr(model.module, "config", None)) == "encoder-decoder"
        return max(self.length, self.target_length) if both else self.length + self.target_length

    def unlimited(self) -> Objective:
        """Let rows be as long as they are."""
        return replace(self, length=causal.WITHOUT_LIMIT, target_length=causal.WITHOUT_LIMIT)

    def pieces(self, example: Example, model: Model) -> Sequence[Piece]:
        """Give the row's tokens, or its texts."""
        if asked.PROMPT in example:
            return asked.pieces(example)
        return shown.pieces(self.collate([example], model), model)

    def columns(self, model: Model) -> Collection[str]:
        """Name losses and tokens."""
        return "loss", "tokens"

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        """Give each target's summed loss in nats and its number of tokens."""
        batch = causal.on_device(self.collate(examples, model), module)
        if placed.TARGETS in batch:
            return placed.row_losses(placed.logits(module, batch), batch[placed.TARGETS])
        return causal.token_losses(module, batch)

    def generate(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        """Write a target for each source."""
        if model.text_only:
            return asked.written(module, examples, self.target_length, self)
        written = Model(module, model.tokenizer)
        if "prompt" in examples[0]:
            texts = continued(written, [each["prompt"] for each in examples], self.target_length, self)
        else:
            texts = transduced(written, [each["source"] for each in examples], self.target_length, self)
        return asked.columns(texts, examples, self.settings(self.target_length))

    def answer(self, model: Model, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Write a target for each prompt."""
        sources = self._sources(prompts, model)
        if shape_of(getattr(model.module, "config", None)) == "encoder-decoder":
            return transduced(model, sources, max_new_tokens, self)
        return continued(model, sources, max_new_tokens, self)


@hookimpl
def myosotis_objectives() -> Mapping[str, type[Objective]]:
    """Give the objective."""
    return {"sequence_to_sequence": SequenceToSequence}
