"""The conformance suites pass sound plugins of each kind, and refuse a broken one at every check."""

from __future__ import annotations

import copy
import inspect
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from myosotis.errors import ConfigurationError
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
    TinyQuantizedModel,
    make_task,
    refusal,
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

    def make_neutral(self) -> Method:
        return toy.Pull(strength=0)


class TestPullWithoutStrength(OnToys):
    """Pulling with strength 0 beside the one with almost none: the reference is another method."""

    def make(self) -> Method:
        return toy.Pull()

    def make_neutral(self) -> Method:
        return toy.Pull(strength=0)

    def neutral_reference(self) -> Method:
        return toy.Plain()


class TestLag(OnToys):
    anchored = False

    def make(self) -> Method:
        return Lag()


class TestHalves(OnToys):
    def make(self) -> Method:
        return Halves()


class TestChoosy(OnToys):
    def make(self) -> Method:
        return Choosy()


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


class TestTinyQuantizedModel(TestTinyModel):
    may_train = False

    def make(self) -> ModelFactory:
        return TinyQuantizedModel()


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


# Sound methods for what the toys do not do.


def training(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: each for name, each in module.named_parameters() if each.requires_grad}


class Lag(Method):
    """Pull towards the mean of all steps so far, of earlier stages too, with noise of its own."""

    stores = "the mean, and how many steps it is of"

    def __init__(self) -> None:
        self.mean: dict[str, torch.Tensor] = {}
        self.steps = 0

    def after_step(self, module: nn.Module, context: Context) -> None:
        self.steps += 1
        for name, parameter in training(module).items():
            mean = self.mean.setdefault(name, torch.zeros_like(parameter))
            mean += (parameter.detach() - mean) / self.steps

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        if not self.mean:
            return None
        noise = torch.rand((), generator=context.generator)
        distances = [((each - self.mean[name]) ** 2).sum() for name, each in training(module).items()]
        return (1 + noise) * torch.stack(distances).sum()

    def state_dict(self) -> dict[str, Any]:
        return {"mean": {name: each.clone() for name, each in self.mean.items()}, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean, self.steps = state["mean"], state["steps"]


class Halves(Method):
    """Make a model of half the weights."""

    def variants(self, module: nn.Module, context: Context) -> Mapping[str, Callable[[], Any]]:
        return {"half": lambda: self.halved(module)}

    @contextmanager
    def halved(self, module: nn.Module) -> Iterator[None]:
        before = {name: each.detach().clone() for name, each in training(module).items()}
        with torch.no_grad():
            for parameter in training(module).values():
                parameter.mul_(0.5)
            yield
            self.put_back(module, before)

    def put_back(self, module: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
        for name, value in before.items():
            module.get_parameter(name).copy_(value)


class Choosy(Method):
    """Refuse lower precision and quantized weights."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        if any(not parameter.is_floating_point() for parameter in model.module.parameters()):
            raise ConfigurationError("the base must not be quantized, but is")
        return model.module

    def loss(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        if torch.is_autocast_enabled("cpu"):
            raise ConfigurationError("trainer.precision must be 32-true, but is bf16-mixed")
        return None


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


class ForgetsTheStage(ForgetsItself):
    """Counts steps over stages, and saves the count as it was at the last stage's end."""

    stores = "a count"

    def __init__(self) -> None:
        super().__init__()
        self.saved = 0

    def end_stage(self, stage: Stage, context: Context) -> None:
        self.saved = self.count

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = self.saved = state["count"]


class GivesItsOwn(Lag):
    """Gives the very tensors that the next step writes into."""

    def state_dict(self) -> dict[str, Any]:
        return {"mean": dict(self.mean), "steps": self.steps}


class AddsUp(Method):
    """Gives the very mapping that the next step puts more into."""

    stores = "the steps taken"

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}

    def after_step(self, module: nn.Module, context: Context) -> None:
        self.steps[f"{context.stage.index}.{context.step}"] = context.step

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}


