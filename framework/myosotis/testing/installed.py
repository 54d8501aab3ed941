"""The suites for a plugin as it is installed, without a word from its author: with others that work as they are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import numpy as np

from myosotis.errors import ConfigurationError, PluginError
from myosotis.evaluation import choose_runtime, predict
from myosotis.interfaces import (
    Columns,
    Example,
    Method,
    Metric,
    Model,
    ModelFactory,
    Objective,
    Rows,
    Split,
    Task,
    TaskDataset,
)
from myosotis.plugins import PluginOrigin, Registry
from myosotis.testing.dataset import SPLITS, TaskDatasetTestSuite
from myosotis.testing.method import MethodTestSuite
from myosotis.testing.metric import MetricTestSuite
from myosotis.testing.model import ModelFactoryTestSuite
from myosotis.testing.objective import ObjectiveTestSuite
from myosotis.testing.plugin import constructor_parameters
from myosotis.testing.tiny import TinyModel, make_task, tiny_tasks

FEW: Mapping[Split, int] = {"train": 96, "validation": 16, "test": 16}
"""Rows of a dataset that other plugins are checked with."""
FEWEST = 4
"""Fewer examples are no ground: short rows may not fill the blocks of an objective."""

V = TypeVar("V")


class FirstRows(TaskDataset):
    """The first rows of another dataset, in memory."""

    def __init__(self, dataset: TaskDataset) -> None:
        self._dataset = dataset
        self._rows = {name: _first(dataset.split(name), FEW[name]) for name in SPLITS}

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Name that of the other dataset."""
        return self._dataset.objective()

    def metrics(self) -> tuple[str, ...]:
        """Name those of the other dataset."""
        return self._dataset.metrics()

    def split(self, name: Split) -> Rows | None:
        """Give the first rows."""
        return self._rows[name]


def _first(rows: Rows | None, count: int) -> Rows | None:
    return rows and [rows[index] for index in range(min(count, len(rows)))]


@dataclass(frozen=True)
class Ground:
    """What plugins can be checked on: a task of few rows, and the smallest installed model that takes it."""

    task: Task
    model: str
    factory: ModelFactory

    def __str__(self) -> str:
        return f"{self.model} with {self.task.name}"


