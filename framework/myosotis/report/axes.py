"""Axes that pictures share: their range, with the intervals in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


def headline_scale(points: pd.DataFrame, headline: str) -> alt.Scale:
    """A scale over a headline's means and intervals."""
    return value_scale(points, headline, f"{headline}_low", f"{headline}_high")


def value_scale(points: pd.DataFrame, value: str, low: str = "low", high: str = "high") -> alt.Scale:
    """A scale over means and their intervals, with some air; also where there is one value only."""
    import altair as alt

    values = points[[value, low, high]].to_numpy(dtype=float)
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    margin = 0.08 * (most - least) or 0.1 * abs(most) or 1.0
    return alt.Scale(domain=[least - margin, most + margin], nice=False, zero=False)


def spread_scale(values: Sequence[float]) -> alt.Scale:
    """A scale from the least to the most of values, logarithmic where they span decades.

    Its ends are told, for the browser complains of a layer of which a filter leaves nothing to take them from.
    """
    import altair as alt

    ends = [min(values), max(values)]
    if spans_decades(values):
        return alt.Scale(type="log", domain=ends, padding=16, nice=False)
    return alt.Scale(type="linear", domain=ends, padding=16, nice=False, zero=False)


def spans_decades(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis fits: all positive, and more than one decade apart."""
    return min(values) > 0 and max(values) / min(values) > 10
