"""The conformance suites pass sound plugins of each kind, and refuse a broken one at every check."""

from __future__ import annotations

import copy
import inspect
import itertools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from myosotis.interfaces import (
    Batch,
    Columns,
    Component,
    Context,
    Example,
    Loss,
    Method,
    Metric,
    Mixture,
    Model,
    ModelFactory,
    Objective,
    Rows,
    Share,
    Split,
    Stage,
    Task,
    TaskDataset,
)
from myosotis.testing import (
    ByteTokenizer,
    MethodTestSuite,
    MetricTestSuite,
    ModelFactoryTestSuite,
    ObjectiveTestSuite,
    TaskDatasetTestSuite,
    TinyModel,
    make_task,
)
from myosotis.testing.plugin import PluginTestSuite
from tests import toy
from tests.core.hazards import Side


@pytest.fixture(autouse=True)
def _only_the_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYOSOTIS_PLUGINS", "tests.toy")


def points_task(name: str, angle: float) -> Task:
    metrics = {"hits": toy.Hits(), "surprise": toy.Surprise()}
    return make_task(name, toy.Points(angle), toy.PointObjective(), metrics)


class OnToys(MethodTestSuite):
    def model(self) -> ModelFactory:
        return toy.ToyModel()

    def tasks(self) -> Mapping[str, Task]:
        return {"one": points_task("one", 0), "two": points_task("two", 90)}


class TestPlain(OnToys):
    def make(self) -> Method:
        return toy.Plain()


class TestPull(OnToys):
    def make(self) -> Method:
        return toy.Pull(strength=0.5)


class TestSide(OnToys):
    def make(self) -> Method:
        return Side()


class TestStill(OnToys):
    def make(self) -> Method:
        return toy.Still(["3"])


class TestPullOnTheTinyTasks(MethodTestSuite):
    def make(self) -> Method:
        return toy.Pull()


class TestPoints(TaskDatasetTestSuite):
    reads_outside = False

    def make(self) -> TaskDataset:
        return toy.Points(angle=30)


class TestToyModel(ModelFactoryTestSuite):
    reads_outside = False

    def make(self) -> ModelFactory:
        return toy.ToyModel(width=4)

    def task(self) -> Task:
        return points_task("points", 0)


class TestTinyModel(ModelFactoryTestSuite):
    reads_outside = False

    def make(self) -> ModelFactory:
        return TinyModel()

    def task(self) -> Task:
        return TestPullOnTheTinyTasks().tasks()["first"]


class TestPointObjective(ObjectiveTestSuite):
    def make(self) -> Objective:
        return toy.PointObjective()

    def model(self) -> Model:
        return toy.ToyModel().load([])

    def rows(self) -> Rows:
        rows = toy.Points(rows=6).split("test")
        assert rows is not None
        return rows


class TestHits(MetricTestSuite):
    def make(self) -> Metric:
        return toy.Hits()

    def columns(self) -> Columns:
        return {"hit": np.array([True, True, False, False, False]), "loss": np.arange(5.0)}


class TestSurprise(TestHits):
    def make(self) -> Metric:
        return toy.Surprise()


# Broken plugins, each in one way.


class Untyped(Method):
    """A parameter without a type.

    Args:
        rate: a number.
    """

    def __init__(self, rate=0.1) -> None:  # type: ignore[no-untyped-def]
        self.rate = rate


class TakesAnything(Method):
    """Any parameters at all."""

    def __init__(self, **parameters: float) -> None:
        self.parameters = parameters


class Undocumented(Method):
    """A parameter that nothing explains."""

    def __init__(self, rate: float = 0.1) -> None:
        self.rate = rate


class DocumentsAnother(Method):
    """A parameter explained under another name.

    Args:
        speed: a number.
    """

    def __init__(self, rate: float = 0.1) -> None:
        self.rate = rate


class Wordless(Method):
    pass


class VersionZero(Method):
    """Counts from 0."""

    version = 0


class UnknownLocation(Method):
    """A location that is no parameter."""

    locations = frozenset({"folder"})


class ChangingFingerprint(Method):
    """Another fingerprint each time."""

    counter = itertools.count()

    def fingerprint(self) -> str:
        return str(next(self.counter))


class UnknownCohortField(Method):
    """A cohort field that is no parameter."""

    cohort_fields = frozenset({"rank"})


class TalksToOthers(Side):
    """Pulls its paths towards where those of the trial before are: what all its instances share.

    Args:
        width: of the paths.
    """

    shared: ClassVar[list[torch.Tensor]] = []

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> torch.Tensor | None:
        own = torch.cat([each.flatten() for each in module.parameters() if each.requires_grad])
        before = self.shared[-1] if self.shared else own.detach()
        self.shared.append(own.detach())
        return ((own - before) ** 2).sum()


