"""Datasets, models, objectives and metrics that are broken, each in one way."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from myosotis.interfaces import (
    Batch,
    Columns,
    Example,
    Logits,
    Loss,
    Metric,
    Model,
    Objective,
    Row,
    Rows,
    Split,
)
from tests import toy


class UnknownObjective(toy.Points):
    """Names an objective that is not there."""

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        return "lines", {}


class UnknownMetric(toy.Points):
    """Names a metric that is not there."""

    def metrics(self) -> tuple[str, ...]:
        return ("misses",)


class EmptySplit(toy.Points):
    """An empty split instead of none."""

    def split(self, name: Split) -> Rows | None:
        return super().split(name) or []


class NothingHeldOut(toy.Points):
    """Nothing to be scored on."""

    def split(self, name: Split) -> Rows | None:
        return super().split(name) if name == "train" else None


class OtherColumns(toy.Points):
    """Labels under another name."""

    def split(self, name: Split) -> Rows | None:
        rows = super().split(name)
        return rows and [{"point": row["point"], "class": row["label"]} for row in rows]  # type: ignore[attr-defined]


class Leaking(toy.Points):
    """A training row in the test split."""

    def split(self, name: Split) -> Rows | None:
        rows = super().split(name)
        train = super().split("train")
        return rows and train and [*rows, train[5]]  # type: ignore[misc]


class Reshuffled(toy.Points):
    """Another order each time."""

    def split(self, name: Split) -> Rows | None:
        rows = super().split(name)
        return rows and [rows[index] for index in np.random.default_rng().permutation(len(rows))]


class ReadsInSecret(toy.Points):
    """Reads a file, and says so nowhere."""

    reads_outside = True


class RandomModel(toy.ToyModel):
    """New weights each time."""

    def load(self, objectives: Collection[Objective]) -> Model:
        return Model(toy.MLP(self.width))


class NotANumber(toy.ToyModel):
    """A weight that is not a number."""

    def load(self, objectives: Collection[Objective]) -> Model:
        model = super().load(objectives)
        nn.init.constant_(model.module[0].weight, np.nan)  # type: ignore[index]
        return model


class AlreadyFrozen(toy.ToyModel):
    """A model that comes frozen."""

    def load(self, objectives: Collection[Objective]) -> Model:
        model = super().load(objectives)
        model.module.requires_grad_(False)
        return model


class RealOutline(toy.ToyModel):
    """An outline that takes memory."""

    def outline(self, objectives: Collection[Objective]) -> Model:
        return self.load(objectives)


class OtherOutline(toy.ToyModel):
    """An outline of another width."""

    def outline(self, objectives: Collection[Objective]) -> Model:
        with torch.device("meta"):
            return Model(toy.MLP(self.width + 1))


class SavesNothing(toy.ToyModel):
    """A model that is lost."""

    def save(self, model: Model, folder: Path) -> None:
        pass


class Weightless(toy.PointObjective):
    """Examples of no tokens."""

    def tokens(self, example: Example) -> int:
        return 0


class LastFirst(toy.PointObjective):
    """The last row is the first example."""

    in_order = True

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        return list(super().encode(rows, model))[::-1]


class ForgetsTheLast(toy.PointObjective):
    """Leaves the last row out where rows come one by one."""

    def stream(self, rows: Rows, model: Model) -> Iterator[Example]:
        yield from self.encode(rows, model)[:-1]


class Numbered(toy.PointObjective):
    """Says that rows do not regard each other, and counts them."""

    row_by_row = True

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        return [{**row, "label": index % 2} for index, row in enumerate(super().encode(rows, model))]


class Listed(toy.PointObjective):
    """A batch with a list in it."""

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        return {**super().collate(examples, model), "rows": list(examples)}


class SummedLoss(toy.PointObjective):
    """The sum over rows."""

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        return nn.functional.cross_entropy(outputs, batch["labels"], reduction="sum")


class CountsLabels(toy.PointObjective):
    """A row counts as its label."""

    def count(self, batch: Batch) -> int:
        return 1 + int(batch["labels"].sum())


class CountsBatches(toy.PointObjective):
    """A batch counts as one."""

    def count(self, batch: Batch) -> int:
        return 1


class UnreducedLoss(toy.PointObjective):
    """A loss for each row."""

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        return nn.functional.cross_entropy(outputs, batch["labels"], reduction="none")


class DetachedLoss(toy.PointObjective):
    """A loss without a gradient."""

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        return super().loss(outputs, batch).detach()


class Normalizing(toy.PointObjective):
    """Predictions relative to the batch."""

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        columns = super().predict(module, examples, model)
        return {**columns, "loss": columns["loss"] - columns["loss"].mean()}


class Centring(toy.PointObjective):
    """Logits relative to the batch."""

    def predicted_logits(
        self, module: nn.Module, examples: Sequence[Example], model: Model
    ) -> Sequence[Logits]:
        logits = torch.stack(list(super().predicted_logits(module, examples, model)))
        return list(logits - logits.mean(dim=0))


class NoSuchMetric(toy.PointObjective):
    """Names a metric that is not there."""

    metrics = ("misses",)


class NoSuchColumn(toy.PointObjective):
    """Leaves out what its metric reads."""

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        return {"loss": super().predict(module, examples, model)["loss"]}


class AlsoScored(toy.PointObjective):
    """Shots that are examples themselves."""

    def encode_with_shots(self, rows: Rows, shots: Sequence[Row], model: Model) -> Sequence[Example]:
        return super().encode([*shots, *(rows[index] for index in range(len(rows)))], model)


class Unshown(toy.PointObjective):
    """Shots that are left out."""

    def encode_with_shots(self, rows: Rows, shots: Sequence[Row], model: Model) -> Sequence[Example]:
        return super().encode(rows, model)


class Boastful(toy.PointObjective):
    """Names a column that it does not give."""

    def columns(self, model: Model) -> Collection[str]:
        return "hit", "loss", "text"


class Directionless(Metric):
    """Says not whether higher is better."""

    def value(self, columns: Columns) -> float:
        return 0.0


class ArrayValue(toy.Surprise):
    """A score for each example."""

    def value(self, columns: Columns) -> float:
        return columns["loss"]  # type: ignore[return-value]


class Secretive(toy.Surprise):
    """Reads another column than it says."""

    reads = frozenset({"hit"})


class NoCount(toy.Surprise):
    """A score over nothing."""

    def count(self, columns: Columns) -> int:
        return 0


class FirstOnly(toy.Surprise):
    """The first example's loss."""

    def value(self, columns: Columns) -> float:
        return float(columns["loss"][0])


class Summed(toy.Surprise):
    """The sum of the losses."""

    def value(self, columns: Columns) -> float:
        return float(columns["loss"].sum())
