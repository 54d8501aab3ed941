"""Word problems of school mathematics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from myosotis import hookimpl
from myosotis.interfaces import Row, Split, TaskDataset
from myosotis_plugins.datasets.benchmark import AnswerBenchmark

MYOSOTIS_API = 1


class GSM8K(AnswerBenchmark):
    """Solve a word problem in steps; the answer is the number behind `####`.

    `metrics=[cross_entropy,number_match] max_new_tokens=256` lets the model write its solutions, and looks at the
    number.

    Args:
        path: a folder with `train.jsonl` and `test.jsonl`, rows of `question` and `answer`.
        length: the most tokens of a problem with its solution; a longer solution is refused. The longest has 573
            tokens by the tokenizer of `nano`, and fewer by larger ones.
        template: how a problem is put, as of the objective `instruction`.
        max_new_tokens: the most tokens of a solution that the model writes.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        streaming: whether rows and what they are encoded to stay on disk, with the same numbers; where not given,
            data of more than 256 MB do.
        options: further parameters of the objective, such as `{num_beams: 4}`; `myosotis plugins show OBJECTIVE`.
    """

    paper = "Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems, arXiv:2110.14168"
    hub = "openai/gsm8k"
    hub_name = "main"
    hub_splits: ClassVar[Mapping[Split, str]] = {"train": "train", "test": "test"}

    def __init__(
        self,
        path: str | None = None,
        length: int = 640,
        template: str = "question",
        max_new_tokens: int = 64,
        metrics: list[str] | None = None,
        streaming: bool | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(path, length, template, max_new_tokens, metrics, streaming, options)

    def row(self, raw: Mapping[str, Any]) -> Row:
        """Take question and answer."""
        return {"prompt": raw["question"], "response": raw["answer"]}


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"gsm8k": GSM8K}