class SecretKeeper(Method):
    """State, and no word on what it is."""

    def state_dict(self) -> dict[str, Any]:
        return {"anchor": torch.zeros(1)}


class Extended(nn.Module):
    def __init__(self, base: nn.Module, added: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.added = added

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.base(points) + 0 * self.added(points)


class RealOnAnOutline(Method):
    """Adds a layer with values to an outline."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        return Extended(model.module, nn.Linear(2, 2))


class OtherOnAnOutline(Method):
    """Freezes on the loaded model alone."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        next(model.module.parameters()).requires_grad_(context.outline)
        return model.module


class ScalesTheBase(Method):
    """Doubles the weights."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        if not context.outline:
            with torch.no_grad():
                for parameter in model.module.parameters():
                    parameter.mul_(2)
        return model.module


class DecaysEverything(Method):
    """Shrinks what is frozen, too."""

    def after_step(self, module: nn.Module, context: Context) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(0.9)


class TrainsACopy(Method):
    """Trains a copy of the base, on which nothing is frozen."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        return copy.deepcopy(model.module)


class NoGradients(Method):
    """Throws the gradients away."""

    def after_backward(self, module: nn.Module, context: Context) -> None:
        for parameter in module.parameters():
            parameter.grad = None


class LongPenalty(Method):
    """A penalty for each row."""

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        return outputs.sum(dim=1)


class InfinitePenalty(Method):
    """A penalty that is infinite in the second stage."""

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        return outputs.sum() * 0 + (np.inf if context.stage.index == 2 else 0)


class ConstantLoss(Method):
    """A loss that nothing can change."""

    def loss(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        return torch.tensor(1.0)


class ForgetsTheHead(Method):
    """Parameter groups without the last layer."""

    def parameter_groups(self, module: nn.Module, context: Context) -> list[dict[str, Any]] | None:
        return [{"params": list(module.parameters())[:-1]}]


class TooMuchOfAll(Method):
    """Shares of 1.2 in sum."""

    def training_data(
        self, stage: Stage, data: Mixture, seen: Mapping[str, Rows], context: Context
    ) -> Mixture:
        return tuple(replace(component, share=Share(1.2, 1.2)) for component in data)


class OfNoTask(Method):
    """Rows of a task that is not there."""

    def training_data(
        self, stage: Stage, data: Mixture, seen: Mapping[str, Rows], context: Context
    ) -> Mixture:
        if context.stage.index < 2:
            return data
        return (*data, Component("elsewhere", data[0].rows, Share(0, 0)))


class RollsItsOwnDice(Method):
    """Noise from a source that no seed fixes."""

    def begin_stage(self, stage: Stage, context: Context) -> None:
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4)))
        with torch.no_grad():
            for parameter in context.model.module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))


class ForgetsItself(Method):
    """Counts steps over stages, and does not save the count."""

    def __init__(self) -> None:
        self.count = 0

    def after_step(self, module: nn.Module, context: Context) -> None:
        self.count += 1
        with torch.no_grad():
            next(module.parameters()).mul_(1 - 0.001 * self.count)


class SavesItself(Method):
    """State that only this program can read."""

    stores = "itself"

    def state_dict(self) -> dict[str, Any]:
        return {"self": self}


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


class Listed(toy.PointObjective):
    """A batch with a list in it."""

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        return {**super().collate(examples, model), "rows": list(examples)}


class SummedLoss(toy.PointObjective):
    """The sum over rows."""

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        return nn.functional.cross_entropy(outputs, batch["labels"], reduction="sum")


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


class NoSuchMetric(toy.PointObjective):
    """Names a metric that is not there."""

    metrics = ("misses",)


class NoSuchColumn(toy.PointObjective):
    """Leaves out what its metric reads."""

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        return {"loss": super().predict(module, examples, model)["loss"]}


class Directionless(Metric):
    """Says not whether higher is better."""

    def value(self, columns: Columns) -> float:
        return 0.0


class ArrayValue(toy.Surprise):
    """A score for each example."""

    def value(self, columns: Columns) -> float:
        return columns["loss"]  # type: ignore[return-value]


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


class ReadsOutside(TestPoints):
    reads_outside = True


