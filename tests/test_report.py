"""The report: its numbers against references, and pages of studies of every shape."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from myosotis.data_record import FILE, Bar, DataRecord, Finding, SplitRecord, write_data
from myosotis.ledger import SCORE_COLUMNS, StudyRecord
from myosotis.report import configurations, pareto_front, summary_table, t_interval, write_report
from myosotis.report.axes import spans_decades
from myosotis.report.labels import labels, short_keys, value_text
from myosotis.report.matrices import score_cells
from myosotis.report.numbers import count, decimals, duration, fixed, with_interval
from myosotis.report.pictures import pictures
from myosotis.report.scatter import apart
from myosotis.report.sweeps import is_numeric, medians, sweep_points, swept_keys, ticks
from myosotis.report.table import front_first, latex, paper_table
from myosotis.report.words import axis_titles, described, findings

NAN = float("nan")

# Studies to report on


def trial(number: int, **values: Any) -> dict[str, Any]:
    """One row of a record's trials; what is not given is a plain finished trial's."""
    row = {
        "trial": f"{number:08x}",
        "arm": "",
        "swept": {},
        "seed": 0,
        "order": "",
        "status": "finished",
        "error": None,
        "learned": 0.5,
        "forgotten": 0.1,
        "forgotten_base": 0.2,
        "metric": "accuracy",
        "trainable_parameters": 1000.0,
        "total_parameters": 5000.0,
        "seconds": 12.0,
        "tokens": 1e5,
        "peak_memory_bytes": 1e9,
        "kept_bytes": 0.0,
        "last_trained": {"first": 1, "second": 2, "probe": 0},
        "folder": f"{number:08x}",
    } | values
    if row["status"] != "finished":
        row |= dict.fromkeys(
            ("learned", "forgotten", "forgotten_base", "trainable_parameters", "seconds", "kept_bytes"), NAN
        )
        row["metric"] = None
    row["overrides"] = " ".join(f"{key}={value}" for key, value in row["swept"].items())
    return row | {"configuration": " ".join([row["arm"], row["overrides"]]).strip()}


def record(
    folder: Path,
    trials: Iterable[Mapping[str, Any]],
    tasks: tuple[str, ...] = ("first", "second"),
    probes: tuple[str, ...] = ("probe",),
    *,
    stages: int = 2,
    metrics: Mapping[str, str] | None = None,
    higher_is_better: bool = True,
) -> StudyRecord:
    """A study whose scores are 0.5 for the base and rise by 0.1 a stage."""
    table = pd.DataFrame(list(trials))
    columns = [
        (name, role, (metrics or {}).get(name, "accuracy"), higher_is_better)
        for role, names in (("task", tasks), ("probe", probes))
        for name in names
    ]
    scores = [
        (
            row["trial"],
            row["arm"],
            "",
            row["seed"],
            row["order"],
            stage,
            10,
            name,
            "test",
            metric,
            0.5 + stage / 10,
            9,
            NAN,
            NAN,
            "",
        )
        for row in table.to_dict("records")
        if row["status"] == "finished"
        for stage in range(stages + 1)
        for name, _, metric, _ in columns
    ]
    return StudyRecord(
        name="study",
        folder=folder,
        scores=pd.DataFrame(scores, columns=list(SCORE_COLUMNS)),
        trials=table,
        columns=pd.DataFrame(columns, columns=["task", "role", "metric", "higher_is_better"]),
    )


def rank_sweep(seeds: int = 3) -> list[dict[str, Any]]:
    """Higher ranks learn more and forget more."""
    return [
        trial(
            10 * rank + seed,
            swept={"method.lora.rank": rank},
            seed=seed,
            learned=0.1 * rank + 0.01 * seed,
            forgotten=0.05 * rank + 0.01 * seed,
            forgotten_base=0.02 * rank,
        )
        for rank in (2, 4, 8, 64)
        for seed in range(seeds)
    ]


# Means, intervals, fronts


def test_t_interval_agrees_with_scipy() -> None:
    sample = [0.31, 0.27, 0.44, 0.39, 0.35]
    low, high = stats.t.interval(0.95, len(sample) - 1, loc=np.mean(sample), scale=stats.sem(sample))
    assert_allclose(t_interval(sample), (np.mean(sample), low, high), rtol=1e-9)


def test_t_interval_by_hand() -> None:
    # Two values: s = 0.2 / sqrt(2), and t for one degree of freedom is tan(0.475 pi) = 12.706.
    half = math.tan(0.475 * math.pi) * 0.1
    assert_allclose(t_interval([0.4, 0.6]), (0.5, 0.5 - half, 0.5 + half))


@pytest.mark.parametrize(
    ("values", "mean"), [([0.3], 0.3), ([], NAN), ([0.3, NAN, 0.4], NAN), ([0.3, math.inf], math.inf)]
)
def test_no_interval_from_one_replicate_or_a_missing_one(values: list[float], mean: float) -> None:
    assert_allclose(t_interval(values), (mean, NAN, NAN))


def test_pareto_front_of_known_points() -> None:
    learned = [1.0, 2.0, 3.0, 2.0, 2.5, 3.0, NAN, 4.0]
    forgotten = [0.1, 0.2, 0.5, 0.2, 0.6, 0.7, 0.0, NAN]
    front = [True, True, True, True, False, False, False, False]
    assert pareto_front(learned, forgotten).tolist() == front


def test_configurations_by_hand(tmp_path: Path) -> None:
    trials = [
        trial(1, arm="lora", seed=0, status="failed", error="boom"),
        trial(2, arm="lora", seed=1, learned=0.4, forgotten=0.1, seconds=10.0),
        trial(3, arm="lora", seed=2, learned=0.6, forgotten=0.3, seconds=30.0),
        trial(4, arm="full", seed=0, learned=0.7, forgotten=0.5, trainable_parameters=5000.0),
        trial(5, arm="full", seed=1, status="unfinished"),
        trial(6, arm="bad", seed=0, learned=0.3, forgotten=0.4),
    ]
    frame = configurations(record(tmp_path, trials)).set_index("label")
    assert list(frame.index) == ["lora", "full", "bad"]
    assert frame["number"].tolist() == [1, 2, 3]
    assert frame[["n", "failed", "unfinished"]].to_numpy().tolist() == [[2, 1, 0], [1, 0, 1], [1, 0, 0]]
    assert frame["pareto"].tolist() == [True, True, False]
    assert frame["metric"].tolist() == ["accuracy"] * 3
    assert frame["seconds"].tolist() == [20.0, 12.0, 12.0]
    half = math.tan(0.475 * math.pi) * 0.1
    assert_allclose(
        frame.loc["lora", ["learned", "learned_low", "learned_high"]].astype(float),
        (0.5, 0.5 - half, 0.5 + half),
    )
    assert np.isnan(frame.loc["full", "learned_low"])


def test_orders_are_replicates_like_seeds(tmp_path: Path) -> None:
    trials = [trial(number, seed=number % 2, order=f"order {number // 2}") for number in range(4)]
    assert configurations(record(tmp_path, trials))["n"].tolist() == [4]


def test_different_metrics_have_fronts_of_their_own(tmp_path: Path) -> None:
    trials = [
        trial(1, arm="a", learned=0.1, forgotten=0.3, metric="accuracy"),
        trial(2, arm="b", learned=9.0, forgotten=0.1, metric="perplexity"),
        trial(3, arm="c", learned=0.0, forgotten=0.4, metric="accuracy"),
    ]
    study = record(tmp_path, trials)
    assert configurations(study)["pareto"].tolist() == [True, True, False]
    text = " ".join(findings(study, described(configurations(study))))
    assert "By perplexity, which does not compare with the other metrics" in text


def test_summary_table_has_plain_cells(tmp_path: Path) -> None:
    table = summary_table(record(tmp_path, rank_sweep()))
    assert len(table) == 4
    assert list(table.columns[:5]) == ["arm", "configuration", "metric", "learned", "learned_interval"]
    expected = stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(3)
    assert_allclose(table["learned_interval"], expected)
    assert_allclose(table["forgotten_base_interval"], 0.0, atol=1e-12)
    assert_allclose(table["learned"], [0.21, 0.41, 0.81, 6.41])
    assert json.loads(table.to_json(orient="records"))[3]["n"] == 3
    assert table.to_csv(index=False).count("\n") == 5


def test_a_papers_table_has_means_with_half_their_intervals(tmp_path: Path) -> None:
    trials = [
        trial(seed, arm="a_b", seed=seed, learned=value, forgotten=-0.25, forgotten_base=NAN)
        for seed, value in enumerate((0.5, 0.6, 0.7))
    ]
    table = paper_table(record(tmp_path, trials))
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert list(table.columns) == ["configuration", "learned", "forgotten", "trainable parameters", "n"]
    assert table.values.tolist() == [
        ["a_b", f"0.600 ± {half:.3f}", "\N{MINUS SIGN}0.250 ± 0.000", "1,000", 3]
    ]
    assert latex(table).splitlines() == [
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"configuration & learned & forgotten & trainable parameters & n \\",
        r"\midrule",
        rf"a\_b & 0.600 $\pm$ {half:.3f} & $-$0.250 $\pm$ 0.000 & 1,000 & 3 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


# Score matrices


def scores_of(study: StudyRecord, values: Iterable[tuple[Any, ...]]) -> StudyRecord:
    """The study with other scores: trial, stage, step, task, metric, value."""
    rows = [
        (name, "", "", 0, "", stage, step, task, "test", metric, value, 9, NAN, NAN, "")
        for name, stage, step, task, metric, value in values
    ]
    scores = pd.DataFrame(rows, columns=list(SCORE_COLUMNS))
    return StudyRecord(study.name, study.folder, scores, study.trials, study.columns)


def test_score_cells_are_means_at_the_end_of_each_stage(tmp_path: Path) -> None:
    study = record(tmp_path, [trial(1), trial(2, seed=1)], ("task",), ("probe",), higher_is_better=False)
    one, two = study.trials["trial"]
    study = scores_of(
        study,
        [
            (one, 0, 0, "task", "accuracy", 3.0),
            (two, 0, 0, "task", "accuracy", 3.0),
            (one, 1, 5, "task", "accuracy", 9.9),  # within the stage
            (one, 1, 10, "task", "accuracy", 1.0),
            (two, 1, 10, "task", "accuracy", 2.0),
            (one, 1, 10, "task", "another", 7.0),
            (one, 0, 0, "probe", "accuracy", 2.0),
            (two, 0, 0, "probe", "accuracy", 2.0),
            (one, 1, 10, "probe", "accuracy", 2.3),
            (two, 1, 10, "probe", "accuracy", NAN),
        ],
    )
    cells = score_cells(study, configurations(study)).set_index(["column", "row"])
    assert_allclose(cells.loc["task", "value"], [3.0, 1.5])
    assert_allclose(cells.loc["task", "change"], [0.0, 1.0])  # a fall is better
    assert_allclose(cells.loc["probe (probe)", "value"], [2.0, NAN])
    assert cells.loc["probe (probe)", "text"].tolist() == ["2.000", "—"]


def test_trial_shared_by_two_arms_stands_in_both(tmp_path: Path) -> None:
    shared = trial(1, arm="a")
    study = record(tmp_path, [shared, shared | {"arm": "b", "configuration": "b"}])
    cells = score_cells(study, configurations(study))
    assert cells.groupby("number").size().tolist() == [9, 9]
    assert_allclose(cells.loc[cells["stage"] == 2, "value"], 0.7)


# Words


def test_labels_are_short_and_unique() -> None:
    swept = [{"method.lora.rank": 4, "mix.plays": 0.1}, {"method.lora.rank": 8, "mix.plays": 0.1}]
    assert labels(["", ""], swept, ["x", "y"]) == ["rank=4 · mix.plays=0.1", "rank=8 · mix.plays=0.1"]
    assert labels(["a", "b"], [{}, {}], ["a", "b"]) == ["a", "b"]
    assert labels([""], [{}], ["default"]) == ["default"]
    assert labels(["a", "a"], [{"k": 1}, {"k": 1.0}], ["k=1", "k=1.0"]) == ["a · k=1", "a · k=1.0"]
    assert short_keys([{"method.a.rank": 1, "method.b.rank": 2, "optimizer.learning_rate": 3}]) == {
        "method.a.rank": "method.a.rank",
        "method.b.rank": "method.b.rank",
        "optimizer.learning_rate": "learning_rate",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["lora", "replay"], "lora+replay"),
        ([], "none"),
        (None, "null"),
        (True, "true"),
        (1e-05, "1e-05"),
        (4, "4"),
    ],
)
def test_value_text(value: Any, text: str) -> None:
    assert value_text(value) == text


def test_numbers_as_people_read_them() -> None:
    assert [decimals([value]) for value in (0.8, 1.3, 67.8, 1452.0, 0.0, NAN, 0.004)] == [3, 3, 2, 0, 3, 3, 5]
    assert fixed(-0.5, 2) == "\N{MINUS SIGN}0.50"
    assert fixed(-0.0001, 2) == "0.00"
    assert with_interval(0.5, 0.4, 0.6, 3) == "0.500 ± 0.100"
    assert with_interval(0.5, NAN, NAN, 3) == "0.500"
    assert with_interval(NAN, NAN, NAN, 3) == count(NAN) == duration(NAN) == ""
    assert count(1234567.0) == "1,234,567"
    assert [duration(value) for value in (9.34, 252, 7500)] == ["9.3 s", "4 min 12 s", "2 h 05 min"]


def test_axis_titles_tell_what_a_headline_is(tmp_path: Path) -> None:
    losses = record(tmp_path, [trial(1)], metrics={"probe": "perplexity"}, higher_is_better=False)
    assert axis_titles(losses.columns) == {
        "learned": "learned: fall of accuracy",
        "forgotten": "forgotten: rise of accuracy",
        "forgotten_base": "forgotten_base: probes' rise of perplexity",
    }
    mixed = record(tmp_path, [trial(1)], metrics={"first": "rouge"})
    assert axis_titles(mixed.columns)["learned"] == "learned"


def said(study: StudyRecord) -> str:
    return " ".join(findings(study, described(configurations(study))))


def test_findings_name_the_best_and_the_front(tmp_path: Path) -> None:
    text = said(record(tmp_path, [*rank_sweep(), trial(1, swept={"method.lora.rank": 3}, forgotten=5.0)]))
    assert "<strong>rank=64</strong> learned most: 6.410 ± 0.025." in text
    assert "<strong>rank=2</strong> forgot least: 0.110 ± 0.025." in text
    assert "4 of 5 on the Pareto front" in text
    assert "Means over 1 to 3 replicates" in text


def test_findings_say_what_is_not_known(tmp_path: Path) -> None:
    joint = [row | {"forgotten": NAN} for row in rank_sweep(seeds=1)]
    text = said(record(tmp_path, joint, stages=1))
    assert "forgotten_base, what the base lost on the probes, stands in" in text
    assert "<strong>rank=2</strong> forgot least: 0.040." in text
    assert "One seed only, so there is no interval" in text
    mixed = [trial(1, learned=NAN, forgotten=NAN, metric=None)]
    text = said(record(tmp_path, mixed, metrics={"first": "rouge"}))
    assert "<em>learned</em> is undefined: rouge, accuracy are never averaged." in text
    assert said(record(tmp_path, [trial(1, status="unfinished")])) == "No trial has finished yet."


def test_findings_count_overlapping_intervals(tmp_path: Path) -> None:
    trials = [
        trial(
            10 * arm + seed, arm=f"arm {arm}", seed=seed, learned=0.1 * (arm == 2) + (0.2 + 0.05 * arm) * seed
        )
        for arm in range(3)
        for seed in range(2)
    ]
    near = "within noise of it: <strong>arm 1</strong>, <strong>arm 0</strong>."
    assert f"<strong>arm 2</strong> learned most: 0.250 ± 1.906; {near}" in said(record(tmp_path, trials))


# Pictures and pages


def shapes(folder: Path) -> dict[str, StudyRecord]:
    """Studies of every shape."""
    nothing = [trial(1, status="failed", error="<b>bold</b> & broken"), trial(2, seed=1, status="unfinished")]
    hostile = [trial(number, arm=f"<script>alert({number})</script> & 'arm'") for number in range(2)]
    long = [
        trial(n, swept={"a_very_long_group.of_an_even_longer_parameter": "value" * 30 + str(n)})
        for n in range(3)
    ]
    many = [
        trial(
            n,
            arm=f"arm {n % 2}",
            swept={"rank": 2**n, "rate": 0.1 * n},
            learned=math.sin(n),
            forgotten=math.cos(n),
        )
        for n in range(60)
    ]
    joint = [row | {"forgotten": NAN} for row in rank_sweep(seeds=1)]
    mixed = [trial(n, arm=f"arm {n}", learned=NAN, forgotten=NAN, metric=None) for n in range(2)]
    return {
        "one trial": record(folder, [trial(1)]),
        "sweep": record(folder, rank_sweep()),
        "no probes": record(folder, [row | {"forgotten_base": NAN} for row in rank_sweep()], probes=()),
        "joint": record(folder, joint, stages=1),
        "mixed metrics": record(folder, mixed, metrics={"first": "rouge"}),
        "nothing finished": record(folder, nothing),
        "partly failed": record(folder, [*rank_sweep(), *nothing]),
        "hostile names": record(folder, hostile + nothing),
        "infinite": record(folder, [trial(n, arm=f"arm {n}", forgotten=math.inf) for n in range(2)]),
        "long names": record(folder, long),
        "many": record(folder, many),
    }


SHAPES = tuple(shapes(Path()))


class Page(HTMLParser):
    """What a page's tags are, and what they load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "data", "action"}]


