"""How well labels are chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from myosotis import hookimpl
from myosotis.interfaces import Columns, Metric

MYOSOTIS_API = 1


class Accuracy(Metric):
    """The share of examples whose prediction is their label."""

    higher_is_better = True
    reads = frozenset({"label", "prediction"})

    def value(self, columns: Columns) -> float:
        """Average the hits."""
        return float((columns["prediction"] == columns["label"]).mean())


class LabelCrossEntropy(Metric):
    """Mean of −log of the right label's probability among the labels, in nats; smoother than accuracy."""

    higher_is_better = False
    reads = frozenset({"loss"})

    def value(self, columns: Columns) -> float:
        """Average the losses."""
        return float(columns["loss"].mean())


class MacroF1(Metric):
    """The mean over labels of 2 · hits / (chosen + right), by torchmetrics; of those that are chosen or right."""

    higher_is_better = True
    reads = frozenset({"label", "prediction"})

    def value(self, columns: Columns) -> float:
        """Average over the labels."""
        from torchmetrics.functional.classification import multiclass_f1_score

        return _multiclass(multiclass_f1_score, columns, average="macro")


class Matthews(Metric):
    """Matthews' correlation of prediction and label, by torchmetrics: 0 by chance.

    Where all rows have one label, it is 1 if that is always chosen, as torchmetrics has it; scikit-learn gives 0.
    """

    higher_is_better = True
    reads = frozenset({"label", "prediction"})

    def value(self, columns: Columns) -> float:
        """Correlate."""
        from torchmetrics.functional.classification import multiclass_matthews_corrcoef

        return _multiclass(multiclass_matthews_corrcoef, columns)


def _multiclass(function: Callable[..., Any], columns: Columns, **options: Any) -> float:
    found = [np.ascontiguousarray(columns[name], dtype=np.int64) for name in ("prediction", "label")]
    classes = max(2, int(max(column.max() for column in found)) + 1)
    tensors = [torch.from_numpy(column) for column in found]
    return float(function(*tensors, num_classes=classes, validate_args=False, **options))


@hookimpl
def myosotis_metrics() -> Mapping[str, type[Metric]]:
    """Give the metrics."""
    return {
        "accuracy": Accuracy,
        "label_cross_entropy": LabelCrossEntropy,
        "macro_f1": MacroF1,
        "matthews": Matthews,
    }
