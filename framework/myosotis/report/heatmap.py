"""The score matrices as heat maps: orange is worse than the base, blue is better."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myosotis.report.panels import chooser, is_crowded, title
from myosotis.report.theme import BETTER, INK, SAME, WORSE

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


def heat_maps(frame: pd.DataFrame, cells: pd.DataFrame) -> list[alt.LayerChart]:
    """One heat map a panel; where they are many, one with a list to choose from.

    `frame` is what `configurations` gives, `cells` what `score_cells` gives.
    """
    import altair as alt

    titles = list(dict.fromkeys(cells["title"]))
    if not is_crowded(titles):
        return [
            _heat_map(cells[cells["title"] == each], title(each), has_legend=each == titles[-1])
            for each in titles
        ]
    shown = frame[frame["number"].isin(cells["number"])]
    best = shown.sort_values(["pareto", "pareto_base", "learned"], ascending=False)["number"].iloc[0]
    first = cells.loc[cells["number"] == best, "title"].iloc[0]
    chart = _heat_map(cells, alt.Title(alt.expr("chosen")))
    chosen = chooser(titles, first, "configuration")
    return [chart.add_params(chosen).transform_filter("datum.title == chosen")]


def _heat_map(cells: pd.DataFrame, heading: alt.Title, *, has_legend: bool = True) -> alt.LayerChart:
    import altair as alt

    x = alt.X("column:N", sort=None, title=None)
    x = x.axis(orient="top", labelAngle=-35, labelLimit=150, domain=False, ticks=False, labelOverlap=False)
    y = alt.Y("row:N", sort=None, title=None, axis=alt.Axis(domain=False, ticks=False, labelOverlap=False))
    scale = alt.Scale(domain=[-1, 0, 1], range=[WORSE, SAME, BETTER], interpolate="lab")
    legend = alt.Legend(
        title="against the base",
        labelExpr="datum.value < 0 ? 'worse' : datum.value > 0 ? 'better' : 'same'",
        values=[-1, 0, 1],
        gradientLength=140,
        gradientThickness=8,
    )
    details = [alt.Tooltip(f"{name}:N") for name in ("column", "row", "metric", "text")]
    drawn = ["number", "title", "column", "row", "metric", "text", "change"]
    base = alt.Chart(cells[drawn].round({"change": 4})).encode(x=x, y=y, tooltip=details)
    colour = alt.Color("change:Q", scale=scale, legend=legend if has_legend else None)
    measured = base.transform_filter("isValid(datum.change)")
    rectangles = measured.mark_rect(stroke="white", strokeWidth=1).encode(color=colour)
    on_strong = alt.when("abs(datum.change) > 0.75").then(alt.value("white"))
    on_cell = on_strong.when("isValid(datum.change)").then(alt.value("#222")).otherwise(alt.value(INK))
    numbers = base.mark_text().encode(text="text:N", color=on_cell)
    step = alt.Step(max(56, 8 * int(cells["text"].str.len().max())))
    return alt.LayerChart(layer=[rectangles, numbers]).properties(
        title=heading, width=step, height=alt.Step(34)
    )
