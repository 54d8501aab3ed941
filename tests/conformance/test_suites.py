"""The conformance suites pass sound plugins of each kind, and refuse a broken one at every check."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from myosotis.interfaces import (
    Columns,
    Method,
    Metric,
    Model,
    ModelFactory,
    Objective,
    Rows,
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
)
from myosotis.testing.plugin import PluginTestSuite
from tests import toy
from tests.conformance import broken_methods, broken_plugins
from tests.conformance.sound import Choosy, Halves, Lag
from tests.core.hazards import Side


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
    def make(self) -> TaskDataset:
        return toy.Points(angle=30)


class TestToyModel(ModelFactoryTestSuite):
    def make(self) -> ModelFactory:
        return toy.ToyModel(width=4)

    def task(self) -> Task:
        return points_task("points", 0)


class TestTinyModel(ModelFactoryTestSuite):
    def make(self) -> ModelFactory:
        return TinyModel()

    def task(self) -> Task:
        return TestPullOnTheTinyTasks().tasks()["first"]


class TestTinyQuantizedModel(TestTinyModel):
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


class NeutralOnToys(OnToys):
    """Takes what is made for a method at strength 0."""

    def make_neutral(self) -> Method:
        return self.make()


REFUSED: list[tuple[type[PluginTestSuite[Any]], str, Callable[[], Any]]] = [
    (OnToys, "parameters_are_typed", broken_methods.Untyped),
    (OnToys, "parameters_are_typed", broken_methods.TakesAnything),
    (OnToys, "parameters_are_documented", broken_methods.Undocumented),
    (OnToys, "parameters_are_documented", broken_methods.DocumentsAnother),
    (OnToys, "says_what_it_is", broken_methods.Wordless),
    (OnToys, "says_what_it_is", broken_methods.VersionZero),
    (OnToys, "locations_are_parameters", broken_methods.UnknownLocation),
    (OnToys, "fingerprint_is_stable", broken_methods.ChangingFingerprint),
    (OnToys, "cohort_fields_are_parameters", broken_methods.UnknownCohortField),
    (OnToys, "a_cohort_gives_the_numbers_of_each_trial_alone", broken_methods.TalksToOthers),
    (OnToys, "says_what_it_stores", broken_methods.SecretKeeper),
    (OnToys, "adapts_an_outline", broken_methods.RealOnAnOutline),
    (OnToys, "adapts_an_outline", broken_methods.OtherOnAnOutline),
    (OnToys, "first_evaluation_is_the_base", broken_methods.ScalesTheBase),
    (OnToys, "frozen_parameters_do_not_change", broken_methods.DecaysEverything),
    (OnToys, "frozen_parameters_do_not_change", broken_methods.MovesTheRest),
    (OnToys, "frozen_parameters_do_not_change", broken_methods.TrainsACopy),
    (OnToys, "something_trains", broken_methods.NoGradients),
    (OnToys, "loss_and_penalty_are_finite_scalars", broken_methods.LongPenalty),
    (OnToys, "loss_and_penalty_are_finite_scalars", broken_methods.InfinitePenalty),
    (OnToys, "loss_and_penalty_are_finite_scalars", broken_methods.ConstantLoss),
    (OnToys, "penalty_is_0_at_its_anchor_and_positive_off_it", broken_methods.PullsToZero),
    (OnToys, "penalty_is_0_at_its_anchor_and_positive_off_it", broken_methods.PullsNowhere),
    (OnToys, "penalty_is_0_at_its_anchor_and_positive_off_it", broken_methods.PullsInTheFirst),
    (OnToys, "penalty_has_its_own_gradient", broken_methods.PullsHalf),
    (OnToys, "penalty_has_its_own_gradient", broken_methods.PullsNothing),
    (NeutralOnToys, "a_strength_of_0_is_no_method", broken_methods.DecaysEverything),
    (NeutralOnToys, "a_strength_of_0_is_no_method", toy.Pull),
    (OnToys, "parameter_groups_hold_what_trains_once", broken_methods.ForgetsTheHead),
    (OnToys, "training_data_is_a_mixture", broken_methods.TooMuchOfAll),
    (OnToys, "training_data_is_a_mixture", broken_methods.OfNoTask),
    (OnToys, "same_seed_gives_the_same_parameters", broken_methods.RollsItsOwnDice),
    (OnToys, "a_killed_trial_goes_on_exactly", broken_methods.ForgetsItself),
    (OnToys, "a_killed_trial_goes_on_exactly", broken_methods.SavesItself),
    (OnToys, "a_trial_killed_within_a_stage_goes_on_exactly", broken_methods.ForgetsItself),
    (OnToys, "a_trial_killed_within_a_stage_goes_on_exactly", broken_methods.ForgetsTheStage),
    (OnToys, "state_can_be_saved_and_stays_as_it_was_given", broken_methods.SavesItself),
    (OnToys, "state_can_be_saved_and_stays_as_it_was_given", broken_methods.GivesItsOwn),
    (OnToys, "state_can_be_saved_and_stays_as_it_was_given", broken_methods.AddsUp),
    (OnToys, "bf16_mixed_runs_or_is_refused", broken_methods.SinglePrecision),
    (OnToys, "bf16_mixed_runs_or_is_refused", broken_methods.Overflows),
    (OnToys, "bf16_mixed_runs_or_is_refused", broken_methods.RefusesForNoReason),
    (OnToys, "an_8_bit_base_runs_or_is_refused", broken_methods.RefusesForNoReason),
    (OnToys, "an_8_bit_base_runs_or_is_refused", broken_methods.TrainsEverything),
    (OnToys, "an_8_bit_base_runs_or_is_refused", broken_methods.Requantizes),
    (OnToys, "an_8_bit_base_runs_or_is_refused", broken_methods.FreezesTheUnknown),
    (OnToys, "variants_leave_the_model_as_it_was", broken_methods.StaysHalved),
    (OnToys, "variants_leave_the_model_as_it_was", broken_methods.StaysQuiet),
    (OnToys, "variants_leave_the_model_as_it_was", broken_methods.StopsTraining),
    (TestPoints, "objective_is_known", broken_plugins.UnknownObjective),
    (TestPoints, "metrics_are_known", broken_plugins.UnknownMetric),
    (TestPoints, "splits_have_rows", broken_plugins.EmptySplit),
    (TestPoints, "splits_have_rows", broken_plugins.NothingHeldOut),
    (TestPoints, "rows_are_what_the_objective_reads", broken_plugins.OtherColumns),
    (TestPoints, "splits_share_no_row", broken_plugins.Leaking),
    (TestPoints, "splits_are_the_same_every_time", broken_plugins.Reshuffled),
    (TestPoints, "fingerprint_is_stable", broken_plugins.ReadsInSecret),
    (TestToyModel, "predictions_are_finite_and_the_same_every_time", broken_plugins.RandomModel),
    (TestToyModel, "predictions_are_finite_and_the_same_every_time", broken_plugins.NotANumber),
    (TestToyModel, "every_parameter_may_train", broken_plugins.AlreadyFrozen),
    (TestToyModel, "outline_has_the_shapes_of_the_model", broken_plugins.RealOutline),
    (TestToyModel, "outline_has_the_shapes_of_the_model", broken_plugins.OtherOutline),
    (TestToyModel, "saves_files", broken_plugins.SavesNothing),
    (TestPointObjective, "tokens_are_counted", broken_plugins.Weightless),
    (TestPointObjective, "first_rows_give_the_first_examples", broken_plugins.LastFirst),
    (TestPointObjective, "rows_encoded_few_at_a_time_give_the_same_examples", broken_plugins.ForgetsTheLast),
    (TestPointObjective, "rows_encoded_few_at_a_time_give_the_same_examples", broken_plugins.Numbered),
    (TestPointObjective, "a_batch_holds_tensors_of_its_rows", broken_plugins.Listed),
    (TestPointObjective, "loss_is_the_mean_of_its_rows", broken_plugins.SummedLoss),
    (TestPointObjective, "loss_is_a_mean_over_what_is_counted", broken_plugins.CountsLabels),
    (TestPointObjective, "loss_is_a_mean_over_what_is_counted", broken_plugins.CountsBatches),
    (TestPointObjective, "loss_is_one_number_with_a_gradient", broken_plugins.UnreducedLoss),
    (TestPointObjective, "loss_is_one_number_with_a_gradient", broken_plugins.DetachedLoss),
    (TestPointObjective, "predictions_do_not_depend_on_the_batch_size", broken_plugins.Normalizing),
    (TestPointObjective, "logits_do_not_depend_on_the_batch_size", broken_plugins.Centring),
    (TestPointObjective, "columns_are_those_that_it_names", broken_plugins.Boastful),
    (TestPointObjective, "predictions_are_what_the_metrics_read", broken_plugins.NoSuchMetric),
    (TestPointObjective, "predictions_are_what_the_metrics_read", broken_plugins.NoSuchColumn),
    (TestPointObjective, "shots_come_before_every_row", broken_plugins.AlsoScored),
    (TestPointObjective, "shots_come_before_every_row", broken_plugins.Unshown),
    (TestHits, "says_its_direction", broken_plugins.Directionless),
    (TestHits, "value_is_one_number", broken_plugins.ArrayValue),
    (TestHits, "value_is_one_number", broken_plugins.NoCount),
    (TestHits, "reads_no_more_than_it_says", broken_plugins.Secretive),
    (TestHits, "order_does_not_matter", broken_plugins.FirstOnly),
    (TestHits, "examples_twice_give_the_same_score", broken_plugins.Summed),
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
