"""Numbers as people read them: as many decimals as the largest needs, real minus signs."""

from __future__ import annotations

import math
from collections.abc import Iterable


def decimals(values: Iterable[float]) -> int:
    """How many decimals show about four digits of the largest value: 0.812, 1.305, 67.77, 145.2."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    magnitude = math.floor(math.log10(largest)) if largest else 0
    return min(max(3 - magnitude if magnitude >= 0 else 2 - magnitude, 0), 8)


def fixed(value: float, places: int) -> str:
    """The value with so many decimals; empty for NaN."""
    if math.isnan(value):
        return ""
    text = f"{value:.{places}f}"
    negative_zero = float(text) == 0
    return text.lstrip("-") if negative_zero else text.replace("-", "\N{MINUS SIGN}")


def with_interval(mean: float, low: float, high: float, places: int) -> str:
    """The mean with half the interval's width: `0.812 ± 0.031`; empty for NaN."""
    margin = fixed((high - low) / 2, places)
    return f"{fixed(mean, places)} ± {margin}" if margin else fixed(mean, places)


def count(value: float) -> str:
    """A whole number in groups of three: `12,345`; empty for NaN."""
    return "" if math.isnan(value) else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds as `9.3 s`, `4 min 12 s` or `2 h 05 min`; empty for NaN."""
    if math.isnan(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02} min" if hours else f"{minutes} min {rest:02} s"
