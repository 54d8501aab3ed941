"""Named entities in posts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from myosotis import hookimpl
from myosotis.interfaces import Row, TaskDataset
from myosotis_plugins.datasets.benchmark import Benchmark
from myosotis_plugins.datasets.columns import NUMBERS, TEXTS, Kind
from myosotis_plugins.datasets.numbered import named

MYOSOTIS_API = 1

KINDS = ("corporation", "creative-work", "group", "location", "person", "product")
TAGS = ("O", *(f"{place}-{kind}" for kind in KINDS for place in "BI"))


class WNUT17(Benchmark):
    """Tag entities that are new and rare in posts and comments.

    Args:
        path: a folder with `train.jsonl`, `dev.jsonl` and `test.jsonl`, rows of `tokens` and `tags`.
        length: the most pieces of a post.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        train_rows: how many rows are trained on, drawn once for all: fewer are among more; all where not given.
        streaming: whether rows and what they are encoded to stay on disk, with the same numbers; where not given,
            data of more than 256 MB do.
    """

    paper = (
        "Derczynski et al. 2017, Results of the WNUT2017 Shared Task on Novel and Emerging Entity Recognition"
    )
    hub = "leondz/wnut_17"
    hub_revision = "refs/convert/parquet"
    kinds: ClassVar[Mapping[str, Kind]] = {"tokens": TEXTS, "tags": TEXTS, "ner_tags": NUMBERS}

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose the tagging of words."""
        return "token_classification", {"tags": TAGS, "length": self.length}

    def row(self, raw: Mapping[str, Any]) -> Row:
        """Name the tags."""
        tags = raw["tags"] if "tags" in raw else [named(number, TAGS) for number in raw["ner_tags"]]
        return {"tokens": raw["tokens"], "tags": tags}


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"wnut17": WNUT17}
