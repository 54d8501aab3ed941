"""From trials to configurations: means and intervals over replicates, and the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from myosotis.ledger import HEADLINE, StudyRecord
from myosotis.report.labels import labels

if TYPE_CHECKING:
    import pandas as pd

FRONTS = {"forgotten": "pareto", "forgotten_base": "pareto_base"}
"""For each way to forget, the column that says who is on its Pareto front."""

COSTS = ("seconds", "peak_memory_bytes", "trainable_parameters", "kept_bytes")
"""What a configuration takes; medians over its replicates."""

_COLUMNS = (
    *("arm", "configuration", "metric", "swept", "n", "pruned", "failed", "unfinished"),
    *(name + end for name in HEADLINE for end in ("", "_low", "_high")),
    *COSTS,
)


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """The mean of replicates with Student's t-interval.

    mean ± t_{n-1, (1 + level) / 2} s / √n, with s the sample's standard deviation (n - 1).

    One value has no interval (NaN ends). A NaN among the values makes all NaN: a replicate without a
    score is not left out, for those that diverge are just those that would be missed.
    """
    sample = np.asarray(values, dtype=np.float64)
    mean = float(sample.mean()) if sample.size else float("nan")
    if sample.size < 2:
        return Interval(mean, float("nan"), float("nan"))
    with np.errstate(invalid="ignore"):  # an infinite score has no interval either
        half = float(half_width(sample.std(ddof=1), sample.size, level))
    return Interval(mean, mean - half, mean + half)


def half_width(deviation: ArrayLike, count: ArrayLike, level: float = 0.95) -> NDArray[np.float64]:
    """Half of a t-interval, of so many values with this standard deviation (n - 1); NaN of one value."""
    from scipy.special import stdtrit

    n = np.asarray(count)
    return np.asarray(stdtrit(n - 1, (1 + level) / 2) * np.asarray(deviation) / np.sqrt(n))


def pareto_front(learned: ArrayLike, forgotten: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other beats: learning at least as much, forgetting at most as much, one strictly.

    Equal points stand or fall together; a point with NaN is on no front.
    """
    gain = np.asarray(learned, dtype=np.float64)
    loss = np.asarray(forgotten, dtype=np.float64)
    no_worse = (gain >= gain[:, None]) & (loss <= loss[:, None])
    better = (gain > gain[:, None]) | (loss < loss[:, None])
    beaten = np.asarray((no_worse & better).any(axis=1))
    return ~beaten & ~np.isnan(gain + loss)


def configurations(record: StudyRecord) -> pd.DataFrame:
    """One row a configuration (an arm with its swept values), in the order of its first trial.

    Columns: `number` (from 1), `label` (short and unique), `arm, configuration, metric, swept`; `n`,
    the finished replicates (seeds and orders), `pruned`, `failed`, `unfinished`; `learned`, `forgotten` and
    `forgotten_base`, each a mean over the finished, with `_low` and `_high`; `COSTS`, medians; `pareto` and
    `pareto_base`, whether it is on the front of learned against forgotten or forgotten_base. Fronts are of one
    metric each: different metrics do not compare.
    """
    import pandas as pd

    groups: dict[tuple[str, str], list[Mapping[Any, Any]]] = {}
    for trial in with_arm_names(record.trials).to_dict("records"):
        groups.setdefault((trial["arm"], trial["configuration"]), []).append(trial)
    frame = pd.DataFrame([_row(replicates) for replicates in groups.values()], columns=_COLUMNS)
    frame.insert(0, "number", range(1, len(frame) + 1))
    frame.insert(1, "label", labels(frame["arm"], frame["swept"], frame["configuration"]))
    for headline, flag in FRONTS.items():
        frame[flag] = _on_front(frame, headline)
    return frame


def with_arm_names(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials, with an empty name for no arm, so that they can be grouped and merged by it."""
    arms = trials["arm"].astype(object)
    return trials.assign(arm=arms.where(arms.notna(), ""))


def finished_trials(record: StudyRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """The finished trials, with the `number` and `label` of their configuration in `frame`."""
    trials = with_arm_names(record.trials[record.trials["status"] == "finished"])
    return trials.merge(frame[["arm", "configuration", "number", "label"]])


def last_scores(record: StudyRecord) -> pd.DataFrame:
    """Each trial's last score of each task by the headline's metric, with the columns of `record.columns`."""
    scores = scores_once(record).merge(record.columns).sort_values(["stage", "step"], kind="stable")
    return scores.groupby(["trial", "task"], sort=False).tail(1)


def scores_once(record: StudyRecord) -> pd.DataFrame:
    """The scores, each once: a trial of several arms has a row in each."""
    return record.scores.drop_duplicates(["trial", "stage", "step", "task", "split", "metric"])


def _row(replicates: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    """What the replicates of one configuration come to."""
    import pandas as pd

    finished = [trial for trial in replicates if trial["status"] == "finished"]
    # What did not finish has no metric.
    first = (finished or replicates)[0]
    row = {column: first[column] for column in ("arm", "configuration", "metric", "swept")}
    row["n"] = len(finished)
    for status in ("pruned", "failed", "unfinished"):
        row[status] = sum(trial["status"] == status for trial in replicates)
    for headline in HEADLINE:
        interval = t_interval([trial[headline] for trial in finished])
        row |= zip((headline, f"{headline}_low", f"{headline}_high"), interval, strict=True)
    for column in COSTS:
        row[column] = pd.Series([trial[column] for trial in finished], dtype=float).median()
    return row


def _on_front(frame: pd.DataFrame, headline: str) -> Sequence[bool]:
    flags = np.zeros(len(frame), dtype=bool)
    for positions in frame.groupby("metric", dropna=False).indices.values():
        rows = frame.iloc[positions]
        flags[positions] = pareto_front(rows["learned"], rows[headline])
    return list(flags)
