"""Configurations are held against each other as scipy does it; the same ones are seldom called different."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from myosotis.ledger import SCORE_COLUMNS, StudyRecord
from myosotis.report.aggregate import COSTS, t_interval
from myosotis.report.pairs import holm, paired, paired_p

NAN = float("nan")


def study(learned: Mapping[str, Sequence[float]], metric: Mapping[str, str] | None = None) -> StudyRecord:
    """A study of arms whose seeds 0, 1, … learned so much."""
    rows = [
        {
            "trial": f"{arm}{seed}",
            "arm": arm,
            "overrides": "",
            "configuration": arm,
            "swept": {},
            "seed": seed,
            "order": "",
            "status": "finished",
            "learned": value,
            "forgotten": 0.1 * value,
            "forgotten_base": NAN,
            "metric": (metric or {}).get(arm, "accuracy"),
            **dict.fromkeys(COSTS, 1.0),
        }
        for arm, values in learned.items()
        for seed, value in enumerate(values)
    ]
    scores = pd.DataFrame(columns=list(SCORE_COLUMNS))
    columns = pd.DataFrame(columns=["task", "role", "metric", "higher_is_better"])
    return StudyRecord("study", Path(), scores, pd.DataFrame(rows), columns)


def test_a_pair_is_scipys_paired_test() -> None:
    one, other = [0.8, 0.9, 0.75, 0.85], [0.5, 0.72, 0.49, 0.6]
    table = paired(study({"a": one, "b": other}))
    assert table["measure"].tolist() == ["learned", "forgotten"]  # there is no forgotten_base
    row = table.iloc[0]
    expected = stats.ttest_rel(one, other)
    low, high = expected.confidence_interval()
    assert_allclose(
        [row.difference, row.low, row.high, row.p],
        [np.mean(one) - np.mean(other), low, high, expected.pvalue],
    )
    assert (row.configuration, row.other, row.n, row.verdict) == ("a", "b", 4, "higher")
    assert_allclose(table["p_corrected"], table["p"])  # one pair of each measure


def test_only_seeds_that_both_have_are_compared() -> None:
    table = paired(study({"a": [0.1, 0.2, 0.4], "b": [0.3, 0.5, 0.6, 0.9, 0.9]}))
    assert table.n.tolist() == [3, 3]
    assert_allclose(table.difference[0], np.mean([-0.2, -0.3, -0.2]))


def test_one_seed_is_too_few_and_another_metric_is_no_pair() -> None:
    table = paired(study({"a": [0.1], "b": [0.9], "c": [0.5]}, {"c": "perplexity"}))
    assert table[["configuration", "other", "verdict"]].values.tolist() == [["a", "b", "too few seeds"]] * 2
    assert table.p.isna().all()


@pytest.mark.parametrize(
    ("values", "corrected"),
    [
        # By hand: 3 · 0.01, 2 · 0.03, and 1 · 0.04, which must not be less than the one before it.
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, NAN, 0.03], [0.04, NAN, 0.04]),
        ([], []),
    ],
)
def test_holms_correction(values: list[float], corrected: list[float]) -> None:
    assert_allclose(holm(values), corrected)


def test_without_spread() -> None:
    assert paired_p([0.0, 0.0, 0.0]) == 1.0
    assert paired_p([0.5, 0.5, 0.5]) == 0.0
    assert math.isnan(paired_p([0.5]))
    assert math.isnan(paired_p([0.5, NAN, 0.4]))


@pytest.mark.slow
@pytest.mark.parametrize("arms", [2, 4])
def test_arms_that_are_the_same_are_seldom_called_different(arms: int) -> None:
    """Of simulated studies at most 5 % find any pair of the same arm different, but for chance."""
    draw, studies = np.random.default_rng(0), 400
    wrong = 0
    for _ in range(studies):
        values = {f"arm{number}": draw.normal(0.5, 0.1, 5) for number in range(arms)}
        table = paired(study({arm: list(each) for arm, each in values.items()}))
        wrong += bool(table[table.measure == "learned"].verdict.isin(["higher", "lower"]).any())
    assert wrong <= stats.binom.ppf(0.999, studies, 0.05)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_intervals_over_seeds_cover_as_often_as_they_say(seeds: int) -> None:
    draw, studies = np.random.default_rng(seeds), 4_000
    intervals = [t_interval(draw.normal(0.3, 0.2, seeds)) for _ in range(studies)]
    covered = np.mean([low <= 0.3 <= high for _, low, high in intervals])
    assert 0.93 <= covered <= 0.97


def test_other_orders_are_averaged_by_seed() -> None:
    both = study({"a": [0.5, 0.6, 0.8], "b": [0.1, 0.2, 0.3, 0.5, 0.4, 0.6]})
    trials = both.trials.copy()
    second = trials["arm"] == "b"
    trials.loc[second, "order"] = ["x y", "y x"] * 3
    trials.loc[second, "seed"] = [0, 0, 1, 1, 2, 2]
    trials.loc[~second, "order"] = "x y"
    row = paired(replace(both, trials=trials)).iloc[0]
    assert_allclose([row.difference, row.n], [np.mean([0.5 - 0.15, 0.6 - 0.4, 0.8 - 0.5]), 3])
    trials.loc[second, "order"] = "x y z"  # one order each, of other tasks
    trials = trials[~second | trials.index.isin(trials.index[second][::2])]
    row = paired(replace(both, trials=trials)).iloc[0]
    assert_allclose([row.difference, row.n], [np.mean([0.5 - 0.1, 0.6 - 0.3, 0.8 - 0.4]), 3])
