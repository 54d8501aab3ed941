"""What is left of what was learned, in the stages that come after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from myosotis.forgetting import stability_gap
from myosotis.ledger import StudyRecord
from myosotis.report.aggregate import finished_trials, half_width, scores_once
from myosotis.report.axes import value_scale
from myosotis.report.colours import colour, is_few
from myosotis.report.numbers import decimals, fixed, with_interval
from myosotis.report.theme import INK

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

SINCE = {"task": "stages since the task was last trained", "probe": "stages since the base"}
"""What the horizontal axis counts for tasks that were trained, and for what never was."""


def placed_scores(record: StudyRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """Give the scores that the headline uses, from where each task was last trained, in finished trials.

    `frame` is what `configurations` gives. Columns: `number` of the configuration, `trial`, `task`, `metric`,
    `role` (probe for what the trial never trained), `stage`, `step`, `score` (higher is better), `change` since
    its last training, and `place`: stages since then, in fractions of a stage.
    """
    numbers = finished_trials(record, frame)[["trial", "number", "last_trained"]]
    scores = scores_once(record).merge(record.columns[["task", "metric", "higher_is_better"]]).merge(numbers)
    last = [each.get(task) for each, task in zip(scores["last_trained"], scores["task"], strict=True)]
    scores = scores.assign(last=np.array(last, dtype=float)).query("stage >= last")
    scores = scores.sort_values(["stage", "step"], kind="stable").reset_index(drop=True)
    length = scores.groupby(["trial", "stage"])["step"].transform("max").clip(lower=1)
    scores["score"] = np.where(scores["higher_is_better"], 1.0, -1.0) * scores["value"]
    # Of the stage that trained it last, only the end counts.
    begins = (scores["stage"] > scores["last"]) | (scores["step"] == length) | (scores["stage"] == 0)
    scores = scores[begins].assign(place=scores["stage"] - scores["last"] - 1 + scores["step"] / length)
    scores.loc[scores["stage"] == scores["last"], "place"] = 0.0
    first = scores.groupby(["trial", "task"])["score"].transform("first")
    role = np.where(scores["last"] > 0, "task", "probe")
    kept = ["number", "trial", "task", "metric", "role", "stage", "step", "score", "change", "place"]
    return scores.assign(role=role, change=scores["score"] - first)[kept]


def retention(placed: pd.DataFrame) -> pd.DataFrame:
    """Average the change since the last training over tasks, then over replicates, place by place.

    Columns: `role`, `metric`, `number`, `place`, `change` with its 95 % t-interval `low` and `high` over trials,
    `tasks`, how many there are at this place, and `trials`.
    """
    keys = ["role", "metric", "number", "place"]
    rounded = placed.assign(place=placed["place"].round(3))
    each = rounded.groupby([*keys, "trial"])["change"].agg(["mean", "size"]).reset_index()
    groups = each.groupby(keys)
    frame = groups["mean"].agg(change="mean", spread="std", trials="size").reset_index()
    half = half_width(frame["spread"], frame["trials"])
    tasks = groups["size"].max().to_numpy()
    told = frame.assign(low=frame["change"] - half, high=frame["change"] + half, tasks=tasks)
    return told.drop(columns="spread")


def with_stability_gaps(record: StudyRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """Add `stability_gap` to configurations: the mean over tasks, later stages and replicates; and `gap_text`.

    NaN where nothing was scored within a stage.
    """
    placed = placed_scores(record, frame)
    later = placed[placed["role"] == "task"]
    series: dict[tuple[int, str, str], dict[int, list[float]]] = {}
    columns = (later[name] for name in ("number", "trial", "task", "stage", "score"))
    for number, trial, task, stage, score in zip(*columns, strict=True):
        series.setdefault((number, trial, task), {}).setdefault(stage, []).append(score)
    gaps: dict[int, list[float]] = {}
    for (number, _, _), stages in series.items():
        for stage in list(stages)[1:]:
            gap = stability_gap([stages[stage - 1][-1], *stages[stage]])
            gaps.setdefault(number, []).append(gap)
    means = [float(np.mean(gaps.get(number, [np.nan]))) for number in frame["number"]]
    return frame.assign(stability_gap=means, gap_text=[fixed(each, decimals(means)) for each in means])


def retention_charts(frame: pd.DataFrame, placed: pd.DataFrame) -> list[alt.LayerChart]:
    """Draw a chart each of the tasks and the probes, and of their metrics: a line a configuration."""
    points = retention(placed)
    # Two places show no more than `forgotten` and `forgotten_base` do.
    groups = (rows for _, rows in points.groupby(["role", "metric"]) if rows["place"].nunique() > 2)
    return [
        _chart(frame, rows) for rows in sorted(groups, key=lambda rows: rows["role"].iloc[0], reverse=True)
    ]


def _chart(frame: pd.DataFrame, points: pd.DataFrame) -> alt.LayerChart:
    import altair as alt
    import pandas as pd

    role, metric = points[["role", "metric"]].iloc[0]
    places = decimals(points["change"])
    ends = zip(points["change"], points["low"], points["high"], strict=True)
    points = points.merge(frame[["number", "name", "group"]]).assign(
        text=[with_interval(*each, places) for each in ends],
        since=[fixed(each, 2) for each in points["place"]],
    )
    stages = list(range(int(points["place"].max()) + 1))
    scale = alt.Scale(domain=[0, points["place"].max()])
    x = alt.X("place:Q", title=SINCE[role], scale=scale, axis=alt.Axis(values=stages, format="d"))
    y = alt.Y("change:Q", title=f"change of {metric}, up is better", scale=value_scale(points, "change"))
    base = alt.Chart(points.drop(columns=["role", "metric"])).encode(x=x, color=colour(frame, points))
    details = [alt.Tooltip(f"{column}:N", title=title) for column, title in _DETAILS.items()]
    zero = alt.Chart(pd.DataFrame({"change": [0]})).mark_rule(stroke=INK, opacity=0.4, strokeDash=[5, 4])
    layers = [zero.encode(y=y)]
    if is_few(frame):  # many would cover each other
        bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeOpacity=0.5)
        layers.append(bars.encode(y="low:Q", y2="high:Q"))
        layers.append(base.mark_circle(size=50, opacity=1).encode(y=y, tooltip=details))
    lines = base.mark_line(strokeOpacity=0.9 if is_few(frame) else 0.3)
    layers.append(lines.encode(y=y, detail="number:N", tooltip=details[:1]))
    return alt.LayerChart(layer=layers)


_DETAILS = {
    "name": "configuration",
    "text": "change",
    "since": "stages since",
    "tasks": "tasks",
    "trials": "replicates",
}
"""What hovering shows, by column."""