class PullsToZero(toy.Pull):
    """Has another anchor than it says.

    Args:
        strength: half the factor of the squared distance.
    """

    def begin_stage(self, stage: Stage, context: Context) -> None:
        super().begin_stage(stage, context)
        self.anchor = {name: torch.zeros_like(value) for name, value in self.anchor.items()}


class PullsNowhere(toy.Pull):
    """Takes its anchor anew at every step, so that there is nothing to pull.

    Args:
        strength: half the factor of the squared distance.
    """

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        self.begin_stage(context.stage, context)
        return super().penalty(module, batch, outputs, context)


class PullsInTheFirst(toy.Pull):
    """Has no penalty when there is something to hold on to.

    Args:
        strength: half the factor of the squared distance.
    """

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        return super().penalty(module, batch, outputs, context) if context.stage.index == 1 else None


class PullsHalf(toy.Pull):
    """Cuts one of the two factors of the square off the gradient.

    Args:
        strength: half the factor of the squared distance.
    """

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        distances = [parameter - self.anchor[name] for name, parameter in module.named_parameters()]
        return self.strength * torch.stack([(each * each.detach()).sum() for each in distances]).sum()


class PullsNothing(toy.Pull):
    """Cuts all of the gradient off.

    Args:
        strength: half the factor of the squared distance.
    """

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        penalty = super().penalty(module, batch, outputs, context)
        return penalty and penalty.detach()


class SinglePrecision(Method):
    """Goes by NumPy, which has no bfloat16."""

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        return outputs.sum() * float(np.ptp(outputs.detach().numpy()))


