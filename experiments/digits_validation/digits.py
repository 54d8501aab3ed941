"""Scikit-learn's handwritten digits as five tasks, in the three scenarios of continual learning.

After van de Ven and Tolias 2019, Three scenarios for continual learning, arXiv:1904.07734, and Hsu et al.
2018, Re-evaluating Continual Learning Scenarios, arXiv:1810.12488. What a scenario compares with what is
said by `heads` of `classes` outputs each: a row's prediction is the largest output of its own head.

| scenario | split | permuted | at test time |
|---|---|---|---|
| task | 5 heads of 2 | 5 heads of 10 | the task is known: its own head alone is compared |
| domain | 1 head of 2 | 1 head of 10 | the tasks share their outputs |
| class | 1 head of 10 | 1 head of 50 | all outputs of all tasks are compared |
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, ModelError
from myosotis.interfaces import (
    Batch,
    Columns,
    Example,
    Loss,
    Method,
    Metric,
    Model,
    ModelFactory,
    Objective,
    Rows,
    Split,
    TaskDataset,
    file_hash,
)
from myosotis_plugins.methods import agem, derpp, ewc, full, l2sp, lwf, replay
from myosotis_plugins.metrics.labels import Accuracy

MYOSOTIS_API = 1

TASKS = 5
DIGITS = 10
PIXELS = 64
SPANS: Mapping[Split, tuple[float, float]] = {"train": (0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1)}
"""Which part of each digit's images a split takes, in an order that is drawn once for all."""
IGNORED = -100
"""The label of a head that a row does not belong to."""


@functools.cache
def images() -> tuple[np.ndarray, np.ndarray]:
    """Load all images, pixels from 0 to 1, and which digit each shows."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.data / 16).astype(np.float32), found.target


@functools.cache
def places(split: Split) -> np.ndarray:
    """Say which of the images belong to a split."""
    generator = np.random.default_rng(0)
    start, end = SPANS[split]
    chosen = []
    for digit in range(DIGITS):
        own = generator.permutation(np.flatnonzero(images()[1] == digit))
        chosen.append(own[round(start * len(own)) : round(end * len(own))])
    return np.sort(np.concatenate(chosen))


def permutation(task: int) -> np.ndarray:
    """Give the order in which a permuted task sees the pixels; the first sees them as they are."""
    return np.arange(PIXELS) if task == 1 else np.random.default_rng(task).permutation(PIXELS)


class Digits(TaskDataset):
    """One of five tasks made of 1,797 images of 8 × 8 pixels.

    `split`: task t has the digits 2t − 2 and 2t − 1. `permuted`: it has all ten, their pixels in an order of
    the task's own. Of each digit's images 60 % are for training, 20 % for validation and 20 % for testing,
    the same ones always.

    Args:
        task: which of the five, from 1.
        protocol: how the tasks are made.
        scenario: which outputs are compared.
    """

    paper = "https://archive.ics.uci.edu/dataset/80 (its test half, as scikit-learn ships it)"

    def __init__(
        self,
        task: int = 1,
        protocol: Literal["split", "permuted"] = "split",
        scenario: Literal["task", "domain", "class"] = "class",
    ) -> None:
        if not 1 <= task <= TASKS:
            raise ConfigurationError(f"task must be from 1 to {TASKS}, but got {task}")
        self.task = task
        self.protocol = protocol
        self.scenario = scenario

    @property
    def digits(self) -> range:
        """The digits that the task has."""
        return range(2 * self.task - 2, 2 * self.task) if self.protocol == "split" else range(DIGITS)

    def fingerprint(self) -> str:
        """Hash the file of images, without importing scikit-learn."""
        found = find_spec("sklearn")
        folders = found.submodule_search_locations if found else None
        if not folders:
            raise ConfigurationError("the digits are scikit-learn's, which must be installed: myosotis[test]")
        return file_hash([Path(folders[0]) / "datasets" / "data" / "digits.csv.gz"])

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Say how many outputs are compared with each other."""
        own = len(self.digits)
        heads, classes = {"task": (TASKS, own), "domain": (1, own), "class": (1, TASKS * own)}[self.scenario]
        return "heads", {"heads": heads, "classes": classes}

    def split(self, name: Split) -> Rows | None:
        """Give rows `{"image": (64,), "head": …, "label": …}`, the label counted within its head."""
        pixels, labels = images()
        head = self.task - 1 if self.scenario == "task" else 0
        first = (self.task - 1) * len(self.digits) if self.scenario == "class" else 0
        return [
            {
                "image": torch.from_numpy(pixels[place][self._order]),
                "head": head,
                "label": first + self.digits.index(int(labels[place])),
            }
            for place in places(name)
            if labels[place] in self.digits
        ]

    @property
    def _order(self) -> np.ndarray:
        return permutation(self.task if self.protocol == "permuted" else 1)


