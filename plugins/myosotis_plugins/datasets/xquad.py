"""Questions about paragraphs of Wikipedia."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from myosotis import hookimpl
from myosotis.interfaces import Row, Rows, Split, TaskDataset
from myosotis_plugins.datasets.benchmark import Benchmark

MYOSOTIS_API = 1

TEST = 5
"""Every so many questions is held out: the data set is a test set."""


class XQuAD(Benchmark):
    """Answer a question with a few words of a paragraph of Wikipedia that is not shown: it must be known or found.

    `metrics=[cross_entropy,exact_match]` lets the model write its answers.

    Args:
        path: a folder with `qa_en.jsonl`, rows of `question` and `answer`.
        length: the most tokens of a question with its answer.
        template: how a question is put, as of the objective `instruction`.
        max_new_tokens: the most tokens of an answer that the model writes.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
    """

    paper = (
        "Artetxe et al. 2020, On the Cross-lingual Transferability of Monolingual Representations, "
        "arXiv:1910.11856"
    )
    hub = "google/xquad"
    hub_name = "xquad.en"
    hub_splits: ClassVar[Mapping[Split, str]] = {"train": "validation", "test": "validation"}
    files: ClassVar[Mapping[Split, str]] = {"train": "qa_en.jsonl", "test": "qa_en.jsonl"}

    def __init__(
        self,
        path: str | None = None,
        length: int = 256,
        template: str = "question",
        max_new_tokens: int = 32,
        metrics: list[str] | None = None,
    ) -> None:
        super().__init__(path, length, metrics)
        self.template = template
        self.max_new_tokens = max_new_tokens

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose instructions."""
        return "instruction", {
            "length": self.length,
            "template": self.template,
            "max_new_tokens": self.max_new_tokens,
        }

    def split(self, name: Split) -> Rows | None:
        """Hold out every fifth question."""
        rows = super().split(name)
        if rows is None:
            return None
        return [rows[index] for index in range(len(rows)) if (index % TEST == TEST - 1) == (name == "test")]

    def row(self, raw: Mapping[str, Any]) -> Row:
        """Take question and answer."""
        answer = raw["answer"] if "answer" in raw else raw["answers"]["text"][0]
        return {"prompt": raw["question"], "response": answer}


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"xquad": XQuAD}
