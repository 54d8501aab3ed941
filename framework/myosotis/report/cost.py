"""What learning and not forgetting cost: time, memory, parameters, bytes kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myosotis.report.aggregate import COSTS
from myosotis.report.axes import headline_scale, spread_scale
from myosotis.report.colours import colour, is_few
from myosotis.report.scatter import details

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

TITLES = {
    "seconds": "seconds of a trial",
    "peak_memory_bytes": "memory at its peak, MiB",
    "trainable_parameters": "trainable parameters",
    "kept_bytes": "kept for later stages, MiB",
}
UNITS = {"peak_memory_bytes": 2**20, "kept_bytes": 2**20}
"""What a cost is divided by."""


def cost_charts(frame: pd.DataFrame, forgotten: str, titles: dict[str, str]) -> list[alt.LayerChart]:
    """A chart each of learned and forgotten against each cost that differs.

    Args:
        frame: what `configurations` gives, with the texts of `described` and `grouped`.
        forgotten: `forgotten` or `forgotten_base`.
        titles: the headlines' titles, by column.
    """
    return [
        _chart(frame, points, cost, headline, titles[headline])
        for headline in ("learned", forgotten)
        for cost in COSTS
        if (points := frame.dropna(subset=[headline, cost]))[cost].nunique() > 1
    ]


def _chart(frame: pd.DataFrame, points: pd.DataFrame, cost: str, headline: str, title: str) -> alt.LayerChart:
    import altair as alt

    points = points.assign(cost=points[cost] / UNITS.get(cost, 1))
    scale = spread_scale(list(points["cost"]))
    axis = alt.Axis(tickCount=4, format="~s" if cost == "trainable_parameters" else "~f")
    few = is_few(frame)
    base = alt.Chart(points).encode(
        x=alt.X("cost:Q", title=TITLES[cost], scale=scale, axis=axis),
        y=alt.Y(
            f"{headline}:Q", title=title, scale=headline_scale(points, headline), axis=alt.Axis(tickCount=5)
        ),
    )
    colours = colour(frame, points, has_legend=not few)
    discs = base.mark_circle(size=230 if few else 50, opacity=1, fillOpacity=1 if few else 0.5)
    layers = [discs.encode(color=colours, tooltip=details())]
    if few:
        bars = base.transform_filter(f"isValid(datum.{headline}_low)").mark_rule(strokeOpacity=0.5)
        layers.insert(0, bars.encode(y=f"{headline}_low:Q", y2=f"{headline}_high:Q", color=colours))
        numbers = base.mark_text(color="white", fontSize=10, fontWeight="bold")
        layers.append(numbers.encode(text="number:N", tooltip=details()))
    return alt.LayerChart(layer=layers)
