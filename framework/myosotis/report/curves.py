"""Each task's score over the steps of a trial, where it was scored within stages too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myosotis.ledger import StudyRecord
from myosotis.report.aggregate import half_width, scores_once
from myosotis.report.axes import value_scale
from myosotis.report.numbers import decimals, with_interval
from myosotis.report.panels import chooser, is_crowded, panels, title
from myosotis.report.theme import INK, PALETTE

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


def curve_points(record: StudyRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """Average each panel's scores by the headline's metrics over its finished trials, step by step.

    Columns: `panel`, `number`, `title`, `task`, `metric`, `steps` since the trial's beginning, `value` in the
    metric's own direction, `low` and `high`, its 95 % t-interval, and `ends`, whether a stage ends there. Empty
    where no trial was scored within a stage.
    """
    scores = scores_once(record).merge(record.columns[["task", "metric"]]).merge(panels(record, frame))
    if scores.empty:
        return scores
    lengths = scores.groupby(["trial", "stage"])["step"].max()
    before = lengths.groupby(level="trial").cumsum() - lengths
    scores = scores.merge(before.rename("before").reset_index()).merge(lengths.rename("length").reset_index())
    scores = scores.assign(steps=scores["before"] + scores["step"], ends=scores["step"] == scores["length"])
    if scores["ends"].all():
        return scores[:0]
    keys = ["panel", "number", "title", "task", "metric", "steps", "ends"]
    points = scores.groupby(keys, sort=False)["value"].agg(value="mean", spread="std", n="size").reset_index()
    half = half_width(points["spread"], points["n"])
    return points.assign(low=points["value"] - half, high=points["value"] + half)


def curve_charts(points: pd.DataFrame) -> list[alt.LayerChart]:
    """A chart a panel and metric, a line a task; where panels are many, one a metric with a list to choose from."""
    import altair as alt

    charts = []
    for _, rows in points.groupby("metric", sort=False):
        scale = value_scale(rows, "value")
        titles = list(dict.fromkeys(rows["title"]))
        if is_crowded(titles):
            chosen = chooser(titles, titles[0], "configuration")
            chart = _chart(rows, alt.Title(alt.expr("chosen")), scale).add_params(chosen)
            charts.append(chart.transform_filter("datum.title == chosen"))
        else:
            charts += [_chart(rows[rows["title"] == each], title(each), scale) for each in titles]
    return charts


def _chart(points: pd.DataFrame, heading: alt.Title, scale: alt.Scale) -> alt.LayerChart:
    import altair as alt

    places = decimals(points["value"])
    ends = zip(points["value"], points["low"], points["high"], strict=True)
    points = points.assign(text=[with_interval(*each, places) for each in ends])
    tasks = list(dict.fromkeys(points["task"]))
    colours = alt.Color(
        "task:N",
        scale=alt.Scale(domain=tasks, range=[PALETTE[n % len(PALETTE)] for n in range(len(tasks))]),
        legend=alt.Legend(title=None, columns=3),
    )
    steps = alt.Scale(domain=[0, int(points["steps"].max())])
    x = alt.X("steps:Q", title="optimizer steps", scale=steps, axis=alt.Axis(tickCount=6))
    drawn = ["number", "title", "task", "metric", "steps", "value", "low", "high", "text", "ends"]
    base = alt.Chart(points[drawn]).encode(x=x, color=colours)
    value = alt.Y("value:Q", title=points["metric"].iloc[0], scale=scale)
    details = [alt.Tooltip(f"{name}:N") for name in ("task", "metric", "steps", "text")]
    ends_of_stages = base.transform_filter("datum.ends").mark_rule(strokeDash=[2, 4], opacity=0.3)
    return alt.LayerChart(
        layer=[
            ends_of_stages.encode(color=alt.value(INK)),
            base.transform_filter("isValid(datum.low)")
            .mark_area(opacity=1, fillOpacity=0.15)
            .encode(y="low:Q", y2="high:Q"),
            base.mark_line(strokeOpacity=0.9).encode(y=value),
            base.mark_circle(size=30, opacity=1).encode(y=value, tooltip=details),
        ]
    ).properties(title=heading)
