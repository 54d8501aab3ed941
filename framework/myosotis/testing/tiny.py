"""The least of each kind that the suites check other plugins with: no download, no transformer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from myosotis.interfaces import (
    Batch,
    Columns,
    Example,
    Loss,
    Metric,
    Model,
    ModelFactory,
    Objective,
    Rows,
    Split,
    Task,
    TaskDataset,
)

FEATURES = 4
CLASSES = 3


class TinyModel(ModelFactory):
    """Two linear layers with a dropout between them, the same weights every time."""

    reads_outside = False

    def load(self, objectives: Collection[Objective]) -> Model:
        """Make the layers from a seed of their own."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Model(_layers())

    def outline(self, objectives: Collection[Objective]) -> Model:
        """Make the layers on the meta device."""
        with torch.device("meta"):
            return Model(_layers())

    def save(self, model: Model, folder: Path) -> None:
        """Write what the module holds."""
        torch.save(model.module.state_dict(), folder / "model.pt")


class TinyQuantizedModel(TinyModel):
    """The tiny model with its weights in 8 bits, which cannot train: what is left are its biases."""

    def load(self, objectives: Collection[Objective]) -> Model:
        """Make the layers, and quantize them."""
        return Model(_quantized(super().load(objectives).module))

    def outline(self, objectives: Collection[Objective]) -> Model:
        """Make the layers on the meta device; their weights do not train."""
        model = super().outline(objectives)
        for name, parameter in model.module.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))
        return model

    def mixes_rows(self, layer: nn.Module) -> bool:
        """Tell the layers in 8 bits, in which columns with outliers are looked for in the whole batch."""
        from bitsandbytes.nn import Linear8bitLt

        return isinstance(layer, Linear8bitLt)


class QuantizedLayers(nn.Sequential):
    """Layers in 8 bits, marked as transformers marks its models."""

    is_quantized = True
    is_loaded_in_8bit = True


def _quantized(module: nn.Module) -> nn.Module:
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    layers = QuantizedLayers()
    for name, layer in module.named_children():
        if isinstance(layer, nn.Linear):
            weight = Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
            made = Linear8bitLt(layer.in_features, layer.out_features, has_fp16_weights=False, threshold=6.0)
            made.weight, made.bias = weight.to("cpu"), layer.bias
            layer = made
        layers.add_module(name, layer)
    return layers


def _layers() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, CLASSES))


class TinyTask(TaskDataset):
    """Points around as many centres as there are classes.

    Args:
        seed: what decides the centres and the points.
        rows: how many in each split.
    """

    reads_outside = False

    def __init__(self, seed: int = 0, rows: int = 24) -> None:
        self.seed = seed
        self.rows = rows

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Name the tiny objective."""
        return "tiny", {}

    def split(self, name: Split) -> Rows | None:
        """Draw a split's points; there is no validation split."""
        if name == "validation":
            return None
        centres = np.random.default_rng(self.seed).normal(size=(CLASSES, FEATURES))
        generator = np.random.default_rng([self.seed, name == "test"])
        labels = [index % CLASSES for index in range(self.rows)]
        return [
            {"features": centres[label] + generator.normal(size=FEATURES), "label": label} for label in labels
        ]


class TinyObjective(Objective):
    """Tell a point's class; rows are `{"features": four numbers, "label": 0, 1 or 2}`."""

    metrics = ("tiny",)

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        """Take the rows as they are."""
        return [rows[index] for index in range(len(rows))]

    def tokens(self, example: Example) -> int:
        """Count one."""
        return 1

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        """Stack the points."""
        features = np.array([example["features"] for example in examples], dtype=np.float32)
        return {
            "features": torch.from_numpy(features),
            "labels": torch.tensor([example["label"] for example in examples]),
        }

    def forward(self, module: nn.Module, batch: Batch) -> Any:
        """Give the classes' scores."""
        return module(batch["features"])

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Give the mean cross-entropy over rows."""
        return nn.functional.cross_entropy(outputs, batch["labels"])

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        """Give each row's cross-entropy in nats."""
        device = next(module.parameters()).device
        batch = {name: value.to(device) for name, value in self.collate(examples, model).items()}
        losses = nn.functional.cross_entropy(self.forward(module, batch), batch["labels"], reduction="none")
        return {"loss": losses.double().cpu().numpy()}


class TinyMetric(Metric):
    """Mean cross-entropy over rows, in nats."""

    higher_is_better = False

    def value(self, columns: Columns) -> float:
        """Average the losses."""
        return float(columns["loss"].mean())


class ByteTokenizer:
    """A token for each byte of a text: what a dataset's rows can be encoded with where there is no model."""

    eos_token_id = 0
    chat_template = None

    def __call__(self, texts: Sequence[str], **options: Any) -> dict[str, list[list[int]]]:
        """Give each text's bytes, whatever the options."""
        return {"input_ids": [list(text.encode()) for text in texts]}


def tiny_tasks() -> dict[str, Task]:
    """Make two tasks of points."""
    objective, metrics = TinyObjective(), {"tiny": TinyMetric()}
    return {
        name: make_task(name, TinyTask(seed), objective, metrics)
        for seed, name in enumerate(("first", "second"))
    }


def make_task(name: str, dataset: TaskDataset, objective: Objective, metrics: Mapping[str, Metric]) -> Task:
    """Make a task to train on of its parts."""
    return Task(name, "task", dataset, objective, metrics)
