"""Every two configurations of a study held against each other, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from myosotis.ledger import HEADLINE, StudyRecord
from myosotis.report.aggregate import configurations, finished_trials, last_scores, t_interval
from myosotis.report.ends import end_scores

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 0.05
"""The chance at which the pairs of one measure together call any two of the same configurations different."""
Replicates = Mapping[tuple[object, object, object], float]
"""A configuration's values by metric, seed and order."""
MEAN = "mean end score"
"""The mean over tasks, in the metric's own direction."""
END = "end score of "
"""A task's measure: its score after the last stage, higher is better."""


def paired(record: StudyRecord, chosen: Sequence[str] | None = None) -> pd.DataFrame:
    """One row a measure and pair of configurations whose trials share a metric and seeds.

    A pair is a seed in one order; where two configurations do not have the same orders, a seed's mean over them.

    The measures are `learned`, `forgotten`, `forgotten_base`, and the scores at the end: the mean over tasks, as it
    is, and each task's and probe's, higher is better.
    Columns: `measure`; `configuration` and `other`; `difference`, the mean over the pairs of the first less
    the second, with `low` and `high`, its paired 95 % t-interval; `n`, how many are shared; `p`,
    of the paired t-test; `p_corrected`, by Holm over all pairs of the measure; `verdict`: higher, lower, within
    noise, or too few seeds.

    Args:
        record: the study.
        chosen: labels of the configurations that are held against each other; all where not given. The
            correction is for all pairs all the same, so that it does not matter how they were chosen.
    """
    return Pairs(record).table(chosen)


@final
class Pairs:
    """A study's finished trials, to be held against each other.

    Attributes:
        labels: all configurations, in their order.
        values: one row a trial: its configuration's label, seed, order and metric, and a column a measure.
    """

    def __init__(self, record: StudyRecord) -> None:
        frame = configurations(record)
        self.labels = list(frame["label"])
        self.values = _values(record, frame)

    def table(self, chosen: Sequence[str] | None = None) -> pd.DataFrame:
        """Give the table of `paired`."""
        import pandas as pd

        pairs = list(combinations([each for each in self.labels if chosen is None or each in chosen], 2))
        measures = [str(name) for name in self.values if name not in KEYS]
        tables: list[pd.DataFrame] = [self._compared(pairs, measure) for measure in measures]
        return pd.concat(tables, ignore_index=True)

    def verdicts(self, label: str, others: Sequence[str], measure: str) -> dict[str, str]:
        """Say how a configuration stands to others, without those that it has no pair with."""
        table = self._compared([(label, other) for other in others], measure)
        return dict(zip(table["other"], table["verdict"], strict=True))

    def _compared(self, pairs: Sequence[tuple[str, str]], measure: str) -> pd.DataFrame:
        """Hold configurations against each other by one measure, corrected for all pairs of the study."""
        import pandas as pd

        everything = len(self.labels) * (len(self.labels) - 1) // 2
        replicates = _replicates(self.values, measure)
        rows = []
        for one, other in pairs:
            found, against = _comparable(replicates.get(one, {}), replicates.get(other, {}))
            shared = [place for place in found if place in against]
            differences = np.array([found[place] - against[place] for place in shared])
            if np.isfinite(differences).any():
                interval = t_interval(differences)
                rows.append((measure, one, other, *interval, len(shared), paired_p(differences)))
        columns = ["measure", "configuration", "other", "difference", "low", "high", "n", "p"]
        types = dict.fromkeys(columns[3:], float) | {"n": int}
        frame = pd.DataFrame(rows, columns=columns).astype(types)
        # All pairs tell by themselves how many tests there are: without those that cannot be compared.
        frame["p_corrected"] = holm(frame["p"], 0 if len(pairs) == everything else everything)
        frame["verdict"] = [_verdict(row) for row in frame.to_dict("records")]
        return frame


KEYS = ("label", "seed", "order", "metric")


def _values(record: StudyRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """One row a finished trial: its configuration's label, its seed, order and metric, and a column a measure."""
    trials, ends = finished_trials(record, frame), last_scores(record)
    score = ends["value"].where(ends["higher_is_better"].astype(bool), -ends["value"])
    wide = ends.assign(score=score).pivot(index="trial", columns="task", values="score")
    names = [task for task in record.columns["task"] if task in wide]
    wide = wide[names].add_prefix(END)
    trials[MEAN] = trials["trial"].map(end_scores(record))
    return trials[["trial", *KEYS, *HEADLINE, MEAN]].merge(wide, "left", on="trial").drop(columns="trial")


def _comparable(one: Replicates, other: Replicates) -> tuple[Replicates, Replicates]:
    """Leave replicates as they are where both have the same orders, else average each seed over its orders."""
    if {order for _, _, order in one} == {order for _, _, order in other}:
        return one, other
    return _by_seed(one), _by_seed(other)


def _by_seed(replicates: Replicates) -> Replicates:
    means: dict[tuple[object, object, object], list[float]] = {}
    for (metric, seed, _), value in replicates.items():
        means.setdefault((metric, seed, None), []).append(value)
    return {place: float(np.mean(values)) for place, values in means.items()}


def _replicates(values: pd.DataFrame, measure: str) -> dict[str, Replicates]:
    """Give each configuration's values by what makes two trials a pair: metric, seed and order."""
    replicates: dict[str, dict[tuple[object, object, object], float]] = {}
    columns = (values[name] for name in ("label", "metric", "seed", "order", measure))
    for label, metric, seed, order, value in zip(*columns, strict=True):
        replicates.setdefault(label, {})[metric, seed, order] = float(value)
    return dict(replicates)


def paired_p(differences: ArrayLike) -> float:
    """Give the two-sided p-value of Student's paired t-test: of t = mean / (s / √n) with n - 1 degrees of freedom.

    NaN of fewer than two, and with a NaN among them. Without any spread it is 1 where all are 0, and 0 elsewhere.
    """
    from scipy.special import stdtr

    sample = np.asarray(differences, dtype=np.float64)
    if sample.size < 2 or np.isnan(sample).any():
        return float("nan")
    error = sample.std(ddof=1) / np.sqrt(sample.size)
    if error == 0:
        return float(sample[0] == 0)
    return float(2 * stdtr(sample.size - 1, -abs(sample.mean() / error)))


def holm(values: ArrayLike, tests: int = 0) -> NDArray[np.float64]:
    """Correct the p-values of several tests, so that none of true null hypotheses is called false but by `ALPHA`.

    The k-th smallest of m is max over j ≤ k of (m - j + 1) p_(j), at most 1. NaN stays, and counts for no test. Of
    more tests than there are values, m is `tests`: then a value is corrected as if the others were larger, which
    is at least the correction that it has among all.
    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    p = np.asarray(values, dtype=np.float64)
    corrected = np.full(p.shape, np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN is sorted to the end
    most = max(len(order), tests)
    scaled = p[order] * np.arange(most, most - len(order), -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return corrected


def _verdict(row: Mapping[Any, Any]) -> str:
    if np.isnan(row["p_corrected"]):
        return "too few seeds"
    if row["p_corrected"] >= ALPHA:
        return "within noise"
    return "higher" if row["difference"] > 0 else "lower"