@pytest.mark.parametrize("shape", SHAPES)
def test_report_of_every_shape(tmp_path: Path, shape: str) -> None:
    study = shapes(tmp_path)[shape]
    path = write_report(study)
    assert path == tmp_path / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"link", "iframe", "img", "b"} & set(page.tags)
    assert all(address.startswith("report/") and (tmp_path / address).is_file() for address in page.addresses)
    assert "<script>alert" not in text
    assert "<b>bold" not in text
    for picture in (tmp_path / "report").iterdir():
        assert_is_picture(picture)
    assert not list(tmp_path.glob(".*"))


def test_page_counts_and_names_what_failed(tmp_path: Path) -> None:
    failed = trial(1, arm="lora", seed=1, status="failed", error="RuntimeError: the loss is <nan>")
    study = record(
        tmp_path, [trial(2, arm="lora"), failed, trial(3, arm="lora", seed=2, status="unfinished")]
    )
    text = write_report(study).read_text(encoding="utf-8")
    assert ">1, 1 failed, 1 unfinished</td>" in text
    assert "RuntimeError: the loss is &lt;nan&gt;" in text
    assert "Left out of all means: 1 failed and 1 unfinished." in text


@pytest.mark.parametrize(
    ("trials", "arm", "interval", "none"),
    [
        ([trial(1)], False, False, True),
        ([trial(1, arm="lora")], True, False, True),
        (rank_sweep(), False, True, False),
        ([*rank_sweep(), trial(1, arm="full")], True, True, True),
    ],
)
def test_page_explains_the_words_and_signs_that_it_has(
    tmp_path: Path, trials: list[dict[str, Any]], arm: bool, interval: bool, none: bool
) -> None:
    text = write_report(record(tmp_path, trials)).read_text(encoding="utf-8")
    page, _ = text.split("<script>", 1)
    assert ("An arm is a named way of training." in page) == arm
    assert page.find("An arm is a named") == page.lower().find("an arm ")
    assert ("± is half a 95 % t-interval over replicates. " in page) == interval
    assert ("One replicate has no interval, and so no ±." in page) == none
    assert ("learned most in its arm" in page) == (arm and interval)


