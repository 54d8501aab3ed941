"""The numbers of forgetting: published figures, closed forms by hand, and what must be NaN."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from myosotis import forgetting

NAN = float("nan")
PUBLISHED = Path(__file__).parents[2] / "shared" / "reference" / "olora_scores.json"


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    if not PUBLISHED.exists():
        assert "CI" not in os.environ, f"{PUBLISHED} must be there where CI runs"
        pytest.skip(f"{PUBLISHED} is not here")
    runs: dict[str, Any] = json.loads(PUBLISHED.read_text())["runs"]
    return runs


def with_missing_base(run: dict[str, Any]) -> forgetting.FloatArray:
    """The published table below a base row that nobody measured."""
    after_stage = np.array(run["after_stage"], dtype=np.float64)
    return np.vstack([np.full(after_stage.shape[1], NAN), after_stage])


# Published figures


@pytest.mark.parametrize(
    "name", ["order1_seqft", "order1_seqlora", "order1_icrlora", "order1_olora", "long_olora"]
)
def test_published_table(published: dict[str, Any], name: str) -> None:
    run = published[name]
    scores = with_missing_base(run)
    for function, key in (
        (forgetting.average_accuracy, "average_accuracy"),
        (forgetting.backward_transfer, "backward_transfer"),
        (forgetting.forgetting, "forgetting_chaudhry"),
    ):
        expected = NAN if run[key] is None else run[key]
        assert_allclose(function(scores), expected, atol=6e-5)


@pytest.mark.parametrize(
    ("name", "average", "backward"),
    [
        ("order1_seqft", 67.77, -14.50),
        ("order1_olora", 78.37, -1.18),
        ("order1_icrlora", 68.62, -14.55),
        ("long_olora", 72.17, -0.73),
    ],
)
def test_published_figures(published: dict[str, Any], name: str, average: float, backward: float) -> None:
    scores = with_missing_base(published[name])
    assert round(forgetting.average_accuracy(scores), 2) == average
    assert round(forgetting.backward_transfer(scores), 2) == backward


def test_forgetting_is_none_of_its_variants(published: dict[str, Any]) -> None:
    scores = with_missing_base(published["long_olora"])
    trained = np.nan_to_num(scores[1:])
    padded_with_last_row = np.mean(trained[:, :-1].max(axis=0) - trained[-1, :-1])
    first_less_last = np.mean((np.diagonal(trained) - trained[-1])[:-1])
    assert round(float(padded_with_last_row), 2) == 2.05
    assert round(float(first_less_last), 2) == 0.73
    assert round(forgetting.forgetting(scores), 2) == 1.74


def test_missing_stage_gives_nan(published: dict[str, Any]) -> None:
    scores = with_missing_base(published["order1_seqlora"])
    for function in (
        forgetting.backward_transfer,
        forgetting.forgetting,
        forgetting.learning_accuracy,
        forgetting.average_incremental_accuracy,
        forgetting.minimum_score,
        forgetting.forward_transfer,
    ):
        assert np.isnan(function(scores)), function.__name__
    assert_allclose(forgetting.average_accuracy(scores), 62.875)


# Closed forms by hand: three tasks, task 1 is best in the middle

SEQUENCE = np.array(
    [
        [0.10, 0.20, 0.30],
        [0.80, 0.25, 0.28],
        [0.90, 0.70, 0.36],
        [0.60, 0.65, 0.95],
    ]
)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (forgetting.average_accuracy, (0.60 + 0.65 + 0.95) / 3),
        (forgetting.learning_accuracy, (0.80 + 0.70 + 0.95) / 3),
        (forgetting.backward_transfer, (-0.20 - 0.05) / 2),
        (forgetting.forward_transfer, (0.05 + 0.06) / 2),
        (forgetting.forgetting, (0.30 + 0.05) / 2),
        (forgetting.average_incremental_accuracy, (0.80 + 0.80 + 2.20 / 3) / 3),
        (forgetting.minimum_score, (0.60 + 0.65) / 2),
    ],
)
def test_closed_form(function: Any, expected: float) -> None:
    assert_allclose(function(SEQUENCE), expected)


def test_change_from_base() -> None:
    assert_allclose(forgetting.change_from_base(SEQUENCE), [0.50, 0.45, 0.65])


def test_intransigence() -> None:
    assert_allclose(forgetting.intransigence(SEQUENCE, [0.80, 0.75, 0.90]), [0.0, 0.05, -0.05])


def test_minimum_score_sees_a_dip_that_forgetting_does_not() -> None:
    scores = [[0.0, 0.0, 0.0], [0.9, 0.0, 0.0], [0.2, 0.8, 0.0], [0.9, 0.8, 0.7]]
    assert_allclose(forgetting.minimum_score(scores), (0.2 + 0.8) / 2)
    assert_allclose(forgetting.forgetting(scores), 0.0)


def test_forgetting_leaves_out_base_and_rows_before_the_task() -> None:
    scores = np.array([[0.0, 9.0, 0.0], [0.5, 8.0, 0.0], [0.5, 0.7, 0.0], [0.5, 0.6, 0.9]])
    assert_allclose(forgetting.forgetting(scores), 0.05)


def test_forgetting_is_negative_where_the_end_is_best() -> None:
    scores = [[0.0, 0.0], [0.5, 0.0], [0.8, 0.9]]
    assert_allclose(forgetting.forgetting(scores), -0.3)


def test_one_stage_has_nothing_to_forget() -> None:
    one = [[0.1], [0.7]]
    for function in (
        forgetting.forgetting,
        forgetting.backward_transfer,
        forgetting.forward_transfer,
        forgetting.minimum_score,
    ):
        assert np.isnan(function(one)), function.__name__
    assert forgetting.average_accuracy(one) == forgetting.learning_accuracy(one) == 0.7
    assert forgetting.average_incremental_accuracy(one) == 0.7


def test_only_what_needs_a_cell_is_nan_without_it() -> None:
    without_base = SEQUENCE.copy()
    without_base[0] = NAN
    assert np.isnan(forgetting.forward_transfer(without_base))
    assert np.isnan(forgetting.change_from_base(without_base)).all()
    for function in (
        forgetting.average_accuracy,
        forgetting.learning_accuracy,
        forgetting.backward_transfer,
        forgetting.forgetting,
        forgetting.average_incremental_accuracy,
        forgetting.minimum_score,
    ):
        assert function(without_base) == function(SEQUENCE), function.__name__


# The headline: tasks a and b, probe p


def test_sequential_headline() -> None:
    scores = [[0.1, 0.2, 0.9], [0.8, 0.3, 0.7], [0.5, 0.7, 0.6]]
    assert_allclose(forgetting.learned(scores, [1, 2, 0]), (0.7 + 0.5) / 2)
    assert_allclose(forgetting.forgotten(scores, [1, 2, 0]), 0.3)
    assert_allclose(forgetting.forgotten_base(scores, [1, 2, 0]), 0.3)


def test_joint_headline_forgets_nothing_but_the_base() -> None:
    scores = [[0.1, 0.2, 0.9], [0.8, 0.6, 0.7]]
    assert_allclose(forgetting.learned(scores, [1, 1, 0]), (0.7 + 0.4) / 2)
    assert np.isnan(forgetting.forgotten(scores, [1, 1, 0]))
    assert_allclose(forgetting.forgotten_base(scores, [1, 1, 0]), 0.2)


def test_task_trained_twice_counts_from_its_last_training() -> None:
    scores = [[0.0, 0.0], [0.9, 0.0], [0.2, 0.8], [0.7, 0.5], [0.6, 0.4]]
    assert_allclose(forgetting.learned(scores, [3, 2]), (0.7 + 0.8) / 2)
    assert_allclose(forgetting.forgotten(scores, [3, 2]), (0.1 + 0.4) / 2)
    assert np.isnan(forgetting.forgotten_base(scores, [3, 2]))


def test_lower_is_better_by_sign() -> None:
    losses = [[3.0, 2.0, 1.7], [1.0, 2.5, 2.0], [1.6, 0.5, 2.5]]
    scores = forgetting.oriented(losses, [False, False, False])
    assert_allclose(forgetting.learned(scores, [1, 2, 0]), (2.0 + 1.5) / 2)
    assert_allclose(forgetting.forgotten(scores, [1, 2, 0]), 0.6)
    assert_allclose(forgetting.forgotten_base(scores, [1, 2, 0]), 0.8)


def test_orientation_turns_only_the_columns_where_lower_is_better() -> None:
    assert_allclose(forgetting.oriented([[1.0, 2.0], [3.0, NAN]], [True, False]), [[1, -2], [3, NAN]])


def test_mixed_metrics_are_never_averaged() -> None:
    scores = [[0.1, 2.0, 0.9], [0.8, 2.1, 0.7], [0.5, 3.0, 0.6]]
    metrics = ["accuracy", "rouge", "accuracy"]
    assert np.isnan(forgetting.learned(scores, [1, 2, 0], metrics))
    assert_allclose(forgetting.forgotten(scores, [1, 2, 0], metrics), 0.3)
    assert_allclose(forgetting.forgotten_base(scores, [1, 2, 0], metrics), 0.3)


def test_missing_cell_makes_its_headline_nan() -> None:
    scores = [[0.1, NAN, 0.9], [0.8, 0.3, NAN], [0.5, 0.7, 0.6]]
    assert np.isnan(forgetting.learned(scores, [1, 2, 0]))
    assert_allclose(forgetting.forgotten(scores, [1, 2, 0]), 0.3)
    assert_allclose(forgetting.forgotten_base(scores, [1, 2, 0]), 0.3)


def test_nothing_trained_learns_nothing() -> None:
    assert np.isnan(forgetting.learned([[0.3, 0.4]], [0, 0]))
    assert forgetting.forgotten_base([[0.3, 0.4]], [0, 0]) == 0.0


# What is refused


@pytest.mark.parametrize("shape", [(3, 3), (2, 3), (4,), (1, 0)])
def test_sequence_must_have_a_base_row_and_a_stage_a_task(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be of shape \(T \+ 1, T\), row 0 the base, but got"):
        forgetting.forgetting(np.zeros(shape))


@pytest.mark.parametrize(
    ("last_trained", "metrics", "rule"),
    [
        ([1], None, "last_trained must be 2 long, one a column, but got 1"),
        ([1, 3], None, r"last_trained must be stages in 0\.\.2, but got \[1, 3\]"),
        ([1, -1], None, r"last_trained must be stages in 0\.\.2, but got"),
        ([1, 2], ["accuracy"], "metrics must be 2 long, one a column, but got 1"),
    ],
)
def test_headline_arguments_must_fit(last_trained: list[int], metrics: list[str] | None, rule: str) -> None:
    for function in (forgetting.learned, forgetting.forgotten, forgetting.forgotten_base):
        with pytest.raises(ValueError, match=rule):
            function(np.zeros((3, 2)), last_trained, metrics)


def test_scores_must_be_a_matrix() -> None:
    with pytest.raises(ValueError, match=r"must be of shape \(stages \+ 1, columns\), but got \(2,\)"):
        forgetting.change_from_base([1.0, 2.0])
    with pytest.raises(ValueError, match="higher_is_better must be 2 long"):
        forgetting.oriented([[1.0, 2.0]], [True])
    with pytest.raises(ValueError, match="joint_scores must be 3 long"):
        forgetting.intransigence(SEQUENCE, [1.0])
