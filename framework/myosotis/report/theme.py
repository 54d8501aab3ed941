"""How pictures look: one configuration for the page, dark or light, and for the files."""

from __future__ import annotations

from typing import Any

WORSE, SAME, BETTER = "#d9692f", "#f3f2ef", "#3182bd"
INK = "currentColor"
"""Text and axes take the page's own colour, so that they read in the dark and in the light."""

PALETTE = (
    *("#3f78b5", "#d9692f", "#3c9a5f", "#c4445a", "#7f63b8", "#96694c"),
    *("#c265a5", "#6d7680", "#95901f", "#2a98aa", "#c48a12", "#5a67d0"),
)
"""Twelve mid-tones: readable on white and on black, and under white text."""

_TEXT = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 13}

CONFIG: dict[str, Any] = {
    "font": "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif",
    "axis": {
        **_TEXT,
        "titleFontWeight": 500,
        "titlePadding": 10,
        "titleLimit": 300,
        "domainColor": INK,
        "domainOpacity": 0.35,
        "tickColor": INK,
        "tickOpacity": 0.35,
        "gridColor": INK,
        "gridOpacity": 0.1,
        "labelOverlap": True,
    },
    "legend": {
        **_TEXT,
        "labelLimit": 330,
        "symbolStrokeWidth": 0,
        "symbolOpacity": 1,
        "orient": "bottom",
        "rowPadding": 4,
    },
    "title": {"color": INK, "fontSize": 13, "fontWeight": 600, "anchor": "start", "limit": 330, "offset": 8},
    "text": {"fontSize": 12},
    "range": {"category": list(PALETTE)},
    "view": {"stroke": None},
}
