"""One toy plugin of each kind: a ten-line MLP and points in the plane, without tokens or transformers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import (
    Batch,
    Columns,
    Context,
    Example,
    Logits,
    Loss,
    Method,
    Metric,
    Model,
    ModelFactory,
    Objective,
    Rows,
    Split,
    Stage,
    TaskDataset,
)

MYOSOTIS_API = 1


class MLP(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(2, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 2))


class ToyModel(ModelFactory):
    """A small MLP.

    Args:
        width: hidden units.
    """

    reads_outside = False

    def __init__(self, width: int = 16) -> None:
        if width < 1:
            raise ConfigurationError(f"width must be at least 1, but got {width}")
        self.width = width

    def load(self, objectives: Collection[Objective]) -> Model:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Model(MLP(self.width))

    def outline(self, objectives: Collection[Objective]) -> Model:
        with torch.device("meta"):
            return Model(MLP(self.width))

    def save(self, model: Model, folder: Path) -> None:
        save_file(model.module.state_dict(), folder / "model.safetensors")


class Points(TaskDataset):
    """Points in the plane, labelled by the side of a line that they lie on.

    Args:
        angle: the line's angle in degrees.
        rows: how many in each split.
        broken: a row whose point is infinite.
        held_out: whether there is a validation split.
    """

    reads_outside = False

    def __init__(
        self, angle: float = 0.0, rows: int = 64, broken: bool = False, held_out: bool = False
    ) -> None:
        self.angle = angle
        self.rows = rows
        self.broken = broken
        self.held_out = held_out

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        return "points", {}

    def split(self, name: Split) -> Rows | None:
        if name == "validation" and not self.held_out:
            return None
        generator = np.random.default_rng([int(self.angle), ("train", "test", "validation").index(name)])
        points = generator.normal(size=(self.rows, 2))
        angle = np.deg2rad(self.angle)
        labels = points @ np.array([np.cos(angle), np.sin(angle)]) > 0
        if self.broken:
            points[0] = np.inf
        return [{"point": point, "label": int(label)} for point, label in zip(points, labels, strict=True)]


@dataclass(frozen=True)
class PointObjective(Objective):
    """Rows are `{"point": (2,), "label": 0 or 1}`."""

    metrics = ("hits", "surprise")

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        return [rows[index] for index in range(len(rows))]

    def tokens(self, example: Example) -> int:
        return 1

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        points = torch.tensor(np.array([example["point"] for example in examples]), dtype=torch.float32)
        return {"points": points, "labels": torch.tensor([example["label"] for example in examples])}

    def forward(self, module: nn.Module, batch: Batch) -> Any:
        return module(batch["points"])

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        return nn.functional.cross_entropy(outputs, batch["labels"])

    def predicted_logits(
        self, module: nn.Module, examples: Sequence[Example], model: Model
    ) -> Sequence[Logits]:
        device = next(module.parameters()).device
        batch = {name: value.to(device) for name, value in self.collate(examples, model).items()}
        return list(self.forward(module, batch)[:, None])

    def columns(self, model: Model) -> Collection[str]:
        return "hit", "loss"

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        device = next(module.parameters()).device
        batch = {name: value.to(device) for name, value in self.collate(examples, model).items()}
        outputs = self.forward(module, batch)
        losses = nn.functional.cross_entropy(outputs, batch["labels"], reduction="none")
        hits = outputs.argmax(dim=1) == batch["labels"]
        return {"hit": hits.cpu().numpy(), "loss": losses.double().cpu().numpy()}


class Hits(Metric):
    """Share of right answers."""

    higher_is_better = True
    reads = frozenset({"hit"})

    def value(self, columns: Columns) -> float:
        return float(columns["hit"].mean())


class Surprise(Metric):
    """Mean loss in nats."""

    higher_is_better = False
    reads = frozenset({"loss"})

    def value(self, columns: Columns) -> float:
        return float(columns["loss"].mean())


class Plain(Method):
    """Train everything."""


class Pull(Method):
    """Pull the weights towards where they were when the stage began: a quadratic penalty.

    Args:
        strength: half the factor of the squared distance.
    """

    stores = "one copy of the weights"

    def __init__(self, strength: float = 0.1) -> None:
        if strength < 0:
            raise ConfigurationError(f"strength must be at least 0, but got {strength}")
        self.strength = strength
        self.anchor: dict[str, torch.Tensor] = {}

    def begin_stage(self, stage: Stage, context: Context) -> None:
        self.anchor = {
            name: parameter.detach().clone() for name, parameter in context.model.module.named_parameters()
        }

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        if self.strength == 0:
            return None
        distances = [
            ((parameter - self.anchor[name]) ** 2).sum() for name, parameter in module.named_parameters()
        ]
        return self.strength * torch.stack(distances).sum()

    def state_dict(self) -> dict[str, Any]:
        return {"anchor": self.anchor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.anchor = state["anchor"]


class Still(Method):
    """Freeze layers by the beginning of their names.

    Args:
        layers: the beginnings.
    """

    def __init__(self, layers: list[str] | None = None) -> None:
        self.layers = tuple(layers or ["0"])

    def frozen(self, model: Model) -> Collection[str]:
        return [name for name, _ in model.module.named_parameters() if name.startswith(self.layers)]


@hookimpl
def myosotis_models() -> Mapping[str, type[ModelFactory]]:
    return {"toy": ToyModel}


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    return {"points": Points}


@hookimpl
def myosotis_objectives() -> Mapping[str, type[Objective]]:
    return {"points": PointObjective}


@hookimpl
def myosotis_metrics() -> Mapping[str, type[Metric]]:
    return {"hits": Hits, "surprise": Surprise}


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    return {"plain": Plain, "pull": Pull, "still": Still}
