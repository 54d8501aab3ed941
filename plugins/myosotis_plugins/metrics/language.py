"""How well tokens are predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from myosotis import hookimpl
from myosotis.interfaces import Columns, Metric

MYOSOTIS_API = 1


class CrossEntropy(Metric):
    """Mean loss over tokens, in nats: Σ loss / Σ tokens over all examples."""

    higher_is_better = False
    reads = frozenset({"loss", "tokens"})

    def value(self, columns: Columns) -> float:
        """Divide the summed losses by the tokens."""
        return float(columns["loss"].sum() / columns["tokens"].sum())

    def count(self, columns: Columns) -> int:
        """Count the tokens."""
        return int(columns["tokens"].sum())


class Perplexity(Metric):
    """The exponential of the cross-entropy."""

    higher_is_better = False
    reads = frozenset({"loss", "tokens"})

    def value(self, columns: Columns) -> float:
        """Exponentiate the mean loss; infinite where a float cannot hold it."""
        with np.errstate(over="ignore"):
            return float(np.exp(columns["loss"].sum() / columns["tokens"].sum()))

    def count(self, columns: Columns) -> int:
        """Count the tokens."""
        return int(columns["tokens"].sum())


class BitsPerByte(Metric):
    """Σ loss / (ln 2 · Σ bytes), which compares models whose tokens differ (Gao et al. 2020, arXiv:2101.00027)."""

    higher_is_better = False
    reads = frozenset({"loss", "bytes"})

    def value(self, columns: Columns) -> float:
        """Divide the summed losses, in bits, by the bytes of the text that is predicted."""
        return float(columns["loss"].sum() / columns["bytes"].sum() / math.log(2))

    def count(self, columns: Columns) -> int:
        """Count the bytes."""
        return int(columns["bytes"].sum())


@hookimpl
def myosotis_metrics() -> Mapping[str, type[Metric]]:
    """Give the metrics."""
    return {"cross_entropy": CrossEntropy, "perplexity": Perplexity, "bits_per_byte": BitsPerByte}
