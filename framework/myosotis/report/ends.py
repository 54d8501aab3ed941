"""How well each configuration ends: its tasks' scores after the last stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myosotis.ledger import StudyRecord
from myosotis.report.aggregate import finished_trials, last_scores, t_interval
from myosotis.report.numbers import decimals, with_interval

if TYPE_CHECKING:
    import pandas as pd


def with_end_scores(record: StudyRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """Add `end` to configurations: the mean score over tasks at the end, then over replicates; and `end_text`.

    In the metric's own direction, with `end_low` and `end_high`, the 95 % t-interval. NaN where tasks have several
    metrics, or one of them has no score.
    """
    trials = finished_trials(record, frame)
    ends = trials["trial"].map(end_scores(record))
    intervals = [
        t_interval(ends[trials["number"] == number].to_numpy(dtype=float)) for number in frame["number"]
    ]
    places = decimals(each.mean for each in intervals)
    return frame.assign(
        end=[each.mean for each in intervals],
        end_low=[each.low for each in intervals],
        end_high=[each.high for each in intervals],
        end_text=[with_interval(*each, places) for each in intervals],
    )


def end_scores(record: StudyRecord) -> pd.Series[float]:
    """Give the mean score over tasks after a trial's last stage, by the trial; empty where metrics differ."""
    several = record.columns.loc[record.columns["role"] == "task", "metric"].nunique() > 1
    last = last_scores(record).query("role == 'task'")[: 0 if several else None]
    table = last.pivot(index="trial", columns="task", values="value")
    return table.mean(axis="columns", skipna=False)


def end_is_higher_better(record: StudyRecord) -> bool:
    """Tell the direction of the tasks' metric."""
    return bool(record.columns.loc[record.columns["role"] == "task", "higher_is_better"].all())
