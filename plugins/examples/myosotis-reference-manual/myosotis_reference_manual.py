"""The reference manual of Python as running text, as a dataset of myosotis."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pydoc_data.topics import topics
from typing import Any

from myosotis import hookimpl
from myosotis.interfaces import Rows, Split, TaskDataset

MYOSOTIS_API = 1


class ReferenceManual(TaskDataset):
    """Model the text behind `help("for")`: a row is a paragraph, and none is in two splits.

    Every Python installation holds it. Of ten topics two are for the test and one is for validation.

    Args:
        length: tokens a block.
    """

    def __init__(self, length: int = 128) -> None:
        self.length = length

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose language modelling."""
        return "language_modeling", {"length": self.length}

    def split(self, name: Split) -> Rows | None:
        """Give the paragraphs of the split's topics."""
        return [{"text": text} for text, topic in paragraphs().items() if split_of(topic) == name]

    def fingerprint(self) -> str:
        """Hash the texts, which another version of Python has otherwise."""
        return hashlib.sha256(repr(sorted(topics.items())).encode()).hexdigest()


def paragraphs() -> dict[str, str]:
    """Give each paragraph with the first topic that has it: topics share some, and splits must not."""
    found: dict[str, str] = {}
    for topic, text in sorted(topics.items()):
        for part in text.split("\n\n"):
            found.setdefault(part.strip(), topic)
    return {text: topic for text, topic in found.items() if text}


def split_of(topic: str) -> Split:
    """Say which split a topic belongs to, by its name alone: new topics move no other."""
    position = hashlib.sha256(topic.encode()).digest()[0] % 10
    return "test" if position < 2 else "validation" if position < 3 else "train"


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"reference_manual": ReferenceManual}
