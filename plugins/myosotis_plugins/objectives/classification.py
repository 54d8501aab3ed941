"""Choosing a label."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, RowError, unknown_name
from myosotis.interfaces import Batch, Columns, Example, Logits, Loss, Model, Objective, Piece, Row, Rows
from myosotis_plugins.objectives import causal, few_shot, label_head, label_likelihood, shown
from myosotis_plugins.objectives.heads import CAUSAL, SEQUENCE_LABELS, Head, Shape, label_names, shape_of

MYOSOTIS_API = 1

WAYS = ("auto", "likelihood", "head")


@dataclass(frozen=True)
class Classification(Objective):
    """Choose a label for a text; rows are `{"text": …, "label": …}`.

    By `likelihood`, a causal model is trained on the label's words after a prompt; a prediction sums the
    log-probabilities of each label's tokens, and the prompt is computed once for all labels. By `head`, one
    layer on top of any model has an output for each label; it begins with random weights and always trains.

    Tasks that call their head the same share its outputs, those of all their labels: this is class-incremental
    learning, and domain-incremental where the labels are the same. With a name of its own, a task is told which
    labels there are, as in task-incremental learning.

    With `evaluation.shots`, by likelihood, rows with their labels come before the prompt, a blank line behind each;
    each is cut as a row is, and what does not fit into the model is refused.

    Args:
        labels: the labels, as words.
        length: the most tokens of prompt and label; the text's end is cut to fit.
        template: by likelihood: the prompt, `{text}` standing for the row's text; the label follows after a space.
        by: `likelihood` or `head`; `auto` takes likelihood where the model is a decoder.
        head_name: by head: what it is called.
    """

    version = 2
    metrics = ("accuracy", "label_cross_entropy")
    in_order = True
    row_by_row = True

    labels: tuple[str, ...]
    length: int = 128
    template: str = "{text}\nLabel:"
    by: Literal["auto", "likelihood", "head"] = "auto"
    head_name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        if len(set(self.labels)) < 2 or len(set(self.labels)) < len(self.labels):
            raise ConfigurationError(
                f"labels must be two or more different ones, but got {list(self.labels)}"
            )
        if "{text}" not in self.template:
            raise ConfigurationError(f"template must contain {{text}}, but got {self.template!r}")
        if self.by not in WAYS:
            raise ConfigurationError(unknown_name("way to classify (by)", str(self.by), WAYS))

    def head(self, shape: Shape) -> Head:
        """Ask for a causal model, or for an output a label."""
        if self.by == "likelihood" or (self.by == "auto" and shape == "decoder"):
            return Head(CAUSAL)
        names = label_head.output_names(self.labels, self.head_name)
        return Head(SEQUENCE_LABELS, names, (self.head_name,) * len(names))

    def _has_head(self, model: Model) -> bool:
        config = getattr(model.module, "config", None)
        return self.head(shape_of(config)).kind == SEQUENCE_LABELS

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        """Turn texts into tokens, and labels into numbers.

        Raises:
            DataError: a label is not among the labels, or there is no room for a text.
        """
        read = [rows[index] for index in range(len(rows))]
        texts, labels = [row["text"] for row in read], [row["label"] for row in read]
        for number, label in enumerate(labels, 1):
            if label not in self.labels:
                raise RowError(unknown_name("label", str(label), self.labels), number)
        places = [self.labels.index(label) for label in labels]
        if self._has_head(model):
            return label_head.encode(texts, places, self.labels, self.head_name, self.length, model)
        return label_likelihood.encode(texts, places, self.labels, self.template, self.length, model)

    def encode_with_shots(self, rows: Rows, shots: Sequence[Row], model: Model) -> Sequence[Example]:
        """Turn texts into tokens, behind the shots.

        Raises:
            ConfigurationError: a head chooses the label, which reads no prompt.
            DataError: as `encode`, or a row does not fit into the model with its shots.
        """
        if self._has_head(model):
            raise ConfigurationError(
                f"evaluation.shots must be 0 where a head chooses the label, for its texts show no others, but got "
                f"{len(shots)}; set evaluation.shots=0, or choose by=likelihood"
            )
        shown = [[*each["prompt"], *each["options"][each["label"]]] for each in self.encode(shots, model)]
        examples = few_shot.behind_shots(self.encode(rows, model), shown, model)
        few_shot.check_fit([len(each["prompt"]) + max(map(len, each["options"])) for each in examples], model)
        return examples

    def tokens(self, example: Example) -> int:
        """Count the tokens of the text, or of the prompt and its label."""
        if "ids" in example:
            return len(example["ids"])
        return len(example["prompt"]) + len(example["options"][example["label"]])

    def scored_tokens(self, example: Example) -> int:
        """Count the tokens of the text, or of the prompt, which is read once, and all its labels."""
        if "ids" in example:
            return self.tokens(example)
        return len(example["prompt"]) + sum(map(len, example["options"]))

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        """Pad texts, or prompts with their right labels, to one length."""
        if "ids" in examples[0]:
            return label_head.collate(examples, model)
        return label_likelihood.collate(examples)

    def longest(self, model: Model) -> int | None:
        """Give the most tokens of a row."""
        return self.length

    def unlimited(self) -> Objective:
        """Let rows be as long as they are."""
        return replace(self, length=causal.WITHOUT_LIMIT)

    def pieces(self, example: Example, model: Model) -> Sequence[Piece]:
        """Give the tokens of the prompt and its label, or of the text, with the label at its end."""
        if "ids" not in example:
            return shown.pieces(self.collate([example], model), model)
        names = label_names(model)
        texts = [model.tokenizer.decode([token]) for token in example["ids"]]
        last = Piece(texts[-1], True, names[example["label"]])
        return [*(Piece(text, False) for text in texts[:-1]), last]

    def forward(self, module: nn.Module, batch: Batch) -> Any:
        """Give the logits."""
        return label_head.forward(module, batch) if "allowed" in batch else causal.logits(module, batch)

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Give the mean over the rows, or over the labels' tokens."""
        if "allowed" in batch:
            return label_head.loss(outputs, batch)
        return causal.mean_token_loss(outputs, batch["labels"])

    def count(self, batch: Batch) -> int:
        """Count the rows, or the labels' tokens."""
        return super().count(batch) if "allowed" in batch else causal.count(batch["labels"])

    def columns(self, model: Model) -> Collection[str]:
        """Name labels and their losses; a row counts as one token."""
        return "label", "prediction", "loss", "tokens"

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        """Give each row's label, its prediction, and the loss of its label among the labels in nats."""
        if "ids" in examples[0]:
            return label_head.predict(module, examples, model)
        return label_likelihood.predict(module, examples)

    def predicted_logits(
        self, module: nn.Module, examples: Sequence[Example], model: Model
    ) -> Sequence[Logits]:
        """Give the logits, or the log-likelihoods, of the labels: one prediction a row."""
        if "ids" in examples[0]:
            scores = label_head.scores(module, examples, model)
        else:
            scores = label_likelihood.likelihoods(module, examples)
        return list(scores[:, None])

    def answer(self, model: Model, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Give each text's likeliest label."""
        examples = self.encode([{"text": prompt, "label": self.labels[0]} for prompt in prompts], model)
        found = self.predict(model.module, examples, model)["prediction"]
        if not self._has_head(model):
            return [self.labels[number] for number in found]
        names = label_names(model)
        return [names[int(number)] for number in found]


@hookimpl
def myosotis_objectives() -> Mapping[str, type[Objective]]:
    """Give the objective."""
    return {"classification": Classification}
