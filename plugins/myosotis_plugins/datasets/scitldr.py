"""Summaries of papers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from myosotis import hookimpl
from myosotis.interfaces import Row, TaskDataset
from myosotis_plugins.datasets.benchmark import Benchmark
from myosotis_plugins.datasets.columns import TEXTS, Kind

MYOSOTIS_API = 1


class SciTLDR(Benchmark):
    """Summarize a paper's abstract in a sentence.

    `metrics=[cross_entropy,rougeL]` lets the model write its summaries.

    Args:
        path: a folder with `train.jsonl`, `dev.jsonl` and `test.jsonl`, rows of `document` and `summary`.
        length: the most tokens of an abstract; its end is cut to fit.
        target_length: the most tokens of a summary.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        streaming: whether rows and what they are encoded to stay on disk, with the same numbers; where not given,
            data of more than 256 MB do.
        options: further parameters of the objective, such as `{num_beams: 4}`; `myosotis plugins show OBJECTIVE`.
    """

    paper = "Cachola et al. 2020, TLDR: Extreme Summarization of Scientific Documents, arXiv:2004.15011"
    hub = "allenai/scitldr"
    hub_name = "Abstract"
    hub_revision = "refs/convert/parquet"
    kinds: ClassVar[Mapping[str, Kind]] = {"source": TEXTS, "target": TEXTS}

    def __init__(
        self,
        path: str | None = None,
        length: int = 384,
        target_length: int = 128,
        metrics: list[str] | None = None,
        streaming: bool | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(path, length, metrics, streaming=streaming)
        self.options = options or {}
        self.target_length = target_length

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose the way from text to text."""
        return "sequence_to_sequence", {
            "length": self.length,
            "target_length": self.target_length,
            "template": "summarize: {source}\nTL;DR: ",
            **self.options,
        }

    def row(self, raw: Mapping[str, Any]) -> Row:
        """Take the abstract and the first summary."""
        if "document" in raw:
            return {"source": raw["document"], "target": raw["summary"]}
        return {"source": " ".join(raw["source"]), "target": raw["target"][0]}


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"scitldr": SciTLDR}