def test_page_shows_what_was_found_in_the_data(tmp_path: Path) -> None:
    study = record(tmp_path, [trial(1)])
    assert "<h2>Data</h2>" not in write_report(study).read_text(encoding="utf-8")
    splits = [
        SplitRecord("plays <train>", 1234, 500, 9000, 17, 80, 40, 0, [Bar(0, 40, 400), Bar(40, 80, 100)]),
        SplitRecord("plays (test)", 7, 7, labels=3, counts={"<good>": 4, "bad": 2, "odd": 1}),
    ]
    found = [Finding("plays <train>", "9 rows are <b>", "look at them")]
    write_data(tmp_path / FILE, {"one": DataRecord(splits, found), "again": DataRecord(splits[:1], found)})
    text = write_report(study).read_text(encoding="utf-8")
    row = text[text.index("<h2>Data</h2>") :].split("<tbody>")[1].split("</tbody>")[0]
    cells = [each.split(">")[1] for each in row.split("</td") if "<td" in each]
    assert len(cells) == 14
    assert "500 of 1,234</td>" in row
    assert "plays (test): &lt;good&gt; 4, bad 2, odd 1" in text
    assert "<td>9,000</td><td>17</td><td>80</td><td>40</td><td>–</td>" in row
    assert "<td>7</td><td>–</td><td>–</td><td>–</td><td>–</td><td>3</td>" in row
    assert text.count("9 rows are &lt;b&gt;; ") == 1
    for name in ("lengths.svg", "lengths.png"):
        assert_is_picture(tmp_path / "report" / name)


