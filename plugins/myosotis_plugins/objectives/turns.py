"""Conversations as text: whose turn it is, how a template writes it, and what of it is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from myosotis.errors import DataError

ROLES = ("system", "user", "assistant")
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Turn:
    """What is asked, with all that the template writes before the answer, and the answer.

    Attributes:
        prompt: what is asked.
        response: the answer, with what the template writes behind it.
        open: whether the tokenizer's end must follow, for the template writes none.
    """

    prompt: str
    response: str
    open: bool = True


@dataclass(frozen=True)
class Template:
    """What stands before and after what is asked; the response follows.

    Attributes:
        before: comes first in every turn; a system message, with an empty line, before that.
        after: comes between what is asked and the response.
    """

    before: str
    after: str

    def turns(self, messages: Messages) -> list[Turn]:
        """Write a conversation that `checked_messages` let pass."""
        system = "".join(f"{each['content']}\n\n" for each in messages if each["role"] == "system")
        texts = [each["content"] for each in messages if each["role"] != "system"]
        asked = [f"{self.before}{text}{self.after}" for text in texts[::2]]
        answered = [*texts[1::2], ""]  # the last turn may be open
        return [
            Turn(f"{'' if number else system}{prompt}", response)
            for number, (prompt, response) in enumerate(zip(asked, answered, strict=False))
        ]

    def jinja(self, begins: bool) -> str:
        """Give the same as a tokenizer's chat template.

        Args:
            begins: whether the tokenizer writes its first token before every text.
        """
        first = "{{- bos_token -}}" if begins else ""
        return (
            f"{first}{{%- for message in messages -%}}"
            "{%- if message['role'] == 'system' -%}{{- message['content'] + '\\n\\n' -}}"
            "{%- elif message['role'] == 'user' -%}"
            f"{{{{- {self.before!r} + message['content'] + {self.after!r} -}}}}"
            "{%- else -%}{{- message['content'] + eos_token -}}{%- endif -%}{%- endfor -%}"
        )


TEMPLATES: Mapping[str, Template] = {
    "plain": Template("", "\n"),
    "question": Template("Question: ", "\nAnswer: "),
    "instruction": Template("### Instruction:\n", "\n\n### Response:\n"),
}


def turns_by_chat_template(tokenizer: Any, messages: Messages, ends: bool) -> list[Turn]:
    """Write a conversation by the tokenizer's own template, one turn after the other.

    Args:
        tokenizer: has the template.
        messages: the conversation.
        ends: whether the template ends an answer, as `end_of_turn` tells.

    Raises:
        DataError: the template writes the beginning of a longer conversation in another way.
    """
    written, turns = "", []
    for number in range(len(messages)):
        if messages[number]["role"] != "user":
            continue
        opened = _rendered(tokenizer, messages[: number + 1], True)
        if not opened.startswith(written):
            raise DataError(
                "the tokenizer's chat template must write a conversation's beginning the same, whatever follows, "
                "but writes another text before a later answer; use template=instruction, or rows of one turn"
            )
        answer = messages[number + 1 : number + 2]
        closed = _rendered(tokenizer, messages[: number + 2], False)
        # Where an answer that is there begins otherwise than one to come: as the model will be asked for it.
        whole = closed.startswith(opened)
        said = closed[len(opened) :] if whole else "".join(each["content"] for each in answer)
        last = number + 2 >= len(messages)
        turns.append(Turn(opened[len(written) :], said, open=last and not (whole and ends)))
        written = opened + said
    return turns


def end_of_turn(tokenizer: Any) -> int | None:
    """Give the token by which the tokenizer's own template ends an answer; None where it writes none."""
    from jinja2 import TemplateError

    answer = "Myosotis"
    chat = [{"role": "user", "content": "Name a flower."}, {"role": "assistant", "content": answer}]
    try:
        behind = _rendered(tokenizer, chat, False).rpartition(answer)[2]
    except TemplateError:  # such as one with the end of a tokenizer that has none
        return None
    written = tokenizer(behind.strip(), add_special_tokens=False)["input_ids"]
    # Marks have tokens of their own; what is put together from others ends nothing.
    return next((token for token in written[:1] if token in tokenizer.added_tokens_decoder), None)


def _rendered(tokenizer: Any, messages: Messages, opens: bool) -> str:
    text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=opens)
    return text


def checked_messages(row: Mapping[str, Any]) -> Messages:
    """Give a row's conversation: its `messages`, or its `prompt` and `response`.

    Raises:
        DataError: it is no conversation: a wrong role, or an order that is not one of question and answer.
    """
    if row.get("messages") is None:
        return [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["response"]},
        ]
    messages = row["messages"]
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise DataError(f"messages must be a list, but is {messages!r}")
    for each in messages:
        if not isinstance(each, Mapping) or not isinstance(each.get("content"), str):
            raise DataError(f"a message must have a role and a text as its content, but is {each!r}")
        if each.get("role") not in ROLES:
            raise DataError(f"a role must be {' or '.join(ROLES)}, but is {each.get('role')!r}")
    roles = [each["role"] for each in messages]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise DataError(
            f"a chat must begin with the user, after a system message where there is one, go to "
            f"and fro, and end with the assistant, but goes {', '.join(roles) or 'nowhere'}"
        )
    checked: Messages = messages
    return checked


def spoken(row: Mapping[str, Any]) -> Messages:
    """Give what user and assistant say in a row.

    Raises:
        DataError: as `checked_messages`.
    """
    return [each for each in checked_messages(row) if each["role"] != "system"]


def behind(earlier: Messages, messages: Messages) -> Messages:
    """Put earlier turns before a conversation's own, behind its system message."""
    system = [each for each in messages if each["role"] == "system"]
    return [*system, *earlier, *messages[len(system) :]]
