"""The report's measures over stages, parameters and costs, against values by hand and other libraries."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import OneHotEncoder

from myosotis.errors import ConfigurationError
from myosotis.forgetting import stability_gap
from myosotis.ledger import StudyRecord
from myosotis.report import configurations, write_report
from myosotis.report.colours import colour, grouped, is_few
from myosotis.report.cost import cost_charts
from myosotis.report.curves import curve_points
from myosotis.report.ends import with_end_scores
from myosotis.report.flags import flags, still_falls
from myosotis.report.importance import explained_share, importance
from myosotis.report.joined import joined_record
from myosotis.report.matrices import score_cells
from myosotis.report.pairs import END, holm, paired
from myosotis.report.panels import panels
from myosotis.report.paths import path_points
from myosotis.report.retention import placed_scores, retention, with_stability_gaps
from myosotis.report.theme import PALETTE
from myosotis.report.words import axis_titles, described, findings
from tests.simulated import PROBE, TASKS, simulated

NAN = float("nan")
RATE = " · learning_rate=0.001"
"""The end of every label."""


@pytest.fixture
def study(tmp_path: Path) -> StudyRecord:
    return simulated(tmp_path / "study", arms=("full", "lora"), ranks=(4, 16, 64), rates=(1e-3,), seeds=3)


# Over stages


@pytest.mark.parametrize(
    ("scores", "gap"),
    [
        ([0.8, 0.5, 0.7], 0.2),  # below the lower end
        ([0.8, 0.75, 0.7], 0.0),  # it falls, but never dips
        ([0.6, 0.55, 0.9], 0.05),
        ([0.8, 0.7], NAN),  # nothing was scored in between
        ([0.8, NAN, 0.7], NAN),
    ],
)
def test_stability_gap_by_hand(scores: list[float], gap: float) -> None:
    assert_allclose(stability_gap(scores), gap)


def test_retention_by_hand(study: StudyRecord) -> None:
    """Of strength s, what a later stage takes is 0.08 s a stage, and 0.1 s more a quarter into it."""
    frame = configurations(study)
    points = retention(placed_scores(study, frame))
    rows = points[(points["role"] == "task") & (points["number"] == 2)]  # full, rank 16
    strength = 0.1 * 4 + 0.2 + 0.05
    assert rows["place"].tolist() == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]
    dips = np.where(rows["place"] % 1 == 0.25, 0.1, 0.0)
    assert_allclose(rows["change"], -strength * (0.08 * rows["place"] + dips), atol=1e-9)
    assert rows["tasks"].tolist() == [3, 2, 2, 2, 2, 1, 1, 1, 1]  # the last task has no later stage
    probe = points[(points["role"] == "probe") & (points["number"] == 2)]
    assert probe["place"].max() == 3
    # The probe's changes have the seed's chance in them: their interval is scipy's.
    scores = study.scores[(study.scores["task"] == PROBE) & (study.scores["arm"] == "full")]
    scores = scores[scores["overrides"].str.contains("rank=16 ")]
    ends = scores.groupby("trial")["value"].last() - scores.groupby("trial")["value"].first()
    low, high = stats.t.interval(0.95, 2, loc=ends.mean(), scale=stats.sem(ends))
    assert_allclose(probe[["change", "low", "high"]].iloc[-1], [ends.mean(), low, high])


def test_stability_gaps_by_hand(study: StudyRecord) -> None:
    frame = with_stability_gaps(study, configurations(study))
    # A quarter into a stage 0.02 s are gone besides the dip; at its end 0.08 s are.
    strengths = np.array([0.2 + 0.25, 0.4 + 0.25, 0.6 + 0.25, 0.2 + 0.05, 0.4 + 0.05, 0.6 + 0.05])
    assert_allclose(frame["stability_gap"], strengths * (0.1 + 0.02 - 0.08))
    only_ends = study.scores[(study.scores["step"] == 40) | (study.scores["stage"] == 0)]
    without = StudyRecord(study.name, study.folder, only_ends, study.trials, study.columns)
    assert with_stability_gaps(without, configurations(without))["stability_gap"].isna().all()
    assert curve_points(without, configurations(without)).empty


def test_curves_are_means_step_by_step(study: StudyRecord) -> None:
    points = curve_points(study, configurations(study))
    assert sorted(points["steps"].unique()) == [0, *range(10, 121, 10)]
    assert sorted(points.loc[points["ends"], "steps"].unique()) == [0, 40, 80, 120]
    one = study.scores[(study.scores["arm"] == "full") & (study.scores["task"] == TASKS[0])]
    one = one[one["overrides"].str.contains("rank=4 ") & (one["stage"] == 2) & (one["step"] == 10)]
    found = points[(points["number"] == 1) & (points["task"] == TASKS[0]) & (points["steps"] == 50)]
    assert_allclose(found["value"], one["value"].mean())


def test_trials_of_another_order_have_a_panel_of_their_own(study: StudyRecord) -> None:
    orders = [" ".join(TASKS) if seed else " ".join(reversed(TASKS)) for seed in study.trials["seed"]]
    several = StudyRecord(
        study.name, study.folder, study.scores, study.trials.assign(order=orders), study.columns
    )
    frame = configurations(several)
    found = panels(several, frame)
    assert len(frame) == 6
    assert found["panel"].nunique() == 12
    assert found["title"].iloc[0] == f"1  full · rank=4{RATE} · laws → letters → plays"
    assert panels(study, frame)["title"].iloc[0] == f"1  full · rank=4{RATE}"


# Between the base and the trained model


def test_paths_by_hand(study: StudyRecord) -> None:
    """A variant has √α of each task's change, and α² of the probe's."""
    frame = configurations(study)
    points = path_points(study, frame)
    assert points["number"].unique().tolist() == [4, 5, 6]  # lora's
    rows = points[points["number"] == 5].set_index("value")
    trained = rows.loc[NAN]
    assert_allclose(rows.loc[[0.25, 0.5, 0.75], "gain"], trained["gain"] * np.sqrt([0.25, 0.5, 0.75]))
    assert_allclose(rows.loc[[0.25, 0.5, 0.75], "loss"], trained["loss"] * np.square([0.25, 0.5, 0.75]))
    assert_allclose(trained["loss"], frame["forgotten_base"].iloc[4])


# Which parameter matters


def test_explained_share_is_the_adjusted_r_squared_of_a_regression() -> None:
    draw = np.random.default_rng(0)
    groups = draw.integers(0, 4, 60)
    values = 0.5 * groups + draw.normal(0, 1, 60)
    dummies = OneHotEncoder(drop="first", sparse_output=False).fit_transform(groups[:, None])
    r2 = LinearRegression().fit(dummies, values).score(dummies, values)
    assert_allclose(explained_share(values, groups), 1 - (1 - r2) * 59 / (60 - 4))


def test_what_has_no_effect_explains_nothing_on_average() -> None:
    draw = np.random.default_rng(1)
    raw = []
    for _ in range(400):
        values, groups = draw.normal(0, 1, 24), np.repeat(np.arange(6), 4)
        raw.append(explained_share(values, groups))
    # Below zero is cut off: of an unbiased share half the studies have none.
    assert np.mean(np.equal(raw, 0)) > 0.5
    assert np.mean(raw) < 0.1


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        ([1.0, 2.0], ["a", "b"]),  # every group has one value
        ([1.0, 2.0], ["a", "a"]),  # there is one group
        ([1.0, 1.0, 1.0], ["a", "a", "b"]),  # all values are the same
        ([], []),
    ],
)
def test_no_share_where_groups_or_values_do_not_tell(values: list[float], groups: list[str]) -> None:
    assert math.isnan(explained_share(values, groups))


def test_importance_of_a_grid(tmp_path: Path) -> None:
    study = simulated(tmp_path / "study", ranks=(4, 16, 64), rates=(1e-4, 1e-3), seeds=4)
    shares = importance(study).query("measure == 'forgotten'").set_index("parameter")["share"]
    # forgotten is 0.12 times the strength, which the grid's parameters add up to.
    ranks, arms, rates = 0.1 * np.log2([4, 16, 64]), np.array([0.2, 0.0]), np.array([0.0, 0.05])
    total = ranks.var() + arms.var() + rates.var()
    assert shares["method.lora.rank"] == pytest.approx(ranks.var() / total, abs=0.03)
    assert shares["arm"] == pytest.approx(arms.var() / total, abs=0.03)
    assert shares["optimizer.learning_rate"] < 0.03
    assert shares["seed"] == 0
    assert "order of tasks" not in shares


# What to be careful of


def test_a_loss_that_falls_to_the_end_is_seen() -> None:
    draw = np.random.default_rng(0)
    noise = draw.normal(0, 0.05, 40)
    assert still_falls(3 - 0.02 * np.arange(40) + noise)
    assert not still_falls(3 + 2 * np.exp(-np.arange(40.0)) + noise)
    assert not still_falls(3 + 0.02 * np.arange(40) + noise)
    assert not still_falls(3 - 0.0001 * np.arange(40))  # by less than a percent
    assert not still_falls([3.0, 2.0, 1.0])
    assert not still_falls([NAN] * 40)
    flat = [still_falls(3 + draw.normal(0, 0.1, 40)) for _ in range(400)]
    assert sum(flat) <= stats.binom.ppf(0.999, 400, 0.05)


def test_flags_of_a_study(study: StudyRecord) -> None:
    found = {flag.mark: flag for flag in flags(study, configurations(study))}
    assert found.keys() == {"still learning", "edge of sweep"}
    assert found["still learning"].numbers == [4, 5, 6]  # lora's losses fall to the end
    assert found["edge of sweep"].numbers == [3, 6]
    assert (
        "method.lora.rank=64 learned most in its arm and is the largest that was tried"
        in found["edge of sweep"].text
    )
    two = study.trials[study.trials["seed"] < 2]
    fewer = StudyRecord(study.name, study.folder, study.scores, two, study.columns)
    assert next(iter(flags(fewer, configurations(fewer)))).numbers == [1, 2, 3, 4, 5, 6]
    # A log that a full disk cut off says nothing.
    for run in study.folder.iterdir():
        (run / "metrics.jsonl").write_text(json.dumps({"stage": 1})[:-3], encoding="utf-8")
    assert {flag.mark for flag in flags(study, configurations(study))} == {"edge of sweep"}


# One against another


def test_tasks_are_compared_by_their_last_scores(study: StudyRecord) -> None:
    table = paired(study)
    rows = table[(table["measure"] == END + TASKS[0]) & (table["configuration"] == f"full · rank=4{RATE}")]
    row = rows[rows["other"] == f"lora · rank=64{RATE}"].iloc[0]
    last = study.scores[(study.scores["task"] == TASKS[0])].groupby("trial")["value"].last()
    names = study.trials.set_index("trial")["configuration"]
    one, other = (
        last[names[names.str.startswith(name)].index].to_numpy()
        for name in ("full method.lora.rank=4 ", "lora method.lora.rank=64 ")
    )
    expected = stats.ttest_rel(one, other)
    assert_allclose([row["difference"], row["p"]], [np.mean(one - other), expected.pvalue])


def test_a_choice_of_pairs_is_corrected_for_all(study: StudyRecord) -> None:
    frame = configurations(study)
    few = paired(study, list(frame["label"][:3])).set_index(["measure", "configuration", "other"])
    whole = paired(study).set_index(["measure", "configuration", "other"]).loc[few.index]
    assert len(few) == 3 * (4 + len(TASKS) + 1)
    assert_allclose(few["p"], whole["p"])
    assert (few["p_corrected"] >= whole["p_corrected"] - 1e-12).all()
    assert_allclose(holm([0.001, 0.01], tests=10), [0.01, 0.09])


# Colours and costs


def test_a_configuration_has_one_colour_in_all_pictures(study: StudyRecord) -> None:
    frame = grouped(described(configurations(study)))
    assert is_few(frame)
    whole, part = (colour(frame, rows).to_dict() for rows in (frame, frame[2:4]))
    assert whole["scale"] == part["scale"] == {"domain": list(frame["name"]), "range": list(PALETTE[:6])}
    assert part["legend"]["values"] == [f"3  full · rank=64{RATE}", f"4  lora · rank=4{RATE}"]


def test_only_costs_that_differ_are_drawn(study: StudyRecord) -> None:
    frame = grouped(described(configurations(study)))
    titles = axis_titles(study.columns)
    assert len(cost_charts(frame, "forgotten", titles)) == 8
    same = frame.assign(kept_bytes=0.0, peak_memory_bytes=NAN)
    drawn = cost_charts(same, "forgotten", titles)
    axes = [chart.to_dict()["layer"][1]["encoding"]["x"]["title"] for chart in drawn]
    assert axes == ["seconds of a trial", "trainable parameters"] * 2
    values = pd.DataFrame(next(iter(drawn[0].to_dict()["datasets"].values())))
    assert_allclose(values["cost"], frame["seconds"])


# Several studies


def test_studies_side_by_side(tmp_path: Path) -> None:
    first = simulated(tmp_path / "first", arms=("lora",), ranks=(4, 16), rates=(1e-3,))
    second = simulated(tmp_path / "second", arms=("lora",), ranks=(16, 64), rates=(1e-3,))
    both = joined_record([first, second], tmp_path / "both")
    frame = configurations(both)
    ranks = [
        (arm, swept["method.lora.rank"]) for arm, swept in zip(frame["arm"], frame["swept"], strict=True)
    ]
    assert ranks == [("first · lora", 4), ("first · lora", 16), ("second · lora", 16), ("second · lora", 64)]
    alone = pd.concat([configurations(first), configurations(second)])
    assert_allclose(frame["learned"], alone["learned"])
    assert_allclose(frame["forgotten_high"], alone["forgotten_high"])
    # Both draw the same chance in the order of their trials: rank 4 of one has that of rank 16 of the other.
    table = paired(both)
    row = table[
        table["configuration"].str.startswith("first · lora · rank=4 ") & (table["measure"] == "learned")
    ]
    row = row[row["other"].str.startswith("second · lora · rank=16 ")].iloc[0]
    assert_allclose([row["difference"], row["low"], row["high"], row["n"]], [-0.2, -0.2, -0.2, 3], atol=1e-12)
    text = write_report(both).read_text(encoding="utf-8")
    assert "first and second" in text
    assert (tmp_path / "both" / "report" / "retention.svg").is_file()
    assert [flag.mark for flag in flags(both, frame)] == [
        "still learning"
    ]  # the logs are found where they are


def test_studies_that_do_not_compare_are_refused(tmp_path: Path) -> None:
    study = simulated(tmp_path / "a", arms=("lora",), ranks=(4,), rates=(1e-3,))
    with pytest.raises(ConfigurationError, match="must differ in their names, but got a, a"):
        joined_record([study, study], tmp_path / "both")
    other = replace(study, name="b", columns=study.columns.assign(metric="f1"))
    with pytest.raises(ConfigurationError, match="alike, but got accuracy, f1"):
        joined_record([study, other], tmp_path / "both")
    other = replace(study, name="b", columns=study.columns.assign(task=["p", "q", "r", "s"]))
    with pytest.raises(ConfigurationError, match="must share a task or probe, but a, b share none"):
        joined_record([study, other], tmp_path / "both")


def test_a_trial_of_two_arms_counts_once_in_each(study: StudyRecord) -> None:
    again = study.trials[study.trials["arm"] == "lora"].assign(arm="again")
    again["configuration"] = again["configuration"].str.replace("lora ", "again ", n=1)
    scores = study.scores[study.scores["arm"] == "lora"].assign(arm="again")
    both = replace(study, trials=pd.concat([study.trials, again]), scores=pd.concat([study.scores, scores]))
    frame = configurations(both)
    points = retention(placed_scores(both, frame)).set_index(["number", "role", "place"])
    for column in ("change", "tasks", "trials", "high"):
        assert_allclose(points.loc[7, column], points.loc[4, column])
    curves = curve_points(both, frame)
    assert curves.loc[curves["number"] == 7, "n"].max() == 3
    ends = with_end_scores(both, frame)
    assert_allclose(ends["end_high"].iloc[6:], ends["end_high"].iloc[3:6])


def test_end_scores_by_hand(study: StudyRecord) -> None:
    frame = with_end_scores(study, configurations(study))
    last = study.scores[(study.scores["stage"] == 3) & (study.scores["step"] == 40)]
    tasks = last[
        last["task"].isin(TASKS) & (last["arm"] == "full") & last["overrides"].str.contains("rank=4 ")
    ]
    means = tasks.groupby("trial")["value"].mean()
    low, high = stats.t.interval(0.95, 2, loc=means.mean(), scale=stats.sem(means))
    assert_allclose(frame.loc[0, ["end", "end_low", "end_high"]].astype(float), [means.mean(), low, high])
    two = replace(study, columns=study.columns.assign(metric=["accuracy", "f1", "accuracy", "accuracy"]))
    assert with_end_scores(two, configurations(two))["end"].isna().all()


def test_what_is_within_noise_is_told_by_the_paired_test(study: StudyRecord) -> None:
    frame = described(with_end_scores(study, configurations(study)))
    said = " ".join(findings(study, frame))
    table = paired(study)
    best = frame.sort_values("learned")["label"].iloc[-1]
    rows = table[(table["measure"] == "learned") & (table[["configuration", "other"]] == best).any(axis=1)]
    near = rows[rows["verdict"] == "within noise"]
    others = set(near["configuration"]) | set(near["other"])
    sentence = next(each for each in said.split("</strong> ") if each.startswith("learned most"))
    assert "within noise of it" in sentence
    assert 0 < len(others - {best}) < 5
    assert "is best over all tasks at the end" in said
    assert "<strong>method.lora.rank</strong> for learned" in said


def test_a_stages_row_names_the_task_that_it_trained(study: StudyRecord) -> None:
    cells = score_cells(study, configurations(study))
    first = cells[cells["number"] == 1]
    rows = ["base", "stage 1: plays", "stage 2: letters", "stage 3: laws"]
    assert list(dict.fromkeys(first["row"])) == rows
    backwards = [dict(zip(TASKS, (3, 2, 1), strict=True)) | {PROBE: 0}] * len(study.trials)
    turned = replace(study, trials=study.trials.assign(last_trained=backwards))
    cells = score_cells(turned, configurations(turned))
    assert list(dict.fromkeys(cells["column"])) == ["laws", "letters", "plays", f"{PROBE} (probe)"]
