"""Every two configurations of a study held against each other, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from myosotis.ledger import HEADLINE, StudyRecord
from myosotis.report.aggregate import configurations, t_interval, with_arm_names

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 0.05
"""The chance at which the pairs of one measure together call any two of the same configurations different."""
Replicates = Mapping[tuple[int, str], Mapping[Any, Any]]
"""A configuration's finished trials by seed and order."""


def paired(record: StudyRecord) -> pd.DataFrame:
    """One row a measure and pair of configurations whose trials share a metric, seeds and orders.

    Columns: `measure`; `configuration` and `other`; `difference`, the mean over the shared seeds and orders of
    the first less the second, with `low` and `high`, its paired 95 % t-interval; `n`, how many are shared; `p`,
    of the paired t-test; `p_corrected`, by Holm over all pairs of the measure; `verdict`: higher, lower, within
    noise, or too few seeds.
    """
    import pandas as pd

    trials = with_arm_names(record.trials)
    names = configurations(record)[["arm", "configuration", "label"]].to_dict("records")
    replicates = {each["label"]: _replicates(trials, each) for each in names}
    columns = ["measure", "configuration", "other", "difference", "low", "high", "n", "p"]
    frame = pd.DataFrame([*_rows(replicates)], columns=columns)
    frame["p_corrected"] = frame.groupby("measure")["p"].transform(lambda each: holm(each.to_numpy()))
    frame["verdict"] = [_verdict(row) for row in frame.to_dict("records")]
    return frame


def _replicates(trials: pd.DataFrame, name: Mapping[Any, Any]) -> Replicates:
    own = (trials["arm"] == name["arm"]) & (trials["configuration"] == name["configuration"])
    finished = trials[own & (trials["status"] == "finished")]
    return {(trial["seed"], trial["order"]): trial for trial in finished.to_dict("records")}


def _rows(replicates: Mapping[str, Replicates]) -> Iterator[tuple[Any, ...]]:
    for measure in HEADLINE:
        for one, other in combinations(replicates, 2):
            found = [
                (replicates[one][place], replicates[other][place])
                for place in replicates[one]
                if place in replicates[other]
            ]
            if any(first["metric"] != second["metric"] for first, second in found):
                continue
            differences = np.array([first[measure] - second[measure] for first, second in found], dtype=float)
            if np.isfinite(differences).any():
                yield measure, one, other, *t_interval(differences), len(found), paired_p(differences)


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


def holm(values: ArrayLike) -> NDArray[np.float64]:
    """Correct the p-values of several tests, so that none of true null hypotheses is called false but by `ALPHA`.

    The k-th smallest of m is max over j ≤ k of (m - j + 1) p_(j), at most 1. NaN stays, and counts for no test.
    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    p = np.asarray(values, dtype=np.float64)
    corrected = np.full(p.shape, np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN is sorted to the end
    scaled = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return corrected


def _verdict(row: Mapping[Any, Any]) -> str:
    if np.isnan(row["p_corrected"]):
        return "too few seeds"
    if row["p_corrected"] >= ALPHA:
        return "within noise"
    return "higher" if row["difference"] > 0 else "lower"