def assert_is_picture(path: Path) -> None:
    if path.suffix == ".svg":
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        return
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    assert path.suffix == ".png"
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert min(width, height) > 100


def charts(study: StudyRecord) -> dict[str, list[dict[str, Any]]]:
    """The specifications of a study's pictures, by name."""
    frame = described(configurations(study))
    return {picture.name: [chart.to_dict() for chart in picture.charts] for picture in pictures(study, frame)}


def test_pictures_of_a_sweep(tmp_path: Path) -> None:
    drawn = charts(record(tmp_path, rank_sweep()))
    scatters = ["learned-forgotten", "learned-forgotten_base"]
    assert list(drawn) == [*scatters, "retention", "scores", "sweep-method.lora.rank", "importance"]
    assert len(drawn["scores"]) == 4
    assert len(drawn["sweep-method.lora.rank"]) == 4  # one a measure, and what the ranks trade
    points = next(iter(drawn["learned-forgotten"][0]["datasets"].values()))
    assert len(points) == 4  # one a configuration, not one a trial
    assert [point["group"] for point in points] == ["1  rank=2", "2  rank=4", "3  rank=8", "4  rank=64"]


def test_pictures_leave_out_what_is_undefined(tmp_path: Path) -> None:
    every = shapes(tmp_path)
    assert list(charts(every["joint"])) == ["learned-forgotten_base", "scores", "sweep-method.lora.rank"]
    assert "learned-forgotten_base" not in charts(every["no probes"])
    assert list(charts(every["mixed metrics"])) == ["retention", "scores"]
    assert charts(every["nothing finished"]) == {}