class Overflows(Method):
    """Multiplies by more than what half of the precision holds."""

    def loss(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        return (
            (outputs / torch.finfo(outputs.dtype).eps ** 2).exp().mean()
            if outputs.dtype != torch.float32
            else None
        )


class RefusesForNoReason(Method):
    """Refuses what is not in single precision, and does not say so."""

    def loss(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        if torch.is_autocast_enabled("cpu"):
            raise ConfigurationError("this cannot be")
        return None

    def adapt(self, model: Model, context: Context) -> nn.Module:
        if any(not parameter.is_floating_point() for parameter in model.module.parameters()):
            raise ConfigurationError
        return model.module


class TrainsEverything(Method):
    """Lets whole numbers train, which have no gradients."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        return model.module.requires_grad_(True)


class Requantizes(Method):
    """Moves the quantized weights."""

    def after_step(self, module: nn.Module, context: Context) -> None:
        for parameter in module.parameters():
            if not parameter.is_floating_point():
                parameter.data.add_(1)


class FreezesTheUnknown(Method):
    """Breaks the contract where a base is quantized, which is no refusal."""

    def frozen(self, model: Model) -> Collection[str]:
        whole = any(not parameter.is_floating_point() for parameter in model.module.parameters())
        return ["elsewhere"] if whole else []


class StaysHalved(Halves):
    """Leaves the model as its variant."""

    def put_back(self, module: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
        pass


class StaysQuiet(Halves):
    """Leaves the model to be called in another way."""

    def put_back(self, module: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
        super().put_back(module, before)
        module.get_submodule("1").forward = lambda inputs: inputs  # type: ignore[method-assign]


class StopsTraining(Halves):
    """Leaves the model without anything that trains."""

    def put_back(self, module: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
        super().put_back(module, before)
        module.requires_grad_(False)


class NeutralOnToys(OnToys):
    """Takes what is made for a method at strength 0."""

    def make_neutral(self) -> Method:
        return self.make()


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
    (OnToys, "penalty_is_0_at_its_anchor_and_positive_off_it", PullsToZero),
    (OnToys, "penalty_is_0_at_its_anchor_and_positive_off_it", PullsNowhere),
    (OnToys, "penalty_is_0_at_its_anchor_and_positive_off_it", PullsInTheFirst),
    (OnToys, "penalty_has_its_own_gradient", PullsHalf),
    (OnToys, "penalty_has_its_own_gradient", PullsNothing),
    (NeutralOnToys, "a_strength_of_0_is_no_method", DecaysEverything),
    (NeutralOnToys, "a_strength_of_0_is_no_method", toy.Pull),
    (OnToys, "parameter_groups_hold_what_trains_once", ForgetsTheHead),
    (OnToys, "training_data_is_a_mixture", TooMuchOfAll),
    (OnToys, "training_data_is_a_mixture", OfNoTask),
    (OnToys, "same_seed_gives_the_same_parameters", RollsItsOwnDice),
    (OnToys, "a_killed_trial_goes_on_exactly", ForgetsItself),
    (OnToys, "a_killed_trial_goes_on_exactly", SavesItself),
    (OnToys, "a_trial_killed_within_a_stage_goes_on_exactly", ForgetsItself),
    (OnToys, "a_trial_killed_within_a_stage_goes_on_exactly", ForgetsTheStage),
    (OnToys, "state_can_be_saved_and_stays_as_it_was_given", SavesItself),
    (OnToys, "state_can_be_saved_and_stays_as_it_was_given", GivesItsOwn),
    (OnToys, "state_can_be_saved_and_stays_as_it_was_given", AddsUp),
    (OnToys, "bf16_mixed_runs_or_is_refused", SinglePrecision),
    (OnToys, "bf16_mixed_runs_or_is_refused", Overflows),
    (OnToys, "bf16_mixed_runs_or_is_refused", RefusesForNoReason),
    (OnToys, "an_8_bit_base_runs_or_is_refused", RefusesForNoReason),
    (OnToys, "an_8_bit_base_runs_or_is_refused", TrainsEverything),
    (OnToys, "an_8_bit_base_runs_or_is_refused", Requantizes),
    (OnToys, "an_8_bit_base_runs_or_is_refused", FreezesTheUnknown),
    (OnToys, "variants_leave_the_model_as_it_was", StaysHalved),
    (OnToys, "variants_leave_the_model_as_it_was", StaysQuiet),
    (OnToys, "variants_leave_the_model_as_it_was", StopsTraining),
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


# Methods together


class OwnLoss(Method):
    """Replaces the loss."""

    def loss(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        return nn.functional.cross_entropy(outputs, batch["labels"])


class Crashes(Method):
    """Takes for granted that the base is as it was."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        model.module.get_submodule("0").weight.requires_grad_(True)  # type: ignore[union-attr]
        return model.module


class FreezesNothingKnown(Method):
    """Breaks the contract, which is no refusal."""

    def frozen(self, model: Model) -> Collection[str]:
        return ["elsewhere"]


class CrashesLater(Method):
    """Fails on values, which an outline does not have."""

    def begin_stage(self, stage: Stage, context: Context) -> None:
        raise ArithmeticError("no")


def test_methods_that_compose_are_not_refused(tmp_path: Path) -> None:
    assert refusal(lambda: {"pull": toy.Pull(), "loss": OwnLoss()}, tmp_path / "trial") is None
    assert (tmp_path / "trial" / "result.json").is_file()


def test_methods_that_refuse_each_other_say_why(tmp_path: Path) -> None:
    reason = refusal(lambda: {"one": OwnLoss(), "other": OwnLoss()}, tmp_path / "trial")
    assert reason == "methods one and other both replace the loss; a trial may have one that does"


def test_a_refusal_comes_before_anything_is_loaded(tmp_path: Path) -> None:
    frozen = toy.Still(["0", "3"])
    reason = refusal(lambda: {"still": frozen, "pull": toy.Pull()}, tmp_path / "trial")
    assert reason is not None
    assert "leaves 0 of" in reason
    assert not (tmp_path / "trial").exists()


@pytest.mark.parametrize("broken", [Crashes, CrashesLater, FreezesNothingKnown])
def test_what_neither_runs_nor_is_refused_is_told(broken: type[Method], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="must run, or be refused by a ConfigurationError that says why"):
        refusal(lambda: {"side": Side(), "broken": broken()}, tmp_path / "trial")
