"""Questions about paragraphs of Wikipedia."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from myosotis import hookimpl
from myosotis.interfaces import Row, Rows, Split, TaskDataset
from myosotis_plugins.datasets.benchmark import AnswerBenchmark, held_out

MYOSOTIS_API = 1

HELD_OUT = 5
"""Every so many questions is scored."""


class XQuAD(AnswerBenchmark):
    """Answer a question with a few words of a paragraph of Wikipedia that is not shown: it must be known or found.

    `metrics=[cross_entropy,exact_match]` lets the model write its answers.

    Args:
        path: a folder with `qa_en.jsonl`, rows of `question` and `answer`.
        length: the most tokens of a question with its answer; a longer answer is refused.
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

    def split(self, name: Split) -> Rows | None:
        """Hold out every fifth question."""
        return held_out(super().split(name), name, HELD_OUT)

    def row(self, raw: Mapping[str, Any]) -> Row:
        """Take question and answer."""
        answer = raw["answer"] if "answer" in raw else raw["answers"]["text"][0]
        return {"prompt": raw["question"], "response": answer}


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"xquad": XQuAD}
