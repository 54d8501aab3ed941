"""What was found in a study's data: a table, and pictures of how long rows are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from myosotis.data_record import SplitRecord
from myosotis.report.theme import PALETTE

if TYPE_CHECKING:
    import altair as alt

HEADER = ("", "rows", "tokens", "median", "longest", "lost", "labels")
NONE = "–"


def cells(split: SplitRecord) -> tuple[str, ...]:
    """Give a split's row of the table."""
    rows = f"{split.rows:,}"
    if split.looked_at < split.rows:
        rows = f"{split.looked_at:,} of {rows}"
    counts = [split.tokens, split.median, split.longest, split.lost, split.labels or None]
    return split.name, rows, *(NONE if each is None else f"{each:,}" for each in counts)


def balance(splits: Sequence[SplitRecord]) -> Iterator[str]:
    """Say how often each label is there: a line a split that has some."""
    for split in splits:
        if split.counts:
            labels = ", ".join(f"{label} {count:,}" for label, count in split.counts.items())
            more = split.labels - len(split.counts)
            yield f"{split.name}: {labels}{f', and {more} more' if more else ''}"


def lengths(splits: Sequence[SplitRecord]) -> Iterator[alt.LayerChart]:
    """Draw how long rows are before they are cut: a chart a split that has texts."""
    import altair as alt
    import pandas as pd

    for split in splits:
        if not split.lengths:
            continue
        frame = pd.DataFrame([vars(bar) for bar in split.lengths])
        bars = (
            alt.Chart(frame)
            .mark_bar(color=PALETTE[0])
            .encode(
                x=alt.X("start:Q", bin="binned", title=f"{split.unit} of a row", axis=alt.Axis(tickCount=5)),
                x2="end:Q",
                y=alt.Y("rows:Q", title="rows", axis=alt.Axis(tickCount=4, format="d")),
                tooltip=["start:Q", "end:Q", "rows:Q"],
            )
        )
        yield alt.LayerChart(layer=[bars]).properties(title=split.name, width=280, height=120)
