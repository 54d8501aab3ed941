"""The first picture: what each configuration learned against what it forgot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from myosotis.report.aggregate import FRONTS
from myosotis.report.axes import headline_scale
from myosotis.report.colours import colour, is_few
from myosotis.report.theme import INK

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

DETAILS = {
    "configuration": "configuration",
    "learned": "learned_text",
    "forgotten": "forgotten_text",
    "forgotten (base)": "forgotten_base_text",
    "trainable parameters": "parameters_text",
    "time": "time_text",
    "replicates": "n",
}
"""What hovering shows, by its heading."""


def scatter(frame: pd.DataFrame, forgotten: str, titles: dict[str, str]) -> alt.LayerChart:
    """One numbered point a configuration, its intervals in both axes, and the Pareto front.

    Args:
        frame: what `configurations` gives, with the texts of `described` and `grouped`.
        forgotten: the vertical axis, `forgotten` or `forgotten_base`.
        titles: the axes' titles, by column.
    """
    import altair as alt

    flag = FRONTS[forgotten]
    points = frame.dropna(subset=["learned", forgotten])
    few = is_few(frame)
    points = points.assign(numbered=True if few else apart(points[points[flag]], points, forgotten))
    axis, over = alt.Axis(tickCount=6), headline_scale
    x = alt.X("learned:Q", title=titles["learned"], axis=axis, scale=over(points, "learned"))
    y = alt.Y(f"{forgotten}:Q", title=titles[forgotten], axis=axis, scale=over(points, forgotten))
    chart = alt.Chart(points[_drawn(forgotten)])
    base, colours = chart.encode(x=x, y=y), colour(frame, points)
    # Of many, the front stands out: the others are faint, without intervals and numbers.
    strong = alt.value(1) if few else alt.when(f"datum.{flag}").then(alt.value(1)).otherwise(alt.value(0.4))
    discs = base.mark_circle(size=330 if few else 60, opacity=1).encode(color=colours, fillOpacity=strong)
    layers = [
        *_front(base, flag, ring=520 if few else 150),
        *_bars(chart if few else chart.transform_filter(f"datum.{flag}"), x, y, forgotten, colours),
        discs.encode(tooltip=details()),
        _numbers(base, few=few),
    ]
    return alt.LayerChart(layer=layers)


def apart(front: pd.DataFrame, points: pd.DataFrame, forgotten: str) -> list[bool]:
    """For each point, whether it has a number: on the front, from the right, those that cover no other's."""
    axes = ["learned", forgotten]
    width, height = (float(points[name].max() - points[name].min()) or 1.0 for name in axes)
    kept: dict[Any, tuple[float, float]] = {}
    for index, x, y in front.sort_values("learned", ascending=False)[axes].itertuples():
        if all(abs(x - a) > 0.035 * width or abs(y - b) > 0.05 * height for a, b in kept.values()):
            kept[index] = (x, y)
    return [index in kept for index in points.index]


def _front(base: alt.Chart, flag: str, ring: int) -> list[alt.Chart]:
    """The Pareto front: the least forgotten for what is learned, as steps, and its points ringed."""
    front = base.transform_filter(f"datum.{flag}")
    steps = front.mark_line(interpolate="step-before", strokeDash=[5, 4], stroke=INK, opacity=0.45)
    rings = front.mark_point(size=ring, stroke=INK, strokeWidth=1.5, filled=False)
    return [steps.encode(order="learned:Q"), rings]


def _bars(chart: alt.Chart, x: alt.X, y: alt.Y, forgotten: str, colours: Any) -> list[alt.Chart]:
    """The intervals; one replicate has none."""
    replicated = chart.transform_filter("isValid(datum.learned_low)")
    bars = replicated.mark_rule(strokeOpacity=0.7, strokeWidth=1.5).encode(color=colours)
    return [
        bars.encode(x="learned_low:Q", x2="learned_high:Q", y=y),
        bars.encode(x=x, y=f"{forgotten}_low:Q", y2=f"{forgotten}_high:Q"),
    ]


def _numbers(base: Any, *, few: bool) -> Any:
    """The table's numbers: in the discs of few, beside those of many."""
    shown = base.transform_filter("datum.numbered").encode(text="number:N", tooltip=details())
    if few:
        return shown.mark_text(color="white", fontSize=11, fontWeight="bold")
    return shown.mark_text(color=INK, fontSize=11, align="left", dx=7, dy=11)


def _drawn(forgotten: str) -> list[str]:
    """The columns that the picture reads; the page holds each as text."""
    ends = [f"{name}{end}" for name in ("learned", forgotten) for end in ("", "_low", "_high")]
    return [*ends, FRONTS[forgotten], "number", "numbered", "group", *DETAILS.values()]


def details() -> list[Any]:
    """What hovering over a configuration shows."""
    import altair as alt

    return [alt.Tooltip(f"{field}:N", title=title) for title, field in DETAILS.items()]
