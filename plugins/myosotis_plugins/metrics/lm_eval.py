"""Scores of EleutherAI's lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from myosotis import hookimpl
from myosotis.interfaces import Columns, Metric, written_by

MYOSOTIS_API = 1

PREFIX = "lm_eval_"
"""Stands before the harness's names, of which some have other metrics here."""


class HarnessMetric(Metric):
    """Reads `scores`, what the harness gave each document, and makes one score of them as the harness does.

    They may be of what was written, though the objective's `generate` is not asked: `settings` says so.
    """

    name: ClassVar[str]
    higher_is_better = True

    def prepare(self, columns: Columns) -> Columns:
        """Take this metric's numbers: one a document, or two, such as a likelihood and how many words it is of."""
        return {"score": np.array([scores[self.name] for scores in columns["scores"]], dtype=float)}

    def settings(self, columns: Columns) -> str:
        """Say how answers were written, where they were."""
        return written_by(columns)

    def value(self, columns: Columns) -> float:
        """Aggregate."""
        from lm_eval.api.registry import get_metric_aggregation

        return float(get_metric_aggregation(self.name)(list(columns["score"])))


class Acc(HarnessMetric):
    """The share of documents whose likeliest answer is the right one."""

    name = "acc"


class AccNorm(HarnessMetric):
    """As `lm_eval_acc`, of log-likelihoods that are divided by the answers' lengths in letters."""

    name = "acc_norm"


class AccBytes(HarnessMetric):
    """As `lm_eval_acc`, of log-likelihoods that are divided by the answers' lengths in bytes."""

    name = "acc_bytes"


class HarnessExactMatch(HarnessMetric):
    """The share of documents whose written answer is the right one, after the task's own cleaning."""

    name = "exact_match"


class F1(HarnessMetric):
    """F1 of the second of two answers."""

    name = "f1"


class MCC(HarnessMetric):
    """Matthews' correlation of the likeliest and the right answer."""

    name = "mcc"


class HarnessPerplexity(HarnessMetric):
    """exp of the mean negative log-likelihood of an answer."""

    name = "perplexity"
    higher_is_better = False


class WordPerplexity(HarnessMetric):
    """exp of the negative log-likelihood of whole texts a word."""

    name = "word_perplexity"
    higher_is_better = False


class BytePerplexity(HarnessMetric):
    """exp of the negative log-likelihood of whole texts a byte."""

    name = "byte_perplexity"
    higher_is_better = False


class HarnessBitsPerByte(HarnessMetric):
    """The negative log-likelihood of whole texts in bits a byte."""

    name = "bits_per_byte"
    higher_is_better = False


METRICS: Mapping[str, type[HarnessMetric]] = {
    each.name: each
    for each in (
        Acc,
        AccNorm,
        AccBytes,
        HarnessExactMatch,
        F1,
        MCC,
        HarnessPerplexity,
        WordPerplexity,
        BytePerplexity,
        HarnessBitsPerByte,
    )
}
"""By the harness's names."""


@hookimpl
def myosotis_metrics() -> Mapping[str, type[Metric]]:
    """Give the metrics."""
    return {f"{PREFIX}{name}": metric for name, metric in METRICS.items()}