def test_many_configurations_share_colours_and_one_heat_map(tmp_path: Path) -> None:
    drawn = charts(shapes(tmp_path)["many"])
    points = next(iter(drawn["learned-forgotten"][0]["datasets"].values()))
    assert {point["group"] for point in points} == {"arm 0", "arm 1"}
    assert len(drawn["scores"]) == 1
    assert len(drawn["scores"][0]["params"][0]["bind"]["options"]) == 60


def grid() -> list[dict[str, Any]]:
    """Two arms, 20 ranks, 3 learning rates: more lines than there are colours for the learning rate."""
    return [
        trial(
            1000 * arm + 10 * rank + rate,
            arm=f"arm {arm}",
            swept={"method.lora.rank": rank, "optimizer.learning_rate": 10.0**-rate},
            learned=0.1 * arm + 0.01 * rank,
            forgotten=0.01 * arm + 0.001 * rank * rate,
        )
        for arm in (1, 2)
        for rank in range(1, 21)
        for rate in (2, 3, 4)
    ]


def test_too_many_lines_become_medians_and_quartiles(tmp_path: Path) -> None:
    study = record(tmp_path, grid())
    frame = described(configurations(study))
    middle = medians(sweep_points(frame, "optimizer.learning_rate"), "learned")
    assert middle[["rest", "value"]].to_numpy().tolist() == [
        [arm, rate] for arm in ("arm 1", "arm 2") for rate in (0.01, 0.001, 0.0001)
    ]
    # Ranks 1 to 20: the median is 10.5, the quartiles 5.75 and 15.25.
    expected = [[0.1 * arm + 0.01 * rank for rank in (5.75, 10.5, 15.25)] for arm in (1, 1, 1, 2, 2, 2)]
    assert_allclose(middle[["learned_low", "learned", "learned_high"]], expected)
    assert middle["label"].iloc[0] == "arm 1 · 0.01: median of 20"
    assert middle["learned_text"].iloc[0] == "0.205 (0.158 to 0.253)"

    every = {picture.name: picture for picture in pictures(study, frame)}
    assert {name: picture.crowded for name, picture in every.items()} == {
        "learned-forgotten": True,
        "learned-forgotten_base": True,
        "retention": True,
        "scores": False,
        "sweep-method.lora.rank": False,
        "sweep-optimizer.learning_rate": True,
        "importance": False,
    }
    chart = every["sweep-optimizer.learning_rate"].charts[0].to_dict()
    assert len(next(iter(chart["datasets"].values()))) == 6
    assert "medians over them" in write_report(study).read_text(encoding="utf-8")


