"""Translations of captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Row, TaskDataset
from myosotis_plugins.datasets.benchmark import Benchmark

MYOSOTIS_API = 1

LANGUAGES = {"en": "English", "de": "German", "fr": "French"}


class Multi30k(Benchmark):
    """Translate the caption of a picture.

    `metrics=[cross_entropy,bleu,chrf]` lets the model write its translations.

    Args:
        path: a folder with `train.jsonl`, `dev.jsonl` and `test.jsonl`, rows of `en`, `de` and `fr`.
        length: the most tokens of a caption with what is asked.
        target_length: the most tokens of a translation.
        source: the language to translate from: en, de or fr; the Hub has no fr.
        target: the language to translate to.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        streaming: whether rows and what they are encoded to stay on disk, with the same numbers; where not given,
            data of more than 256 MB do.
        options: further parameters of the objective, such as `{num_beams: 4}`; `myosotis plugins show OBJECTIVE`.
    """

    paper = "Elliott et al. 2016, Multi30K: Multilingual English-German Image Descriptions, arXiv:1605.00459"
    hub = "bentrevett/multi30k"

    def __init__(
        self,
        path: str | None = None,
        length: int = 128,
        target_length: int = 128,
        source: str = "en",
        target: str = "de",
        metrics: list[str] | None = None,
        streaming: bool | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(path, length, metrics, streaming=streaming)
        self.options = options or {}
        if source not in LANGUAGES or target not in LANGUAGES or source == target:
            raise ConfigurationError(
                f"source and target must be two of {', '.join(LANGUAGES)}, but got {source} and {target}"
            )
        self.target_length = target_length
        self.source = source
        self.target = target

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose the way from text to text."""
        return "sequence_to_sequence", {
            "length": self.length,
            "target_length": self.target_length,
            "template": f"translate {LANGUAGES[self.source]} to {LANGUAGES[self.target]}: {{source}}\n",
            **self.options,
        }

    def row(self, raw: Mapping[str, Any]) -> Row:
        """Take the two languages."""
        return {"source": raw[self.source], "target": raw[self.target]}


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"multi30k": Multi30k}
