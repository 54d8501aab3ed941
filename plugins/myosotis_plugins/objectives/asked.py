"""Rows that are asked in text, of a model that gives texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, cast

from torch import nn

from myosotis.interfaces import Columns, Example, Piece
from myosotis_plugins.objectives.causal import objects
from myosotis_plugins.objectives.few_shot import BLANK_LINE
from myosotis_plugins.objectives.generation import Decoding
from myosotis_plugins.objectives.turns import Messages

PROMPT = "prompt_text"
"""Where an example holds what is asked."""
Prompt: TypeAlias = str | Messages
"""A text as it is, or a conversation that the model puts in its own way."""


class Writer(Protocol):
    """The module of a model that gives texts alone."""

    def write(self, prompts: Sequence[Prompt], max_new_tokens: int, decoding: Decoding) -> list[str]:
        """Answer prompts.

        Raises:
            ModelError: it gives no answer.
            ConfigurationError: it cannot choose tokens so.
        """

    def settings(self, max_new_tokens: int, decoding: Decoding) -> str:
        """Say in words how it writes."""


def example(prompt: Prompt, reference: str) -> Example:
    """Make an example of a prompt and the answer that is wanted."""
    return {PROMPT: prompt, "reference": reference}


def behind_shots(examples: Sequence[Example], shots: Sequence[Example]) -> list[Example]:
    """Put examples with their answers before every text, a blank line behind each."""
    before = "".join(f"{each[PROMPT]}{each['reference']}{BLANK_LINE}" for each in shots)
    return [example(f"{before}{each[PROMPT]}", each["reference"]) for each in examples]


def written(
    module: nn.Module, examples: Sequence[Example], max_new_tokens: int, decoding: Decoding
) -> Columns:
    """Let the module answer, and give `columns`."""
    writer = cast(Writer, module)
    texts = writer.write([each[PROMPT] for each in examples], max_new_tokens, decoding)
    return columns(texts, examples, writer.settings(max_new_tokens, decoding))


def columns(texts: Sequence[str], examples: Sequence[Example], settings: str) -> Columns:
    """Give what was written for examples, beside what is wanted, and how it was written."""
    return {
        "text": objects(texts),
        "reference": objects([each["reference"] for each in examples]),
        "settings": objects([settings] * len(texts)),
    }


def pieces(asked: Example) -> list[Piece]:
    """Give an example as people read it: what is asked, and the answer that is wanted."""
    prompt = asked[PROMPT]
    texts = [prompt] if isinstance(prompt, str) else [f"{each['role']}: {each['content']}" for each in prompt]
    return [*(Piece(text, False) for text in texts), Piece(asked["reference"], True)]
