"""What a picture of stages shows by itself: a configuration, in one order of its tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from myosotis.ledger import StudyRecord
from myosotis.report.aggregate import finished_trials
from myosotis.report.colours import NAMED_AT_MOST

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


def panels(record: StudyRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """One row a finished trial: `trial`, `panel` (from 0), the `number` of its configuration, the panel's `title`.

    Under another order a stage trains another task, so that only trials of one order are averaged stage by
    stage. The title, `3  rank=8`, names the order where a configuration has several.
    """
    trials = finished_trials(record, frame).sort_values("number", kind="stable").reset_index(drop=True)
    several = trials.groupby("number")["order"].transform("nunique") > 1
    names = [f"{number}  {label}" for number, label in zip(trials["number"], trials["label"], strict=True)]
    orders = [
        f" · {order.replace(' ', ' → ')}" if many else ""
        for order, many in zip(trials["order"], several, strict=True)
    ]
    trials["title"] = [name + order for name, order in zip(names, orders, strict=True)]
    trials["panel"] = trials.groupby(["number", "order"], sort=False).ngroup()
    return trials[["trial", "panel", "number", "title"]]


def chooser(titles: Sequence[str], first: str, name: str) -> Any:
    """A list to choose one of many panels from."""
    import altair as alt

    return alt.param("chosen", value=first, bind=alt.binding_select(options=list(titles), name=f"{name} "))


def is_crowded(titles: Sequence[str]) -> bool:
    """Whether there are too many panels to show them side by side."""
    return len(titles) > NAMED_AT_MOST


def title(text: str) -> alt.Title:
    """A panel's title, part under part."""
    import altair as alt

    return alt.Title(text.split(" · "))