@dataclass(frozen=True)
class HeadClassification(Objective):
    """Choose a class of a row's own head; rows are `{"image": …, "head": …, "label": …}`.

    Outputs are all heads' logits, so that a method sees those that the loss leaves out; labels are as many,
    −100 but for a row's own head.

    Args:
        heads: how many groups of outputs there are.
        classes: outputs of each.
    """

    metrics = ("accuracy",)

    heads: int = 1
    classes: int = 10

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        """Take rows as they are."""
        return [rows[index] for index in range(len(rows))]

    def tokens(self, example: Example) -> int:
        """Count an image as one."""
        return 1

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        """Stack images, and put each label into its head's place."""
        labels = torch.full((len(examples), self.heads), IGNORED)
        for row, example in enumerate(examples):
            labels[row, example["head"]] = example["label"]
        return {"images": torch.stack([example["image"] for example in examples]), "labels": labels}

    def forward(self, module: nn.Module, batch: Batch) -> Float[Tensor, "rows heads classes"]:
        """Give the logits of all heads."""
        outputs: Tensor = module(batch["images"])
        return outputs.unflatten(1, (self.heads, self.classes))

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Give the mean cross-entropy over rows, each within its own head; nats."""
        return functional.cross_entropy(
            outputs.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED
        )

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        """Give each row's label, and the class with its head's largest logit."""
        images = torch.stack([example["image"] for example in examples])
        logits = self.forward(module, {"images": images.to(next(module.parameters()).device)}).cpu()
        own = logits[range(len(examples)), [example["head"] for example in examples]]
        return {
            "label": np.array([example["label"] for example in examples]),
            "prediction": own.argmax(dim=1).numpy(),
        }


class MLP(ModelFactory):
    """Two hidden layers of rectified linear units, initialised as PyTorch does.

    Args:
        width: units of each hidden layer.
        seed: decides the weights.
    """

    reads_outside = False

    def __init__(self, width: int = 100, seed: int = 0) -> None:
        if width < 1:
            raise ConfigurationError(f"width must be at least 1, but got {width}")
        self.width = width
        self.seed = seed

    def load(self, objectives: Collection[Objective]) -> Model:
        """Make the model."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return self._made(objectives)

    def outline(self, objectives: Collection[Objective]) -> Model:
        """Make the model without values."""
        with torch.device("meta"):
            return self._made(objectives)

    def _made(self, objectives: Collection[Objective]) -> Model:
        outputs = {each.heads * each.classes for each in objectives if isinstance(each, HeadClassification)}
        if len(outputs) != 1:
            raise ModelError(
                f"the tasks must all have the same number of outputs, but have {sorted(outputs)}"
            )
        hidden = [nn.Linear(PIXELS, self.width), nn.ReLU(), nn.Linear(self.width, self.width), nn.ReLU()]
        return Model(nn.Sequential(*hidden, nn.Linear(self.width, outputs.pop())))

    def save(self, model: Model, folder: Path) -> None:
        """Write the weights."""
        save_file(model.module.state_dict(), folder / "model.safetensors")


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the tasks."""
    return {"digits": Digits}


@hookimpl
def myosotis_objectives() -> Mapping[str, type[Objective]]:
    """Give the objective."""
    return {"heads": HeadClassification}


@hookimpl
def myosotis_models() -> Mapping[str, type[ModelFactory]]:
    """Give the model."""
    return {"mlp": MLP}


@hookimpl
def myosotis_metrics() -> Mapping[str, type[Metric]]:
    """Give the built-in metric that scores it."""
    return {"accuracy": Accuracy}


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the built-in methods that are compared: nothing but this module is loaded beside the core."""
    modules = (full, replay, l2sp, ewc, lwf, agem, derpp)
    return {name: each for module in modules for name, each in module.myosotis_methods().items()}
