"""Questions about paragraphs of Wikipedia."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from myosotis import hookimpl
from myosotis.interfaces import Row, Rows, Split, TaskDataset, file_hash
from myosotis_plugins.datasets.benchmark import AnswerBenchmark, held_out
from myosotis_plugins.datasets.columns import ANSWERS, Kind
from myosotis_plugins.datasets.readers import passages

MYOSOTIS_API = 1

HELD_OUT = 5
"""Every so many questions is scored."""
CORPUS = "corpus_en.jsonl"
"""Where the paragraphs are."""


class XQuAD(AnswerBenchmark):
    """Answer a question with a few words of a paragraph of Wikipedia that is not shown: it must be known or found.

    `metrics=[cross_entropy,exact_match]` lets the model write its answers.

    Args:
        path: a folder with `qa_en.jsonl`, rows of `question` and `answer`, and `corpus_en.jsonl`, the paragraphs as
            rows of `text`, where they are to be found.
        length: the most tokens of a question with its answer; a longer answer is refused.
        template: how a question is put, as of the objective `instruction`.
        max_new_tokens: the most tokens of an answer that the model writes.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        streaming: whether rows and what they are encoded to stay on disk, with the same numbers; where not given,
            data of more than 256 MB do.
        options: further parameters of the objective, such as `{num_beams: 4}`; `myosotis plugins show OBJECTIVE`.
    """

    paper = (
        "Artetxe et al. 2020, On the Cross-lingual Transferability of Monolingual Representations, "
        "arXiv:1910.11856"
    )
    hub = "google/xquad"
    hub_name = "xquad.en"
    kinds: ClassVar[Mapping[str, Kind]] = {"answers": ANSWERS}
    hub_splits: ClassVar[Mapping[Split, str]] = {"train": "validation", "test": "validation"}
    files: ClassVar[Mapping[Split, str]] = {"train": "qa_en.jsonl", "test": "qa_en.jsonl"}

    def split(self, name: Split) -> Rows | None:
        """Hold out every fifth question."""
        return held_out(super().split(name), name, HELD_OUT)

    def row(self, raw: Mapping[str, Any]) -> Row:
        """Take question and answer."""
        answer = raw["answer"] if "answer" in raw else raw["answers"]["text"][0]
        return {"prompt": raw["question"], "response": answer}

    def corpus(self) -> Sequence[str]:
        """Give the paragraphs, which no prompt shows; none where the folder does not have them."""
        if self.folder is not None:
            path = self.folder / CORPUS
            return passages(path) if path.is_file() else ()
        raw = self._from_hub("test")
        return list(dict.fromkeys(raw[index]["context"] for index in range(len(raw))))

    def fingerprint(self) -> str:
        """Hash the paragraphs with the questions."""
        if self.folder is None or not (self.folder / CORPUS).is_file():
            return super().fingerprint()
        return file_hash([self.folder / self.files["test"], self.folder / CORPUS])


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"xquad": XQuAD}
