"""Scores of predictions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from myosotis import hookimpl
from myosotis.interfaces import Columns, Metric

MYOSOTIS_API = 1


class CrossEntropy(Metric):
    """Mean loss over tokens, in nats: Σ loss / Σ tokens over all examples."""

    higher_is_better = False

    def value(self, columns: Columns) -> float:
        """Divide the summed losses by the tokens."""
        return float(columns["loss"].sum() / columns["tokens"].sum())

    def count(self, columns: Columns) -> int:
        """Count the tokens."""
        return int(columns["tokens"].sum())


class Perplexity(Metric):
    """The exponential of the cross-entropy."""

    higher_is_better = False

    def value(self, columns: Columns) -> float:
        """Exponentiate the mean loss; infinite where a float cannot hold it."""
        with np.errstate(over="ignore"):
            return float(np.exp(columns["loss"].sum() / columns["tokens"].sum()))

    def count(self, columns: Columns) -> int:
        """Count the tokens."""
        return int(columns["tokens"].sum())


class Accuracy(Metric):
    """The share of examples whose prediction is their label."""

    higher_is_better = True

    def value(self, columns: Columns) -> float:
        """Average the hits."""
        return float((columns["prediction"] == columns["label"]).mean())


class LabelCrossEntropy(Metric):
    """Mean of −log of the right label's probability among the labels, in nats; smoother than accuracy."""

    higher_is_better = False

    def value(self, columns: Columns) -> float:
        """Average the losses."""
        return float(columns["loss"].mean())


@hookimpl
def myosotis_metrics() -> Mapping[str, type[Metric]]:
    """Give the metrics."""
    return {
        "cross_entropy": CrossEntropy,
        "perplexity": Perplexity,
        "accuracy": Accuracy,
        "label_cross_entropy": LabelCrossEntropy,
    }