def test_no_median_among_infinite_scores(tmp_path: Path) -> None:
    rows = [row | {"learned": math.inf} if row["arm"] == "arm 1" else row for row in grid()]
    points = sweep_points(described(configurations(record(tmp_path, rows))), "optimizer.learning_rate")
    assert_allclose(medians(points, "learned")["learned"], [NAN] * 3 + [0.305] * 3)


def test_of_many_points_the_front_is_numbered_where_numbers_keep_apart(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "learned": [0.0, 0.5, 0.51, 1.0, 0.4],
            "forgotten": [0.0, 0.5, 0.51, 1.0, 0.9],
            "front": [True, True, True, True, False],
        }
    )
    assert apart(frame[frame["front"]], frame, "forgotten") == [True, False, True, True, False]
    [chart, *_] = charts(shapes(tmp_path)["many"])["learned-forgotten"]
    points = next(iter(chart["datasets"].values()))
    numbered = {point["number"] for point in points if point["numbered"]}
    front = {point["number"] for point in points if point["pareto"]}
    assert 0 < len(numbered) <= len(front) < 60
    assert numbered <= front


def test_long_table_begins_with_the_front(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "learned": [0.1, 0.9, NAN, 0.3, 0.7],
            "pareto": [True, False, False, False, False],
            "pareto_base": [False, False, False, True, False],
        }
    )
    assert front_first(table).index.tolist() == [3, 0, 1, 4, 2]
    short, long = (write_report(record(tmp_path, rows)).read_text() for rows in (rank_sweep(), grid()))
    assert ('class="wide long"' in short, 'class="wide long"' in long) == (False, True)


