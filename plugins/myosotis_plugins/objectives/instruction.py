"""Following instructions: the loss is on the response only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import add
from typing import Any

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, DataError, RowError, unknown_name
from myosotis.interfaces import Batch, Columns, Example, Logits, Loss, Model, Objective, Piece, Row, Rows
from myosotis_plugins.objectives import asked, causal, few_shot, shown
from myosotis_plugins.objectives.generation import Decoding, continued
from myosotis_plugins.objectives.heads import CAUSAL, Head, Shape, only
from myosotis_plugins.objectives.turns import (
    TEMPLATES,
    Messages,
    Turn,
    behind,
    checked_messages,
    end_of_turn,
    spoken,
    turns_by_chat_template,
)

MYOSOTIS_API = 1

CHAT = "chat"


@dataclass(frozen=True)
class Instruction(Objective, Decoding):
    """Answer a prompt; the end of a response is learned too.

    Rows are `{"prompt": …, "response": …}`, or conversations, `{"messages": [{"role": …, "content": …}, …]}`, with
    the roles system, user and assistant. Of those every answer is trained on, and scored.

    With `evaluation.shots`, rows come before the prompt as a conversation's earlier turns, each with a blank line
    behind it where the template is one of text. They are never cut: what does not fit into the model is refused.

    Args:
        length: the most tokens a row may have; the first prompt's beginning is cut to fit, a response never.
        template: `plain`, `question`, `instruction`, or `chat` for the tokenizer's own chat template.
        max_new_tokens: the most tokens of a response that is written, for metrics that look at texts.
        temperature: 0 writes the likeliest token each time; above 0, tokens are drawn at it, the same ones at every
            evaluation.
        top_p: draws from the likeliest tokens alone that have so much of the probability together.
        num_beams: how many beginnings of a text are followed at once.
        repetition_penalty: by what the scores of tokens are divided that stand in the row already; 1 does nothing.
        no_repeat_ngram_size: how many tokens in a row may not be written twice; 0 allows all.
    """

    version = 2
    metrics = ("cross_entropy", "perplexity")
    in_order = True
    row_by_row = True

    length: int = 256
    template: str = "instruction"
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template not in (*TEMPLATES, CHAT):
            raise ConfigurationError(unknown_name("template", self.template, [*TEMPLATES, CHAT]))

    def head(self, shape: Shape) -> Head:
        """Ask for a causal model.

        Raises:
            ModelError: the model is of another shape.
        """
        return only(
            self, shape, "decoder", CAUSAL, "take the objective sequence_to_sequence with one of both"
        )

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        """Put each row into the template.

        Raises:
            DataError: a row is no conversation, its responses leave no room, or the tokenizer has no chat template.
        """
        return self._encoded(rows, (), model)

    def encode_with_shots(self, rows: Rows, shots: Sequence[Row], model: Model) -> Sequence[Example]:
        """Put each row into the template, behind the shots.

        Raises:
            DataError: as `encode`, or a row does not fit into the model with its shots.
        """
        examples = self._encoded(rows, [each for shot in shots for each in spoken(shot)], model)
        few_shot.check_fit(list(map(self.tokens, examples)), model)
        return examples

    def _encoded(self, rows: Rows, shown: Messages, model: Model) -> Sequence[Example]:
        chats = []
        for index in range(len(rows)):
            try:
                chats.append(checked_messages(rows[index]))
            except DataError as error:
                raise RowError(str(error), index + 1) from error
        chats = [behind(shown, chat) for chat in chats]
        if model.text_only:
            return [asked.example(self._prompt(chat), chat[-1]["content"]) for chat in chats]
        turns = self._turns(chats, model)
        pieces = self._pieces([self._texts(each, len(shown)) for each in turns], model)
        return [
            self._example(number, said, ids, len(shown), chat[-1]["content"], model.tokenizer)
            for number, (said, ids, chat) in enumerate(zip(turns, pieces, chats, strict=True), 1)
        ]

    def _pieces(self, rows: Sequence[Sequence[str]], model: Model) -> list[list[list[int]]]:
        """Tokenize each row's texts."""
        if self.template == CHAT:
            return causal.ids_of_parts(model, rows)
        # A row's first text is apart: only it may begin with a special token.
        first = causal.token_ids(model, [texts[0] for texts in rows])
        flat = iter(causal.token_ids(model, [text for texts in rows for text in texts[1:]], special=False))
        return [[start, *(next(flat) for _ in texts[1:])] for start, texts in zip(first, rows, strict=True)]

    def _texts(self, turns: Sequence[Turn], shown: int) -> list[str]:
        """Give prompt, response, prompt …; in a template of text, a blank line ends each that is shown."""
        texts = [text for turn in turns for text in (turn.prompt, turn.response)]
        if self.template == CHAT:
            return texts
        ends = ["", few_shot.BLANK_LINE] * (shown // 2)
        return [*map(add, texts[:shown], ends), *texts[shown:]]

    def _prompt(self, chat: Messages) -> asked.Prompt:
        if self.template == CHAT:
            return chat[:-1]
        turns = TEMPLATES[self.template].turns(chat)
        if len(turns) > 1:
            raise DataError(
                "a conversation must have one answer to be put as a text, for how an answer ends is the model's "
                f"own, but has {len(turns)}; take template=chat"
            )
        return turns[0].prompt

    def _turns(self, chats: Sequence[Messages], model: Model) -> list[list[Turn]]:
        if self.template != CHAT:
            return [TEMPLATES[self.template].turns(chat) for chat in chats]
        if not model.tokenizer.chat_template:
            raise DataError(
                f"template=chat must have a tokenizer with a chat template, but this model's has none; "
                f"use one of {', '.join(TEMPLATES)}"
            )
        ends = end_of_turn(model.tokenizer) is not None
        return [turns_by_chat_template(model.tokenizer, chat, ends) for chat in chats]

    def _example(
        self,
        number: int,
        turns: Sequence[Turn],
        pieces: Sequence[list[int]],
        shown: int,
        reference: str,
        tokenizer: Any,
    ) -> Example:
        """Join a row's pieces: those shown before, its prompt, and the response, prompt, response … that follow."""
        end = getattr(tokenizer, "eos_token_id", None)
        before, prompt = [token for piece in pieces[:shown] for token in piece], pieces[shown]
        response, labels = list[int](), list[int]()
        for index, piece in enumerate(pieces[shown + 1 :]):
            answers = index % 2 == 0
            ends = answers and turns[(shown + index) // 2].open
            whole = [*piece, end] if ends and end is not None and end not in piece else piece
            response += whole
            labels += whole if answers else [causal.IGNORED] * len(whole)
        if not response:
            raise RowError("a response must have at least one token, but is empty", number)
        room = self.length - len(response)
        if room < 1:
            raise RowError(
                f"a response must leave room for its prompt in {self.length} tokens, but has {len(response)}; "
                "raise length, or shorten the response",
                number,
            )
        return {
            "prompt": [*before, *prompt[-room:]],
            "response": response,
            "labels": labels,
            "last": len(response) - len(whole),
            "reference": reference,
        }

    def tokens(self, example: Example) -> int:
        """Count the row's tokens; 1 where it is asked in text."""
        return 1 if asked.PROMPT in example else len(example["prompt"]) + len(example["response"])

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        """Pad rows to one length."""
        return causal.completion_batch(
            *([example[part] for example in examples] for part in ("prompt", "response", "labels"))
        )

    def longest(self, model: Model) -> int | None:
        """Give the most tokens of a row."""
        return None if model.text_only else self.length

    def unlimited(self) -> Objective:
        """Let rows be as long as they are."""
        return replace(self, length=causal.WITHOUT_LIMIT)

    def pieces(self, example: Example, model: Model) -> Sequence[Piece]:
        """Give the row's tokens, or its texts."""
        if asked.PROMPT in example:
            return asked.pieces(example)
        return shown.pieces(self.collate([example], model), model)

    def forward(self, module: nn.Module, batch: Batch) -> Any:
        """Give the logits."""
        return causal.logits(module, batch)

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Give the mean over the responses' tokens."""
        return causal.mean_token_loss(outputs, batch["labels"])

    def count(self, batch: Batch) -> int:
        """Count the responses' tokens."""
        return causal.count(batch["labels"])

    def columns(self, model: Model) -> Collection[str]:
        """Name losses and tokens."""
        return "loss", "tokens"

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        """Give each response's summed loss in nats and its number of tokens."""
        return causal.token_losses(module, causal.on_device(self.collate(examples, model), module))

    def predicted_logits(
        self, module: nn.Module, examples: Sequence[Example], model: Model
    ) -> Sequence[Logits]:
        """Give the logits of each token of the responses."""
        return causal.predicted_logits(module, causal.on_device(self.collate(examples, model), module))

    def generate(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        """Write each row's last response."""
        if model.text_only:
            return asked.written(module, examples, self.max_new_tokens, self)
        prompts = [[*example["prompt"], *example["response"][: example["last"]]] for example in examples]
        texts = continued(
            Model(module, model.tokenizer), prompts, self.max_new_tokens, self, self._ends(model)
        )
        return asked.columns(texts, examples, self.settings(self.max_new_tokens))

    def answer(self, model: Model, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Write a response to each prompt."""
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        texts = [each[0].prompt for each in self._turns(chats, model)]
        ids = causal.token_ids(model, texts, special=self.template != CHAT)
        return continued(model, ids, max_new_tokens, self, self._ends(model))

    def _ends(self, model: Model) -> list[int]:
        """Name the tokens beside the tokenizer's end by which an answer ends."""
        end = end_of_turn(model.tokenizer) if self.template == CHAT else None
        return [] if end is None else [end]

    def chat_template(self, model: Model) -> str | None:
        """Write the named template in Jinja."""
        if self.template == CHAT:
            return None
        first = causal.token_ids(model, ["a"])[0][0]
        return TEMPLATES[self.template].jinja(begins=first == model.tokenizer.bos_token_id)


@hookimpl
def myosotis_objectives() -> Mapping[str, type[Objective]]:
    """Give the objective."""
    return {"instruction": Instruction}
