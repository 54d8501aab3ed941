"""Looking answers up instead of learning them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Component, Context, Method, Mixture, Model, Row, Rows, Stage, Task, file_hash
from myosotis.logs import trial_log
from myosotis_plugins.datasets.readers import check_file, passages
from myosotis_plugins.methods.bm25 import BM25
from myosotis_plugins.objectives.turns import spoken

MYOSOTIS_API = 1

ASKING = ("instruction", "sequence_to_sequence")
"""The objectives whose rows ask something."""


class Retrieval(Method):
    """Put passages that share words with a question before it, in what is scored and in what is trained on.

    It trains nothing: alone, it scores the base with passages, after each stage the same. Beside a method that
    trains, training rows get passages too, and so do those of methods before it: `method=[lora,replay,retrieval]`.
    Passages are ranked by BM25, score(q, d) = Σ_t idf(t) · f(t, d) / (f(t, d) + k1 (1 − b + b |d| / mean |d|)).
    The best stands last, next to the question: of a prompt that is too long the beginning is cut. The trial's log
    says how often an answer stands in what was found.

    Cost: no parameter; prompts are longer by the passages' tokens.

    Args:
        corpus: a file of passages for all tasks that ask something: JSON lines with `text`, or plain text, a
            paragraph each. Each task's own corpus where not given, and no passages for tasks without one.
        passages: how many come before a question.
        words: passages are cut into pieces of so many words; whole where not given.
        template: what is asked then, of `{passages}` and `{question}`.
        k1: how much a word counts that comes again.
        b: how much a long passage's words count less, from 0 to 1.
    """

    paper = (
        "Robertson and Zaragoza 2009, The Probabilistic Relevance Framework: BM25 and Beyond, "
        "doi:10.1561/1500000019; Kamphuis et al. 2020, Which BM25 Do You Mean?, doi:10.1007/978-3-030-45442-5_4"
    )
    trains = False
    changes_base = True
    cohort_fields = frozenset({"corpus", "passages", "words", "template", "k1", "b"})
    locations = frozenset({"corpus"})

    def __init__(
        self,
        corpus: str | None = None,
        passages: int = 1,
        words: int | None = None,
        template: str = "{passages}\n\n{question}",
        k1: float = 1.5,
        b: float = 0.75,
    ) -> None:
        if find_spec("bm25s") is None:
            raise ConfigurationError(
                "retrieval must have bm25s, but it is not installed; pip install 'myosotis[retrieval]'"
            )
        if passages < 1 or (words is not None and words < 1):
            raise ConfigurationError(f"passages and words must be at least 1, but got {passages} and {words}")
        if "{passages}" not in template or "{question}" not in template:
            raise ConfigurationError(
                f"template must contain {{passages}} and {{question}}, but got {template!r}"
            )
        if not k1 >= 0 or not 0 <= b <= 1:
            raise ConfigurationError(f"k1 must be at least 0, and b from 0 to 1, but got {k1} and {b}")
        self.corpus = None if corpus is None else Path(corpus)
        if self.corpus is not None:
            check_file(self.corpus)
        self.count = passages
        self.words = words
        self.template = template
        self.k1 = k1
        self.b = b
        self._indices: dict[str, BM25 | None] = {}
        self._told: set[str] = set()

    def fingerprint(self) -> str:
        """Hash the file of passages; a task's own are in the task's."""
        return "" if self.corpus is None else file_hash([self.corpus])

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Change nothing, but see that there is something to look up before anything runs.

        Raises:
            ConfigurationError: no task asks something, or none of those that do has passages.
        """
        if not any(self._index(task) for task in context.tasks.values()):
            raise ConfigurationError(
                f"retrieval must have a task of the objective {' or '.join(ASKING)} with passages to look up, but "
                f"{', '.join(context.tasks)} has none; give method.retrieval.corpus=FILE, or leave it out"
            )
        return model.module

    def training_data(
        self, stage: Stage, data: Mixture, seen: Mapping[str, Rows], context: Context
    ) -> Mixture:
        """Put passages before the questions that are trained on."""
        return tuple(
            Component(each.task, self._with_passages(context.tasks[each.task], each.rows), each.share)
            for each in data
        )

    def evaluation_data(self, task: Task, data: Rows, context: Context) -> Rows:
        """Put passages before the questions that are scored."""
        return self._with_passages(task, data, scored=True)

    def _index(self, task: Task) -> BM25 | None:
        """Give what a task's questions are looked up in; None where it asks none, or has no passages."""
        if task.dataset.objective()[0] not in ASKING:
            return None
        name = task.name if self.corpus is None else ""
        if name not in self._indices:
            whole = task.dataset.corpus() if self.corpus is None else passages(self.corpus)
            pieces = [piece for each in whole for piece in cut(each, self.words)]
            self._indices[name] = BM25(pieces, self.k1, self.b) if pieces else None
        return self._indices[name]

    def _with_passages(self, task: Task, rows: Rows, scored: bool = False) -> Rows:
        index = self._index(task)
        if index is None:
            return rows
        plain = [rows[number] for number in range(len(rows))]
        found = [index.best(_asked(row)[0], self.count) for row in plain]
        if scored and task.name not in self._told:
            self._told.add(task.name)
            self._tell(task.name, [_asked(row)[1] for row in plain], found)
        return [self._asking(row, each) if each else row for row, each in zip(plain, found, strict=True)]

    def _asking(self, row: Row, found: Sequence[str]) -> Row:
        values = {"passages": "\n\n".join(reversed(found)), "question": _asked(row)[0]}
        filled = re.sub(r"\{(passages|question)\}", lambda match: values[match[1]], self.template)
        if row.get("messages") is None:
            return {**row, "source" if "source" in row else "prompt": filled}
        first = next(number for number, each in enumerate(row["messages"]) if each["role"] == "user")
        asked = {"role": "user", "content": filled}
        return {**row, "messages": [*row["messages"][:first], asked, *row["messages"][first + 1 :]]}

    def _tell(self, task: str, answers: Sequence[str], found: Sequence[Sequence[str]]) -> None:
        held = [
            any(answer.casefold() in passage.casefold() for passage in each)
            for answer, each in zip(answers, found, strict=True)
        ]
        trial_log("").info(
            "of %d questions of %s, %.1f %% have their answer in the %d passages that were found",
            len(held),
            task,
            100 * sum(held) / len(held),
            self.count,
        )


def cut(passage: str, words: int | None) -> list[str]:
    """Cut a passage into pieces of so many words; None leaves it whole."""
    if words is None:
        return [passage]
    each = passage.split()
    return [" ".join(each[start : start + words]) for start in range(0, len(each), words)]


def _asked(row: Row) -> tuple[str, str]:
    """Give a row's first question, and its answer."""
    if "source" in row:
        return row["source"], row["target"]
    question, answer, *_ = spoken(row)
    return question["content"], answer["content"]


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"retrieval": Retrieval}
