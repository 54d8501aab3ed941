"""The first picture: what each configuration learned against what it forgot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from myosotis.report.aggregate import FRONTS
from myosotis.report.axes import headline_scale
from myosotis.report.labels import value_text
from myosotis.report.theme import INK, PALETTE

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

NAMED_AT_MOST = 12
"""So many configurations get a colour and a line of the legend each; more share colours by group."""


def scatter(frame: pd.DataFrame, forgotten: str, titles: dict[str, str]) -> alt.LayerChart:
    """One numbered point a configuration, its intervals in both axes, and the Pareto front.

    Args:
        frame: what `configurations` gives, with the texts of `described`.
        forgotten: the vertical axis, `forgotten` or `forgotten_base`.
        titles: the axes' titles, by column.
    """
    import altair as alt

    points = frame.dropna(subset=["learned", forgotten])
    few = len(points) <= NAMED_AT_MOST
    points = points.assign(group=_names(points) if few else _groups(points))
    axis, over = alt.Axis(tickCount=6), headline_scale
    x = alt.X("learned:Q", title=titles["learned"], axis=axis, scale=over(points, "learned"))
    y = alt.Y(f"{forgotten}:Q", title=titles[forgotten], axis=axis, scale=over(points, forgotten))
    base = alt.Chart(points).encode(x=x, y=y)
    discs = base.mark_circle(size=330 if few else 70, opacity=1)
    layers = [
        *_front(base, FRONTS[forgotten], ring=520 if few else 190),
        *_bars(alt.Chart(points), x, y, forgotten, _colour(points)),
        discs.encode(color=_colour(points), tooltip=_details()),
    ]
    if few:
        number = base.mark_text(color="white", fontSize=11, fontWeight="bold")
        layers.append(number.encode(text="number:N", tooltip=_details()))
    return alt.LayerChart(layer=layers)


def _front(base: alt.Chart, flag: str, ring: int) -> list[alt.Chart]:
    """The Pareto front: the least forgotten for what is learned, as steps, and its points ringed."""
    front = base.transform_filter(f"datum.{flag}")
    steps = front.mark_line(interpolate="step-before", strokeDash=[5, 4], stroke=INK, opacity=0.45)
    rings = front.mark_point(size=ring, stroke=INK, strokeWidth=1.5, filled=False)
    return [steps.encode(order="learned:Q"), rings]


def _bars(chart: alt.Chart, x: alt.X, y: alt.Y, forgotten: str, colour: Any) -> list[alt.Chart]:
    """The intervals; one replicate has none."""
    replicated = chart.transform_filter("isValid(datum.learned_low)")
    bars = replicated.mark_rule(opacity=0.7, strokeWidth=1.5).encode(color=colour)
    return [
        bars.encode(x="learned_low:Q", x2="learned_high:Q", y=y),
        bars.encode(x=x, y=f"{forgotten}_low:Q", y2=f"{forgotten}_high:Q"),
    ]


def _names(points: pd.DataFrame) -> list[str]:
    return [f"{number}  {label}" for number, label in zip(points["number"], points["label"], strict=True)]


def _groups(points: pd.DataFrame) -> list[str]:
    """What colours many points: the arm, or else the first swept value, that has few enough values."""
    keys = dict.fromkeys(key for swept in points["swept"] for key in swept)
    candidates = [list(points["arm"])]
    candidates += [[value_text(swept.get(key, "")) for swept in points["swept"]] for key in keys]
    fitting = (names for names in candidates if 1 < len(set(names)) <= len(PALETTE))
    return next(fitting, ["configuration"] * len(points))


def _colour(points: pd.DataFrame) -> Any:
    import altair as alt

    names = list(dict.fromkeys(points["group"]))
    legend = alt.Legend(columns=1 if max(map(len, names), default=0) > 24 else 3, title=None)
    scale = alt.Scale(domain=names, range=list(PALETTE[: len(names)]))
    return alt.Color("group:N", scale=scale, legend=legend if len(names) > 1 else None)


def _details() -> list[Any]:
    """What hovering shows."""
    import altair as alt

    shown = {
        "configuration": "configuration",
        "learned": "learned_text",
        "forgotten": "forgotten_text",
        "forgotten (base)": "forgotten_base_text",
        "trainable parameters": "parameters_text",
        "time": "time_text",
        "replicates": "n",
    }
    return [alt.Tooltip(f"{field}:N", title=title) for title, field in shown.items()]
