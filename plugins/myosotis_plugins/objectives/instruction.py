"""Following instructions: the loss is on the response only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, DataError, unknown_name
from myosotis.interfaces import Batch, Columns, Example, Loss, Model, Objective, Rows
from myosotis_plugins.objectives import causal

MYOSOTIS_API = 1

TEMPLATES = {
    "plain": "{prompt}\n",
    "question": "Question: {prompt}\nAnswer: ",
    "instruction": "### Instruction:\n{prompt}\n\n### Response:\n",
}
CHAT = "chat"


@dataclass(frozen=True)
class Instruction(Objective):
    """Answer a prompt; rows are `{"prompt": …, "response": …}`. The end of the response is learned too.

    Args:
        length: the most tokens a row may have; the prompt's beginning is cut to fit, the response never.
        template: `plain`, `question`, `instruction`, or `chat` for the tokenizer's own chat template.
    """

    metrics = ("cross_entropy", "perplexity")
    in_order = True

    length: int = 256
    template: str = "instruction"

    def __post_init__(self) -> None:
        if self.template not in (*TEMPLATES, CHAT):
            raise ConfigurationError(unknown_name("template", self.template, [*TEMPLATES, CHAT]))

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        """Put each row into the template.

        Raises:
            DataError: a response is empty or longer than a row may be, or the tokenizer has no chat template.
        """
        all_rows = [rows[index] for index in range(len(rows))]
        prompts = self._prompts([row["prompt"] for row in all_rows], model)
        responses = causal.token_ids(model, [row["response"] for row in all_rows], special=False)
        end = getattr(model.tokenizer, "eos_token_id", None)
        ends = [] if end is None else [end]
        return [
            self._example(number, prompt, [*response, *ends])
            for number, (prompt, response) in enumerate(zip(prompts, responses, strict=True), 1)
        ]

    def _prompts(self, prompts: Sequence[str], model: Model) -> list[list[int]]:
        if self.template != CHAT:
            texts = [TEMPLATES[self.template].format(prompt=prompt) for prompt in prompts]
            return causal.token_ids(model, texts)
        if not model.tokenizer.chat_template:
            raise DataError(
                f"template=chat must have a tokenizer with a chat template, but this model's has none; "
                f"use one of {', '.join(TEMPLATES)}"
            )
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        texts = model.tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        # The template writes the special tokens itself.
        return causal.token_ids(model, texts, special=False)

    def _example(self, number: int, prompt: list[int], response: list[int]) -> Example:
        if not response:
            raise DataError(f"row {number}: a response must have at least one token, but is empty")
        room = self.length - len(response)
        if room < 1:
            raise DataError(
                f"row {number}: a response must leave room for its prompt in {self.length} tokens, but has "
                f"{len(response)}; raise length, or shorten the response"
            )
        return {"prompt": prompt[-room:], "response": response}

    def tokens(self, example: Example) -> int:
        """Count the row's tokens."""
        return len(example["prompt"]) + len(example["response"])

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        """Pad prompts and responses to one length."""
        return causal.completion_batch(
            [example["prompt"] for example in examples], [example["response"] for example in examples]
        )

    def forward(self, module: nn.Module, batch: Batch) -> Any:
        """Give the logits."""
        return causal.logits(module, batch)

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Give the mean over the responses' tokens."""
        return causal.mean_token_loss(outputs, batch["labels"])

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        """Give each response's summed loss in nats and its number of tokens."""
        return causal.token_losses(module, causal.on_device(self.collate(examples, model), module))


@hookimpl
def myosotis_objectives() -> Mapping[str, type[Objective]]:
    """Give the objective."""
    return {"instruction": Instruction}
