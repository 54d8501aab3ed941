"""How near what a model writes is to what it should have written."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from myosotis import hookimpl
from myosotis.interfaces import Columns, Metric

MYOSOTIS_API = 1


class TextMetric(Metric):
    """Looks at the texts that were written, `text`, and those wanted, `reference`."""

    generates = True
    higher_is_better = True


class MeanOfTexts(TextMetric):
    """Has a score for every text, and is their mean."""

    @abstractmethod
    def score(self, text: str, reference: str) -> float:
        """Score one text."""

    def prepare(self, columns: Columns) -> Columns:
        """Score each text."""
        pairs = zip(columns["text"], columns["reference"], strict=True)
        return {"score": np.array([self.score(text, reference) for text, reference in pairs], dtype=float)}

    def value(self, columns: Columns) -> float:
        """Average the scores."""
        return float(columns["score"].mean())


class ExactMatch(MeanOfTexts):
    """The share of texts that are the reference, but for spaces around."""

    def score(self, text: str, reference: str) -> float:
        """Compare."""
        return float(text.strip() == reference.strip())


class NumberMatch(MeanOfTexts):
    """The share of texts that give the reference's number: behind `####`, as in GSM8K, else the last one."""

    def score(self, text: str, reference: str) -> float:
        """Compare the numbers."""
        wanted = number_of(reference)
        return float(wanted is not None and number_of(text) == wanted)


NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def number_of(text: str) -> float | None:
    """Find the number that a text gives as its answer; None where there is none."""
    _, marked, behind = text.rpartition("####")
    found = NUMBER.findall(behind)
    if not found:
        return None
    return float(found[0 if marked else -1].replace(",", ""))


class Rouge(MeanOfTexts):
    """F of the overlap of words, of pairs, or of the longest common sequence, by rouge-score, without stemming.

    Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries.
    """

    kind: ClassVar[str]

    def __init__(self) -> None:
        from rouge_score.rouge_scorer import RougeScorer

        self._scorer = RougeScorer([self.kind])

    def score(self, text: str, reference: str) -> float:
        """Measure the overlap."""
        return float(self._scorer.score(reference, text)[self.kind].fmeasure)


class Rouge1(Rouge):
    """ROUGE-1: words."""

    kind = "rouge1"


class Rouge2(Rouge):
    """ROUGE-2: pairs of words."""

    kind = "rouge2"


class RougeL(Rouge):
    """ROUGE-L: the longest common sequence of words."""

    kind = "rougeL"


class CorpusMetric(TextMetric):
    """One of sacreBLEU's: counts of every text, added up over all of them."""

    @abstractmethod
    def scorer(self) -> Any:
        """Give the metric of sacreBLEU's."""

    def prepare(self, columns: Columns) -> Columns:
        """Count in each text."""
        texts, references = (list(columns[name]) for name in ("text", "reference"))
        # What sacreBLEU's own bootstrap starts from.
        return {"counts": np.array(self.scorer()._extract_corpus_statistics(texts, [references]))}

    def value(self, columns: Columns) -> float:
        """Add up, and score; 0 to 100."""
        return float(self.scorer()._compute_score_from_stats(list(columns["counts"].sum(axis=0))).score)


class Bleu(CorpusMetric):
    """BLEU, 0 to 100, by sacreBLEU with its own tokenization (Post 2018, arXiv:1804.08771)."""

    def scorer(self) -> Any:
        """Give BLEU."""
        from sacrebleu.metrics import BLEU

        return BLEU(force=True)


class ChrF(CorpusMetric):
    """chrF, 0 to 100, of sequences of up to six letters, by sacreBLEU (Popović 2015)."""

    def scorer(self) -> Any:
        """Give chrF."""
        from sacrebleu.metrics import CHRF

        return CHRF()


@hookimpl
def myosotis_metrics() -> Mapping[str, type[Metric]]:
    """Give the metrics."""
    return {
        "exact_match": ExactMatch,
        "number_match": NumberMatch,
        "rouge1": Rouge1,
        "rouge2": Rouge2,
        "rougeL": RougeL,
        "bleu": Bleu,
        "chrf": ChrF,
    }
