"""Paths through learning and forgetting: of the models that a method makes of a trained one, as by its α."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from myosotis.ledger import StudyRecord
from myosotis.report.aggregate import finished_trials, last_scores, scores_once
from myosotis.report.colours import colour
from myosotis.report.numbers import decimals, fixed
from myosotis.report.theme import INK

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

SETTING = re.compile(r"(?P<path>.*?)\W*=(?P<value>[-+\d.e]+)$")
"""A variant's name that ends with a number, as `interpolated alpha=0.3`."""


def path_points(record: StudyRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """Give where each variant with a number in its name comes to, and the trained model itself.

    Columns: `number` of the configuration, `path` (the name without its number), `value` (NaN of the trained
    model), `gain`, by how much tasks are better than the base, and `loss`, by how much probes are worse: means over
    tasks or probes of one metric, then over replicates. Empty without variants, tasks or probes.
    """
    import pandas as pd

    columns = ["number", "path", "value", "gain", "loss"]
    variants = record.variants.drop_duplicates(["trial", "variant", "task", "metric"])
    names = variants["variant"].astype(str).str.extract(SETTING)
    variants = variants.assign(path=names["path"], value_of=names["value"].astype(float))
    variants = variants.dropna(subset=["value_of"])
    one = record.columns.groupby("role")["metric"].nunique()
    if variants.empty or not (one.get("task") == one.get("probe") == 1):
        return pd.DataFrame(columns=columns)
    trained = last_scores(record)
    trained = trained[trained["trial"].isin(variants["trial"])]
    trained = trained.merge(variants[["trial", "path"]].drop_duplicates()).assign(value_of=np.inf)
    scores = pd.concat([variants.merge(record.columns), trained])
    scored = scores_once(record)
    base = scored.loc[scored["stage"] == 0, ["trial", "task", "metric", "value"]]
    scores = scores.merge(base, on=["trial", "task", "metric"], suffixes=("", "_base"))
    sign = np.where(scores["higher_is_better"], 1.0, -1.0)
    scores["change"] = sign * (scores["value"] - scores["value_base"])
    keys = ["trial", "path", "value_of"]
    means = scores.groupby([*keys, "role"])["change"].mean().unstack("role").reset_index()
    numbers = finished_trials(record, frame)[["trial", "number"]]
    found = (
        means.merge(numbers).groupby(["number", "path", "value_of"])[["task", "probe"]].mean().reset_index()
    )
    found["value_of"] = found["value_of"].replace(np.inf, np.nan)
    return found.assign(probe=-found["probe"]).set_axis(columns, axis=1)


def path_chart(frame: pd.DataFrame, points: pd.DataFrame) -> alt.LayerChart:
    """Draw a line a path, from the smallest number to the trained model, which is ringed; the base is at 0, 0."""
    import altair as alt
    import pandas as pd

    places = {name: decimals(points[name]) for name in ("gain", "loss")}
    points = points.merge(frame[["number", "name", "group"]])
    points = points.assign(
        place=points.groupby(["number", "path"]).cumcount(),
        variant=[
            str(path) if np.isnan(value) else f"{path}={value:g}"
            for path, value in zip(points["path"], points["value"], strict=True)
        ],
        trained=points["value"].isna(),
        label=["" if np.isnan(value) else f"{value:g}" for value in points["value"]],
        **{f"{name}_text": [fixed(each, at) for each in points[name]] for name, at in places.items()},
    )
    x = alt.X("gain:Q", title="tasks: better than the base", scale=alt.Scale(zero=False))
    y = alt.Y("loss:Q", title="probes: worse than the base", scale=alt.Scale(zero=False))
    base = alt.Chart(points).encode(x=x, y=y, color=colour(frame, points))
    headings = {"name": "configuration", "variant": "variant", "gain_text": "gain", "loss_text": "loss"}
    details = [alt.Tooltip(f"{column}:N", title=heading) for column, heading in headings.items()]
    origin = alt.Chart(pd.DataFrame({"base": ["base"]})).encode(x=alt.datum(0), y=alt.datum(0))
    return alt.LayerChart(
        layer=[
            base.mark_line(strokeOpacity=0.7).encode(detail=["number:N", "path:N"], order="place:Q"),
            base.mark_circle(size=60, opacity=1).encode(tooltip=details),
            base.mark_text(align="left", dx=6, dy=8, fontSize=10).encode(text="label:N"),
            base.transform_filter("datum.trained").mark_point(size=150, stroke=INK, filled=False),
            origin.mark_point(shape="cross", stroke=INK, size=80).encode(tooltip=alt.Tooltip("base:N")),
        ]
    )
