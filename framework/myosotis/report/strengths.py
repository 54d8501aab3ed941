"""What a swept strength trades: learned against forgotten, from its smallest to its largest value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myosotis.report.axes import headline_scale
from myosotis.report.sweeps import is_crowded, is_numeric, line_colour, sweep_points

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

LEAST = 3
"""Values that make a curve."""
LABELLED = 4
"""So many lines have their values beside their points; more would cover each other."""


def strength_chart(
    frame: pd.DataFrame, key: str, forgotten: str, titles: dict[str, str]
) -> alt.LayerChart | None:
    """Draw a line for each setting of everything else through the values of `key`, which stand beside its points.

    None where there is no such line: of names, of too few values, or where each line would stand for several.

    Args:
        frame: what `described` gives.
        key: the swept key.
        forgotten: the vertical axis, `forgotten` or `forgotten_base`.
        titles: the axes' titles, by column.
    """
    import altair as alt

    points = sweep_points(frame, key).dropna(subset=["learned", forgotten])
    if is_crowded(frame, key) or not is_numeric(list(points["value"])) or points["value"].nunique() < LEAST:
        return None
    texts = ["learned_text", f"{forgotten}_text"]
    base = alt.Chart(
        points[["number", "value", "text", "rest", "label", "learned", forgotten, *texts]]
    ).encode(
        x=alt.X(
            "learned:Q",
            title=titles["learned"],
            scale=headline_scale(points, "learned"),
            axis=alt.Axis(tickCount=5),
        ),
        y=alt.Y(
            f"{forgotten}:Q",
            title=titles[forgotten],
            scale=headline_scale(points, forgotten),
            axis=alt.Axis(tickCount=6),
        ),
        color=line_colour(points),
    )
    details = [
        alt.Tooltip(
            f"{name}:N", title={"label": "configuration", "text": key}.get(name, name.removesuffix("_text"))
        )
        for name in ("label", "text", *texts)
    ]
    layers = [
        base.mark_line(strokeOpacity=0.8).encode(detail="rest:N", order="value:Q"),
        base.mark_circle(size=70, opacity=1).encode(tooltip=details),
    ]
    if points["rest"].nunique() <= LABELLED:
        layers.append(base.mark_text(align="left", dx=6, dy=8, fontSize=11).encode(text="text:N"))
    return alt.LayerChart(layer=layers)