def test_of_many_swept_values_some_are_marked() -> None:
    assert ticks([1, 2, 4]) == [1, 2, 4]
    assert ticks(list(range(1, 101))) == [1, 2, 4, 7, 14, 27, 52, 100]
    assert ticks([5.0 + each for each in range(15)]) == [5, 7, 9, 11, 13, 15, 17, 19]


def test_more_score_cells_than_altair_lets_through(tmp_path: Path) -> None:
    tasks = tuple(f"task {number}" for number in range(20))
    trials = [trial(number, swept={"rank": number}) for number in range(20)]
    study = record(tmp_path, trials, tasks, stages=20)
    assert len(score_cells(study, configurations(study))) > 5000
    assert write_report(study).is_file()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((2, 4, 8, 64), "log"),
        ((2, 4, 8), "linear"),
        ((0, 2, 64), "linear"),
        (("a", "b"), None),
        ((True, False), None),
    ],
)
def test_axis_fits_the_swept_values(tmp_path: Path, values: tuple[Any, ...], kind: str | None) -> None:
    trials = [trial(number, swept={"key": value}) for number, value in enumerate(values)]
    chart = charts(record(tmp_path, trials))["sweep-key"][0]
    assert chart["layer"][-1]["encoding"]["x"].get("scale", {}).get("type") == kind
    assert any(layer["mark"]["type"] == "line" for layer in chart["layer"]) == (kind is not None)


def test_only_what_varies_is_swept(tmp_path: Path) -> None:
    trials = [trial(n, swept={"same": 1, "rank": n, "list": ["lora"][:n]}) for n in range(2)]
    assert swept_keys(configurations(record(tmp_path, trials))) == ["rank", "list"]
    assert is_numeric([1, 2.5])
    assert not is_numeric([1, "2"])
    assert spans_decades([1e-4, 1e-2])
    assert not spans_decades([1, 10])


def test_importing_the_report_is_light() -> None:
    heavy = ("altair", "vl_convert", "pandas", "scipy", "jinja2", "torch")
    code = f"import sys, myosotis.report; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_writing_a_report_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_report import *\n"
        "write_report(record(Path(sys.argv[2]), rank_sweep())); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"
