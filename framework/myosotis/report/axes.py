"""Axes that pictures share: their range, with the intervals in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


def headline_scale(points: pd.DataFrame, headline: str) -> alt.Scale:
    """A scale over a headline's means and intervals, with some air; also where there is one value only."""
    import altair as alt

    values = points[[headline, f"{headline}_low", f"{headline}_high"]].to_numpy(dtype=float)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return alt.Scale(domain=[low - margin, high + margin], nice=False, zero=False)