class Grounds:
    """Finds grounds in what is installed and works as it is: made of its defaults, read without a network.

    What does not is passed over, whatever is wrong with it: it has its own check.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.of = functools.cache(lambda name: _attempt(lambda: self._make(name)))

    def __iter__(self) -> Iterator[Ground]:
        found = (self.of(name) for name in self.registry.plugins["dataset"])
        return (ground for ground in found if ground is not None)

    def _make(self, name: str) -> Ground:
        dataset = FirstRows(cast(TaskDataset, make(self.registry.find("dataset", name))))
        chosen, parameters = dataset.objective()
        objective = cast(Objective, self.registry.find("objective", chosen).cls(**parameters))
        names = dataset.metrics() or objective.metrics
        metrics = {each: cast(Metric, self.registry.find("metric", each).cls()) for each in names}
        sizes = {
            each: _attempt(functools.partial(_parameters, origin, objective))
            for each, origin in self.registry.plugins["model"].items()
        }
        smallest = min((size, each) for each, size in sizes.items() if size is not None)[1]
        factory = cast(ModelFactory, make(self.registry.find("model", smallest)))
        if not dataset.split("train") or len(_encoded(dataset, objective, factory)) < FEWEST:
            raise ConfigurationError(f"{name} must have rows to train on, and enough of them to be scored on")
        return Ground(make_task(name, dataset, objective, metrics), smallest, factory)


def _encoded(dataset: TaskDataset, objective: Objective, factory: ModelFactory) -> Sequence[Example]:
    return objective.encode(dataset.split("test") or [], factory.load([objective]))


def _parameters(origin: PluginOrigin, objective: Objective) -> int:
    outline = cast(ModelFactory, make(origin)).outline([objective])
    if outline.text_only:
        raise ConfigurationError("a hosted model has no parameters, and nothing of it trains")
    return sum(each.numel() for each in outline.module.parameters())


def _attempt(act: Callable[[], V]) -> V | None:
    try:
        return act()
    except Exception:
        return None


def make(origin: PluginOrigin) -> Any:
    """Make a plugin of its defaults.

    Raises:
        ConfigurationError: a parameter has none, or the defaults alone will not do.
    """
    needed = [each.name for each in constructor_parameters(origin.cls) if each.default is each.empty]
    if needed:
        raise ConfigurationError(
            f"it needs {', '.join(needed)}, which {'has' if len(needed) == 1 else 'have'} no default"
        )
    return origin.cls()


class OfMethod(MethodTestSuite):
    """A method on two linear layers, or where it refuses these on an installed model."""

    def __init__(self, origin: PluginOrigin, grounds: Grounds) -> None:
        self._origin = origin
        self.make()
        self.ground = "two linear layers"
        self._base: tuple[ModelFactory, Mapping[str, Task]] = TinyModel(), tiny_tasks()
        if self._refusal() is None:
            return
        self.ground, self._base = _two_tasks(grounds)
        refusal = self._refusal()
        if refusal is not None:
            raise ConfigurationError(f"it refuses {self.ground}: {refusal}")

    def _refusal(self) -> str | None:
        """Run a trial; say why it was refused. What else befalls it, the checks tell."""
        with TemporaryDirectory() as folder:
            try:
                self.rehearse(Path(folder) / "trial", name=self._origin.name)
            except ConfigurationError as error:
                return None if isinstance(error, PluginError) else str(error)
            except Exception:  # the checks tell it
                pass
        return None

    def make(self) -> Method:
        """Make it of its defaults."""
        return cast(Method, make(self._origin))

    def model(self) -> ModelFactory:
        """Give what it does not refuse."""
        return self._base[0]

    def tasks(self) -> Mapping[str, Task]:
        """Give what the model takes."""
        return self._base[1]


def _two_tasks(grounds: Grounds) -> tuple[str, tuple[ModelFactory, Mapping[str, Task]]]:
    """Give the first model that takes two installed tasks, with these.

    Raises:
        ConfigurationError: there is none.
    """
    first: dict[str, Ground] = {}
    for ground in grounds:
        other = first.setdefault(ground.model, ground)
        if other is not ground:
            tasks = {each.task.name: each.task for each in (other, ground)}
            return f"{ground.model} with {' and '.join(tasks)}", (ground.factory, tasks)
    raise ConfigurationError("it refuses two linear layers, and no installed model takes two installed tasks")


class OfDataset(TaskDatasetTestSuite):
    """A dataset with the smallest model that takes it, or a token for each byte."""

    def __init__(self, origin: PluginOrigin, grounds: Grounds) -> None:
        self._origin = origin
        dataset = self.make()
        for name in SPLITS:  # what it cannot read here, it says
            dataset.split(name)
        ground = grounds.of(origin.name)
        self.ground = ground.model if ground else "a token for each byte"
        self._model = super().model() if ground is None else ground.factory.load([ground.task.objective])

    def make(self) -> TaskDataset:
        """Make it of its defaults."""
        return cast(TaskDataset, make(self._origin))

    def model(self) -> Model:
        """Give the model."""
        return self._model


class OfModel(ModelFactoryTestSuite):
    """A model with the first installed task that it takes."""

    def __init__(self, origin: PluginOrigin, grounds: Grounds) -> None:
        self._origin = origin
        refusal = "there is no installed dataset that it could be scored on"
        for ground in grounds:
            try:
                if self.make().load([ground.task.objective]).text_only:
                    raise ConfigurationError(
                        "it gives texts alone, and only its author can say what it is asked"
                    )
            except ConfigurationError as error:
                refusal = str(error)
                continue
            except Exception:  # the checks tell it
                pass
            self._task, self.ground = ground.task, ground.task.name
            return
        raise ConfigurationError(refusal)

    def make(self) -> ModelFactory:
        """Make it of its defaults."""
        return cast(ModelFactory, make(self._origin))

    def task(self) -> Task:
        """Give the task."""
        return self._task


class OfObjective(ObjectiveTestSuite):
    """An objective on rows of the first installed dataset that names it, as that one sets it."""

    def __init__(self, origin: PluginOrigin, grounds: Grounds) -> None:
        found = next((each for each in grounds if type(each.task.objective) is origin.cls), None)
        if found is None:
            raise ConfigurationError("no installed dataset that works as it is has rows for it")
        self._parameters = found.task.dataset.objective()[1]
        self._origin, self._ground, self.ground = origin, found, str(found)

    def make(self) -> Objective:
        """Make it as the dataset says."""
        return cast(Objective, self._origin.cls(**self._parameters))

    def model(self) -> Model:
        """Load the model."""
        return self._ground.factory.load([self.make()])

    def rows(self) -> Rows:
        """Give the first rows of the test split."""
        rows = self._ground.task.dataset.split("test")
        assert rows is not None
        return rows

    def weight(self, example: Example) -> float:
        """Weigh an example as the objective counts it."""
        return self.make().count(self.make().collate([example], self.model()))


class OfMetric(MetricTestSuite):
    """A metric on what the smallest model says to an installed task, first of those scored by it."""

    def __init__(self, origin: PluginOrigin, grounds: Grounds) -> None:
        self._origin = origin
        self.make()
        for ground in sorted(grounds, key=lambda each: origin.name not in each.task.metrics):
            columns = _attempt(functools.partial(self._read, ground))
            if columns is not None:
                self._columns, self.ground = columns, str(ground)
                return
        raise ConfigurationError("no installed model says what it reads to an installed dataset")

    def _read(self, ground: Ground) -> Columns:
        """Predict, and see that the metric finds its columns."""
        task = replace(ground.task, metrics={self._origin.name: self.make()})
        model = ground.factory.load([task.objective])
        rows = task.dataset.split("test")
        assert rows is not None
        examples = task.objective.encode(rows, model)
        columns = predict(task, examples, model, 8, choose_runtime("cpu", "32-true"), base=model.module)
        if self.make().generates:
            # An untuned model may get nothing right, and then there is nothing to score.
            right = np.arange(len(examples)) % 2 == 0
            columns = {**columns, "text": np.where(right, columns["reference"], columns["text"])}
        try:
            self.make().value(self.make().prepare(columns))
        except KeyError:
            raise
        except Exception:  # the checks tell it
            pass
        return columns

    def make(self) -> Metric:
        """Make it of its defaults."""
        return cast(Metric, make(self._origin))

    def columns(self) -> Columns:
        """Give the predictions."""
        return self._columns
