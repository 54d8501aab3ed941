"""The table of a study's configurations, ready for Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myosotis.ledger import HEADLINE, StudyRecord
from myosotis.report.aggregate import configurations
from myosotis.report.numbers import count, decimals, with_interval

if TYPE_CHECKING:
    import pandas as pd

SHOWN_WHOLE = 30
"""A table of more configurations is shown in part, and begins with the Pareto front."""


def summary_table(record: StudyRecord) -> pd.DataFrame:
    """One row a configuration, in plain cells.

    Columns: `arm, configuration, metric`; `learned, forgotten, forgotten_base`, means over replicates,
    each followed by `_interval`, half the width of its 95 % t-interval (NaN for one replicate);
    `pareto`, `pareto_base`; `trainable_parameters` and `seconds`, medians; `n` finished replicates,
    `pruned`, `failed`, `unfinished`.
    """
    frame = configurations(record)
    for headline in HEADLINE:
        frame[f"{headline}_interval"] = (frame[f"{headline}_high"] - frame[f"{headline}_low"]) / 2
    headlines = [name + end for name in HEADLINE for end in ("", "_interval")]
    cost = ["trainable_parameters", "seconds", "n", "pruned", "failed", "unfinished"]
    return frame[["arm", "configuration", "metric", *headlines, "pareto", "pareto_base", *cost]]


def paper_table(record: StudyRecord) -> pd.DataFrame:
    """One row a configuration, in cells as a paper prints them: means with half their 95 % t-intervals.

    Columns: `configuration`, `learned`, `forgotten`, `forgotten_base`, `trainable parameters`, `n` replicates;
    of the three measures those that the study has.
    """
    import pandas as pd

    frame = configurations(record)
    shown = {"configuration": list(frame["configuration"])}
    for name in HEADLINE:
        if frame[name].notna().any():
            places = decimals(frame[name])
            ends = zip(frame[name], frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
            shown[name] = [with_interval(*each, places) for each in ends]
    shown["trainable parameters"] = [count(each) for each in frame["trainable_parameters"]]
    return pd.DataFrame({**shown, "n": list(frame["n"])})


def latex(table: pd.DataFrame) -> str:
    """The table for LaTeX with the package booktabs; numbers stand to the right."""
    columns = "l" + "r" * (len(table.columns) - 1)
    text = table.to_latex(index=False, escape=True, column_format=columns, float_format="%.4g", na_rep="--")
    return text.replace("±", r"$\pm$").replace("\N{MINUS SIGN}", "$-$").rstrip("\n")


def front_first(table: pd.DataFrame) -> pd.DataFrame:
    """The rows on a Pareto front, then the others; both from what learned most."""
    on_front = table["pareto"] | table["pareto_base"]
    order = table.assign(on_front=on_front).sort_values(
        ["on_front", "learned"], ascending=False, kind="stable"
    )
    return table.loc[order.index]
