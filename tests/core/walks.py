"""Further toy plugins: rows of different lengths, whose loss is a mean over what is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from myosotis import hookimpl
from myosotis.interfaces import (
    Batch,
    Columns,
    Example,
    Loss,
    Model,
    Objective,
    Rows,
    Split,
    TaskDataset,
)

MYOSOTIS_API = 1

PADDED = -100
"""The label of what only fills up."""


class Walks(TaskDataset):
    """Walks of one point or more, each point labelled by the side of a line that it lies on.

    Args:
        rows: how many in each split.
        longest: the most points of a walk.
        shortest: the fewest.
    """

    def __init__(self, rows: int = 64, longest: int = 20, shortest: int = 1) -> None:
        self.rows = rows
        self.longest = longest
        self.shortest = shortest

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        return "walks", {}

    def split(self, name: Split) -> Rows | None:
        if name == "validation":
            return None
        generator = np.random.default_rng([self.longest, name == "train"])
        lengths = generator.integers(self.shortest, self.longest + 1, size=self.rows)
        walks = [generator.normal(size=(length, 2)) for length in lengths]
        return [{"walk": walk, "labels": (walk[:, 0] > 0).astype(int)} for walk in walks]


@dataclass(frozen=True)
class WalkObjective(Objective):
    """Rows are `{"walk": (points, 2), "labels": (points,)}`."""

    metrics = ("hits", "surprise")

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        return [rows[index] for index in range(len(rows))]

    def tokens(self, example: Example) -> int:
        return len(example["walk"])

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        longest = max(len(example["walk"]) for example in examples)
        walks = torch.zeros(len(examples), longest, 2)
        labels = torch.full((len(examples), longest), PADDED)
        for row, example in enumerate(examples):
            walks[row, : len(example["walk"])] = torch.from_numpy(example["walk"])
            labels[row, : len(example["walk"])] = torch.from_numpy(example["labels"])
        return {"walks": walks, "labels": labels}

    def forward(self, module: nn.Module, batch: Batch) -> Any:
        return module(batch["walks"])

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        return nn.functional.cross_entropy(outputs.flatten(0, 1), batch["labels"].flatten())

    def count(self, batch: Batch) -> int:
        return int((batch["labels"] != PADDED).sum())

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        batch = self.collate(examples, model)
        outputs, kept = self.forward(module, batch), batch["labels"] != PADDED
        losses = nn.functional.cross_entropy(outputs.transpose(1, 2), batch["labels"], reduction="none")
        hits = (outputs.argmax(dim=2) == batch["labels"]) & kept
        return {
            "hit": (hits.sum(dim=1) / kept.sum(dim=1)).numpy(),
            "loss": (losses.sum(dim=1) / kept.sum(dim=1)).double().numpy(),
        }


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    return {"walks": Walks}


@hookimpl
def myosotis_objectives() -> Mapping[str, type[Objective]]:
    return {"walks": WalkObjective}
