"""The table of a study's configurations, ready for Markdown, CSV and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myosotis.ledger import HEADLINE, StudyRecord
from myosotis.report.aggregate import configurations

if TYPE_CHECKING:
    import pandas as pd

SHOWN_WHOLE = 30
"""A table of more configurations is shown in part, and begins with the Pareto front."""


def summary_table(record: StudyRecord) -> pd.DataFrame:
    """One row a configuration, in plain cells.

    Columns: `arm, configuration, metric`; `learned, forgotten, forgotten_base`, means over replicates,
    each followed by `_interval`, half the width of its 95 % t-interval (NaN for one replicate);
    `pareto`, `pareto_base`; `trainable_parameters` and `seconds`, medians; `n` finished replicates,
    `failed`, `unfinished`.
    """
    frame = configurations(record)
    for headline in HEADLINE:
        frame[f"{headline}_interval"] = (frame[f"{headline}_high"] - frame[f"{headline}_low"]) / 2
    headlines = [name + end for name in HEADLINE for end in ("", "_interval")]
    cost = ["trainable_parameters", "seconds", "n", "failed", "unfinished"]
    return frame[["arm", "configuration", "metric", *headlines, "pareto", "pareto_base", *cost]]


def front_first(table: pd.DataFrame) -> pd.DataFrame:
    """The rows on a Pareto front, then the others; both from what learned most."""
    on_front = table["pareto"] | table["pareto_base"]
    order = table.assign(on_front=on_front).sort_values(
        ["on_front", "learned"], ascending=False, kind="stable"
    )
    return table.loc[order.index]
