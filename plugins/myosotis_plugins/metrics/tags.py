"""How well words are tagged."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from myosotis import hookimpl
from myosotis.interfaces import Columns, Metric

MYOSOTIS_API = 1


class EntityF1(Metric):
    """2 · found / (predicted + there) over the entities of all sentences, as conlleval counts them, by seqeval.

    An entity is found where its words and its kind are right. Not a number where none is there or predicted.
    """

    higher_is_better = True
    reads = frozenset({"tags", "predicted_tags"})

    def prepare(self, columns: Columns) -> Columns:
        """Count each sentence's entities."""
        from seqeval.metrics.sequence_labeling import get_entities

        pairs = zip(columns["tags"], columns["predicted_tags"], strict=True)
        entities = [[set(get_entities(list(tags))) for tags in pair] for pair in pairs]
        return {
            "found": np.array([len(there & predicted) for there, predicted in entities]),
            "there": np.array([len(there) for there, _ in entities]),
            "predicted": np.array([len(predicted) for _, predicted in entities]),
        }

    def value(self, columns: Columns) -> float:
        """Divide the sums."""
        both = columns["there"].sum() + columns["predicted"].sum()
        return float(2 * columns["found"].sum() / both) if both else float("nan")

    def count(self, columns: Columns) -> int:
        """Count the entities that are there."""
        return int(columns["there"].sum())


class TagAccuracy(Metric):
    """The share of words whose tag is right."""

    higher_is_better = True
    reads = frozenset({"tags", "predicted_tags"})

    def prepare(self, columns: Columns) -> Columns:
        """Count each sentence's words, and the right ones."""
        pairs = list(zip(columns["tags"], columns["predicted_tags"], strict=True))
        return {
            "right": np.array([sum(a == b for a, b in zip(*pair, strict=True)) for pair in pairs]),
            "words": np.array([len(tags) for tags, _ in pairs]),
        }

    def value(self, columns: Columns) -> float:
        """Divide the sums."""
        return float(columns["right"].sum() / columns["words"].sum())

    def count(self, columns: Columns) -> int:
        """Count the words."""
        return int(columns["words"].sum())


@hookimpl
def myosotis_metrics() -> Mapping[str, type[Metric]]:
    """Give the metrics."""
    return {"entity_f1": EntityF1, "tag_accuracy": TagAccuracy}
