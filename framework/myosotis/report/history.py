"""A search, suggestion by suggestion: what each scored, and the best so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from myosotis.ledger import StudyRecord, read_search
from myosotis.report.axes import value_scale
from myosotis.report.labels import short_keys, value_text
from myosotis.report.theme import INK, PALETTE

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

COLUMNS = ("objective", "number", "state", "value", "best", "text")


def history_points(record: StudyRecord) -> pd.DataFrame:
    """One row a suggestion and objective, in the order in which they were made; none where there was no search.

    Columns: `objective`; `number`, from 0, as Optuna counts; `state`, complete or pruned; `value`, of a pruned one
    that of its last evaluation; `best` of the complete ones until then (NaN before the first); `text`, its
    parameters.
    """
    import pandas as pd

    found = read_search(record.folder)
    shown = [
        each for each in found["suggestions"] if each["state"] in {"complete", "pruned"} and each["values"]
    ]
    keys = short_keys([each["params"] for each in shown])
    rows: list[tuple[Any, ...]] = []
    for place, (objective, direction) in enumerate(found["directions"].items()):
        best = float("nan")
        for each in shown:
            value = each["values"][place]
            if each["state"] == "complete":
                better = max if direction == "maximize" else min
                best = value if best != best else better(best, value)
            text = " ".join(f"{keys[key]}={value_text(own)}" for key, own in each["params"].items())
            rows.append((objective, each["number"], each["state"], value, best, text))
    return pd.DataFrame(rows, columns=COLUMNS)


def history_charts(points: pd.DataFrame) -> list[alt.LayerChart]:
    """A chart an objective: a point a suggestion, and a line of the best so far."""
    return [_chart(rows, str(name)) for name, rows in points.groupby("objective", sort=False)]


def _chart(points: pd.DataFrame, objective: str) -> alt.LayerChart:
    import altair as alt

    # Told, for the browser complains of a layer of which a filter leaves nothing to take it from.
    numbers = alt.Scale(domain=[0, max(1, int(points["number"].max()))])
    axis = alt.Axis(tickCount=6, format="d")
    base = alt.Chart(points).encode(x=alt.X("number:Q", title="suggestion", scale=numbers, axis=axis))
    y = alt.Y("value:Q", title=objective, scale=value_scale(points, "value", "value", "best"))
    details = [alt.Tooltip(f"{name}:N") for name in ("number", "state", "value", "text")]
    return alt.LayerChart(
        layer=[
            base.transform_filter("isValid(datum.best)")
            .mark_line(interpolate="step-after", color=PALETTE[0])
            .encode(y=alt.Y("best:Q", title=objective)),
            base.transform_filter("datum.state == 'complete'")
            .mark_circle(size=50, opacity=1, color=PALETTE[0])
            .encode(y=y, tooltip=details),
            base.transform_filter("datum.state == 'pruned'")
            .mark_point(shape="cross", size=40, angle=45, opacity=0.6, filled=True, color=INK)
            .encode(y=y, tooltip=details),
        ]
    )
