"""Which colour a configuration has, the same in every picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from myosotis.report.labels import value_text
from myosotis.report.theme import PALETTE

if TYPE_CHECKING:
    import pandas as pd

NAMED_AT_MOST = len(PALETTE)
"""So many configurations get a colour and a line of the legend each; more share colours by group."""


def is_few(frame: pd.DataFrame) -> bool:
    """Whether every configuration can have a name and a colour of its own."""
    return bool((frame["n"] > 0).sum() <= NAMED_AT_MOST)


def grouped(frame: pd.DataFrame) -> pd.DataFrame:
    """Add `name` to configurations, `3  rank=8`, and `group`, what colours them: of few their name."""
    names = [f"{number}  {label}" for number, label in zip(frame["number"], frame["label"], strict=True)]
    return frame.assign(name=names, group=names if is_few(frame) else _groups(frame))


def colour(frame: pd.DataFrame, points: pd.DataFrame, *, has_legend: bool = True) -> Any:
    """The colours of `points`, whose column `group` is that of `frame`."""
    import altair as alt

    names = list(dict.fromkeys(frame.loc[frame["n"] > 0, "group"]))
    there = set(points["group"])
    shown = [name for name in names if name in there]
    columns = 1 if max(map(len, shown), default=0) > 24 else 3
    legend = alt.Legend(columns=columns, title=None, values=shown) if has_legend and len(shown) > 1 else None
    scale = alt.Scale(domain=names, range=list(PALETTE[: len(names)]))
    return alt.Color("group:N", scale=scale, legend=legend)


def _groups(frame: pd.DataFrame) -> list[str]:
    """What colours many: the arm, or else the first swept value, that has few enough values."""
    keys = dict.fromkeys(key for swept in frame["swept"] for key in swept)
    candidates = [list(frame["arm"])]
    candidates += [[value_text(swept.get(key, "")) for swept in frame["swept"]] for key in keys]
    fitting = (names for names in candidates if 1 < len(set(names)) <= len(PALETTE))
    return next(fitting, ["configuration"] * len(frame))
