"""What each swept parameter does: learned and forgotten against its values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from myosotis.ledger import HEADLINE
from myosotis.report.axes import headline_scale, spans_decades, spread_scale
from myosotis.report.labels import label, short_keys, value_text
from myosotis.report.numbers import decimals, fixed
from myosotis.report.theme import PALETTE

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

TICKS = 8
"""So many swept values are marked on their axis."""


def swept_keys(frame: pd.DataFrame) -> list[str]:
    """The keys that take several values among the configurations that have them."""
    keys = dict.fromkeys(key for swept in frame["swept"] for key in swept)
    return [key for key in keys if sweep_points(frame, key)["text"].nunique() > 1]


def sweep_points(frame: pd.DataFrame, key: str) -> pd.DataFrame:
    """The configurations that have the key, with its `value`, as `text` too, and their `rest`.

    `rest` is what else tells them apart, the arm and the other swept values: one line of the picture.
    """
    rows = frame[[key in swept for swept in frame["swept"]]]
    arms = rows["arm"] if frame["arm"].nunique() > 1 else [""] * len(rows)
    keys = short_keys(frame["swept"])
    rest = [
        label(arm, {name: value for name, value in swept.items() if name != key}, keys)
        for arm, swept in zip(arms, rows["swept"], strict=True)
    ]
    values = [swept[key] for swept in rows["swept"]]
    return rows.assign(value=values, text=[value_text(value) for value in values], rest=rest)


def is_crowded(frame: pd.DataFrame, key: str) -> bool:
    """Whether a key has more lines than colours: then each line stands for all settings of an arm."""
    return sweep_points(frame, key)["rest"].nunique() > len(PALETTE)


def sweep_charts(frame: pd.DataFrame, key: str, titles: dict[str, str]) -> list[alt.LayerChart]:
    """One chart for each of learned, forgotten and forgotten_base that has a value."""
    points, crowded = sweep_points(frame, key), is_crowded(frame, key)
    measured = [name for name in HEADLINE if points[name].notna().any()]
    return [
        _chart(medians(points, name) if crowded else points, key, name, titles[name], crowded=crowded)
        for name in measured
    ]


def medians(points: pd.DataFrame, headline: str) -> pd.DataFrame:
    """One row an arm and swept value: the median over its settings of everything else, and the quartiles.

    The columns are those of `sweep_points`, the quartiles in the interval's place. Too many arms are one.
    """
    import pandas as pd

    arms = points["arm"] if points["arm"].nunique() <= len(PALETTE) else "all"
    rows = []
    for (arm, text), settings in points.assign(arm=arms).groupby(["arm", "text"], sort=False):
        with np.errstate(invalid="ignore"):  # beside an infinite score there is no quartile
            low, middle, high = settings[headline].quantile([0.25, 0.5, 0.75])
        told = f"{arm} · {text}: median of {len(settings)}".removeprefix(" · ")
        rows.append((settings["value"].iloc[0], text, arm, told, middle, low, high))
    ends = [headline, f"{headline}_low", f"{headline}_high"]
    frame = pd.DataFrame(rows, columns=["value", "text", "rest", "label", *ends])
    places = decimals(frame[headline])
    between = zip(*(frame[end] for end in ends), strict=True)
    texts = [f"{fixed(a, places)} ({fixed(b, places)} to {fixed(c, places)})" for a, b, c in between]
    return frame.assign(**{f"{headline}_text": texts})


def file_name(key: str) -> str:
    """A file's name for the picture of a key."""
    return "sweep-" + re.sub(r"[^\w.-]+", "_", key)


def is_numeric(values: list[Any]) -> bool:
    """Whether all are numbers; true and false are none."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _chart(points: pd.DataFrame, key: str, headline: str, title: str, *, crowded: bool) -> alt.LayerChart:
    import altair as alt

    numeric = is_numeric(list(points["value"]))
    points = points if numeric else points.assign(value=points["text"])
    x = _numeric_axis(points, key) if numeric else _named_axis(key)
    y = alt.Y(
        f"{headline}:Q", title=title, axis=alt.Axis(tickCount=6), scale=headline_scale(points, headline)
    )
    details = [
        alt.Tooltip("label:N", title="configuration"),
        alt.Tooltip(f"{headline}_text:N", title=headline),
    ]
    drawn = ["number", "value", "rest", "label", *(headline + end for end in ("", "_low", "_high", "_text"))]
    chart = alt.Chart(points.dropna(subset=[headline]).reindex(columns=drawn))
    base = chart.encode(x=x, color=line_colour(points), detail="rest:N")
    replicated = base.transform_filter(f"isValid(datum.{headline}_low)")
    bars = replicated.mark_rule(strokeOpacity=0.7, strokeWidth=1.5)
    ends = replicated.mark_area(opacity=1, fillOpacity=0.15) if crowded and numeric else bars
    layers = [ends.encode(y=f"{headline}_low:Q", y2=f"{headline}_high:Q")]
    if numeric:
        layers.append(base.mark_line(strokeOpacity=0.8).encode(y=y))
    layers.append(base.mark_circle(size=70, opacity=1).encode(y=y, tooltip=details))
    return alt.LayerChart(layer=layers)


def _numeric_axis(points: pd.DataFrame, key: str) -> alt.X:
    import altair as alt

    values = sorted(set(points["value"]))
    # What a search has found has more digits than an axis has room for.
    axis = alt.Axis(
        values=ticks(values), format="~g" if all(value == int(value) for value in values) else ".3~g"
    )
    return alt.X("value:Q", title=key, scale=spread_scale(values), axis=axis)


def ticks(values: list[float]) -> list[float]:
    """The values themselves; of many, those nearest to evenly spaced ones, on a logarithm where it fits."""
    if len(values) <= TICKS:
        return values
    spaced = np.geomspace if spans_decades(values) else np.linspace
    return sorted(
        {min(values, key=lambda each: abs(each - at)) for at in spaced(values[0], values[-1], TICKS)}
    )


def _named_axis(key: str) -> alt.X:
    import altair as alt

    return alt.X("value:N", title=key, sort=None, axis=alt.Axis(labelAngle=-25, labelLimit=120))


def line_colour(points: pd.DataFrame) -> Any:
    """The colours of a picture's lines, by their `rest`."""
    import altair as alt

    names = list(dict.fromkeys(points["rest"]))
    if not 1 < len(names) <= len(PALETTE):
        return alt.value(PALETTE[0])
    legend = alt.Legend(title=None, columns=1 if max(map(len, names)) > 14 else 2)
    scale = alt.Scale(domain=names, range=list(PALETTE[: len(names)]))
    return alt.Color("rest:N", legend=legend, scale=scale)
