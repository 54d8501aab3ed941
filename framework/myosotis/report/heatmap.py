"""The score matrices as heat maps: orange is worse than the base, blue is better."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myosotis.report.scatter import NAMED_AT_MOST
from myosotis.report.theme import BETTER, INK, SAME, WORSE

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


def heat_maps(frame: pd.DataFrame, cells: pd.DataFrame) -> list[alt.LayerChart]:
    """One heat map a configuration; where they are many, one with a list to choose from.

    `frame` is what `configurations` gives, `cells` what `score_cells` gives.
    """
    import altair as alt

    shown = frame[frame["number"].isin(cells["number"])]
    names = {n: f"{n}  {label}" for n, label in zip(shown["number"], shown["label"], strict=True)}
    if len(shown) <= NAMED_AT_MOST:
        last = list(names)[-1]
        return [
            _heat_map(cells[cells["number"] == n], alt.Title(name.split(" · ")), has_legend=n == last)
            for n, name in names.items()
        ]
    best = shown.sort_values(["pareto", "pareto_base", "learned"], ascending=False)["number"].iloc[0]
    choice = alt.binding_select(options=list(names.values()), name="configuration ")
    chosen = alt.param("chosen", value=names[best], bind=choice)
    chart = _heat_map(cells.assign(name=cells["number"].map(names)), alt.Title(alt.expr("chosen")))
    return [chart.add_params(chosen).transform_filter("datum.name == chosen")]


def _heat_map(cells: pd.DataFrame, title: alt.Title, *, has_legend: bool = True) -> alt.LayerChart:
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
    drawn = [name for name in ("name", "column", "row", "metric", "text", "change") if name in cells]
    base = alt.Chart(cells[drawn].round({"change": 4})).encode(x=x, y=y, tooltip=details)
    colour = alt.Color("change:Q", scale=scale, legend=legend if has_legend else None)
    measured = base.transform_filter("isValid(datum.change)")
    rectangles = measured.mark_rect(stroke="white", strokeWidth=1).encode(color=colour)
    on_strong = alt.when("abs(datum.change) > 0.75").then(alt.value("white"))
    on_cell = on_strong.when("isValid(datum.change)").then(alt.value("#222")).otherwise(alt.value(INK))
    numbers = base.mark_text().encode(text="text:N", color=on_cell)
    step = alt.Step(max(56, 8 * int(cells["text"].str.len().max())))
    return alt.LayerChart(layer=[rectangles, numbers]).properties(
        title=title, width=step, height=alt.Step(34)
    )
