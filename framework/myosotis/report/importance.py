"""How much of what trials differ in comes from each parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from myosotis.ledger import HEADLINE, StudyRecord
from myosotis.report.aggregate import with_arm_names
from myosotis.report.labels import value_text
from myosotis.report.theme import INK, PALETTE

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

BINS = 4
"""Numbers that take more values than `EACH` are taken together in so many bins of equal size."""
EACH = 12


def explained_share(values: ArrayLike, groups: ArrayLike) -> float:
    """Give the share of the variance of values that their groups explain, without what chance would give.

    ε² = 1 - (SS_within / (n - k)) / (SS_total / (n - 1)), at least 0

    For n values in k groups: the adjusted R² of the groups' means. What a parameter does only beside another is in
    neither's share. NaN where every group has one value only, where there is one group, and where all values
    are the same.

    Source: Kelley 1935, An Unbiased Correlation Ratio Measure. On a whole grid it estimates the main effect of
    functional ANOVA (Hutter et al. 2014, An Efficient Approach for Assessing Hyperparameter Importance).
    """
    sample = np.asarray(values, dtype=np.float64)
    _, places = np.unique(np.asarray(groups), return_inverse=True)
    n, k = len(sample), int(places.max(initial=-1)) + 1
    if not 1 < k < n or not np.isfinite(sample).all() or np.ptp(sample) == 0:
        return float("nan")
    total = float(((sample - sample.mean()) ** 2).sum())
    means = np.bincount(places, sample) / np.bincount(places)
    within = float(((sample - means[places]) ** 2).sum())
    return max(0.0, 1 - (within / (n - k)) / (total / (n - 1)))


def importance(record: StudyRecord) -> pd.DataFrame:
    """One row a measure and parameter with several values: `measure`, `parameter` and its `share`.

    The parameters are the arm, the order of tasks, each swept key among the trials that have it, and the seed,
    whose share tells what chance comes to. Finished trials of one metric count, those that have the measure.
    """
    import pandas as pd

    trials = with_arm_names(record.trials[record.trials["status"] == "finished"])
    if trials["metric"].nunique() > 1:
        trials = trials[:0]
    rows = [
        (measure, name, share)
        for measure in HEADLINE
        for name, groups in _parameters(trials)
        if not np.isnan(share := _share(trials[measure], groups))
    ]
    return pd.DataFrame(rows, columns=["measure", "parameter", "share"])


def importance_chart(shares: pd.DataFrame) -> alt.LayerChart:
    """Draw a bar a parameter and measure."""
    import altair as alt

    shares = shares.assign(text=[f"{share:.0%}" for share in shares["share"]])
    measures = [name for name in HEADLINE if name in set(shares["measure"])]
    scale = alt.Scale(domain=measures, range=list(PALETTE[: len(measures)]))
    room = alt.Axis(labelLimit=220, grid=False)
    parameters = alt.Y("parameter:N", title=None, sort=list(dict.fromkeys(shares["parameter"])), axis=room)
    base = alt.Chart(shares).encode(
        y=parameters,
        yOffset=alt.YOffset("measure:N", sort=measures),
        x=alt.X(
            "share:Q", title="share of the variance among trials", axis=alt.Axis(format="%", tickCount=5)
        ),
        tooltip=["parameter:N", "measure:N", alt.Tooltip("text:N", title="share")],
    )
    bars = base.mark_bar(cornerRadiusEnd=3).encode(
        color=alt.Color("measure:N", scale=scale, legend=alt.Legend(title=None))
    )
    shown = base.mark_text(align="left", dx=4, fontSize=11, color=INK).encode(text="text:N")
    height = 18 * shares["parameter"].nunique() * len(measures)
    return alt.LayerChart(layer=[bars, shown]).properties(height=height)


def _parameters(trials: pd.DataFrame) -> Iterator[tuple[str, pd.Series[Any]]]:
    """Name each parameter with its value in the trials that have it."""
    yield "arm", trials["arm"]
    for key in dict.fromkeys(key for swept in trials["swept"] for key in swept):
        having = trials["swept"][[key in swept for swept in trials["swept"]]]
        yield key, having.map(lambda swept, key=key: swept[key])
    yield "order of tasks", trials["order"]
    yield "seed", trials["seed"]


def _share(values: pd.Series[float], groups: pd.Series[Any]) -> float:
    values = values[groups.index].dropna()
    return explained_share(values, _binned(groups[values.index]))


def _binned(values: pd.Series[Any]) -> list[str]:
    import pandas as pd

    numeric = all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)
    if numeric and values.nunique() > EACH:
        return [str(each) for each in pd.qcut(values.astype(float), BINS, duplicates="drop")]
    return [value_text(each) for each in values]