REFUSED: list[tuple[type[PluginTestSuite[Any]], str, Callable[[], Any]]] = [
    (OnToys, "parameters_are_typed", Untyped),
    (OnToys, "parameters_are_typed", TakesAnything),
    (OnToys, "parameters_are_documented", Undocumented),
    (OnToys, "parameters_are_documented", DocumentsAnother),
    (OnToys, "says_what_it_is", Wordless),
    (OnToys, "says_what_it_is", VersionZero),
    (OnToys, "locations_are_parameters", UnknownLocation),
    (OnToys, "fingerprint_is_stable", ChangingFingerprint),
    (OnToys, "cohort_fields_are_parameters", UnknownCohortField),
    (OnToys, "a_cohort_gives_the_numbers_of_each_trial_alone", TalksToOthers),
    (OnToys, "says_what_it_stores", SecretKeeper),
    (OnToys, "adapts_an_outline", RealOnAnOutline),
    (OnToys, "adapts_an_outline", OtherOnAnOutline),
    (OnToys, "first_evaluation_is_the_base", ScalesTheBase),
    (OnToys, "frozen_parameters_do_not_change", DecaysEverything),
    (OnToys, "frozen_parameters_do_not_change", TrainsACopy),
    (OnToys, "something_trains", NoGradients),
    (OnToys, "loss_and_penalty_are_finite_scalars", LongPenalty),
    (OnToys, "loss_and_penalty_are_finite_scalars", InfinitePenalty),
    (OnToys, "loss_and_penalty_are_finite_scalars", ConstantLoss),
    (OnToys, "parameter_groups_hold_what_trains_once", ForgetsTheHead),
    (OnToys, "training_data_is_a_mixture", TooMuchOfAll),
    (OnToys, "training_data_is_a_mixture", OfNoTask),
    (OnToys, "same_seed_gives_the_same_parameters", RollsItsOwnDice),
    (OnToys, "a_killed_trial_goes_on_exactly", ForgetsItself),
    (OnToys, "a_killed_trial_goes_on_exactly", SavesItself),
    (TestPoints, "objective_is_known", UnknownObjective),
    (TestPoints, "metrics_are_known", UnknownMetric),
    (TestPoints, "splits_have_rows", EmptySplit),
    (TestPoints, "splits_have_rows", NothingHeldOut),
    (TestPoints, "rows_are_what_the_objective_reads", OtherColumns),
    (TestPoints, "splits_share_no_row", Leaking),
    (TestPoints, "splits_are_the_same_every_time", Reshuffled),
    (ReadsOutside, "fingerprint_is_stable", ReadsInSecret),
    (TestToyModel, "predictions_are_finite_and_the_same_every_time", RandomModel),
    (TestToyModel, "predictions_are_finite_and_the_same_every_time", NotANumber),
    (TestToyModel, "every_parameter_may_train", AlreadyFrozen),
    (TestToyModel, "outline_has_the_shapes_of_the_model", RealOutline),
    (TestToyModel, "outline_has_the_shapes_of_the_model", OtherOutline),
    (TestToyModel, "saves_files", SavesNothing),
    (TestPointObjective, "tokens_are_counted", Weightless),
    (TestPointObjective, "first_rows_give_the_first_examples", LastFirst),
    (TestPointObjective, "a_batch_holds_tensors_of_its_rows", Listed),
    (TestPointObjective, "loss_is_the_mean_of_its_rows", SummedLoss),
    (TestPointObjective, "loss_is_one_number_with_a_gradient", UnreducedLoss),
    (TestPointObjective, "loss_is_one_number_with_a_gradient", DetachedLoss),
    (TestPointObjective, "predictions_do_not_depend_on_the_batch_size", Normalizing),
    (TestPointObjective, "predictions_are_what_the_metrics_read", NoSuchMetric),
    (TestPointObjective, "predictions_are_what_the_metrics_read", NoSuchColumn),
    (TestHits, "says_its_direction", Directionless),
    (TestHits, "value_is_one_number", ArrayValue),
    (TestHits, "value_is_one_number", NoCount),
    (TestHits, "order_does_not_matter", FirstOnly),
    (TestHits, "examples_twice_give_the_same_score", Summed),
]


@pytest.mark.parametrize(
    ("suite", "check", "broken"), REFUSED, ids=[f"{check}-{broken.__name__}" for _, check, broken in REFUSED]
)
def test_a_broken_plugin_is_refused(
    suite: type[PluginTestSuite[Any]], check: str, broken: Callable[[], Any], tmp_path: Path
) -> None:
    refusing = type("Refusing", (suite,), {"make": lambda self: broken()})()
    run = getattr(refusing, f"test_{check}")
    arguments = [tmp_path] if "tmp_path" in inspect.signature(run).parameters else []
    with pytest.raises(AssertionError) as error:
        run(*arguments)
    assert str(error.value), "a refusal must say why"


@pytest.mark.parametrize(
    "suite",
    [MethodTestSuite, TaskDatasetTestSuite, ModelFactoryTestSuite, ObjectiveTestSuite, MetricTestSuite],
)
def test_every_check_refuses_a_broken_plugin(suite: type[PluginTestSuite[Any]]) -> None:
    checks = {name.removeprefix("test_") for name in dir(suite) if name.startswith("test_")}
    assert checks <= {check for _, check, _ in REFUSED}


def test_the_byte_tokenizer_gives_bytes() -> None:
    assert ByteTokenizer()(["ab", "é"])["input_ids"] == [[97, 98], [195, 169]]
