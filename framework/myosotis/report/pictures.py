"""All pictures of a report: which there are, as specifications for the page and as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myosotis.data_record import DataRecord
from myosotis.ledger import StudyRecord
from myosotis.report.aggregate import FRONTS
from myosotis.report.data import lengths
from myosotis.report.heatmap import heat_maps
from myosotis.report.matrices import score_cells
from myosotis.report.scatter import is_few, scatter
from myosotis.report.sweeps import file_name, is_crowded, sweep_charts, swept_keys
from myosotis.report.theme import CONFIG
from myosotis.report.words import axis_titles

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


DATA = "data"
"""The section of pictures that are about the data, not about the scores."""


@dataclass(frozen=True)
class Picture:
    """Charts that answer one question: side by side in the page, in one file on disk.

    Attributes:
        name: the files' name, without ending.
        section: scatter, scores, sweep or data.
        title: what it shows.
        charts: one or several.
        crowded: whether there is too much to show each configuration by itself.
    """

    name: str
    section: str
    title: str
    charts: list[alt.LayerChart]
    crowded: bool = False


def pictures(record: StudyRecord, frame: pd.DataFrame, data: DataRecord | None = None) -> Iterator[Picture]:
    """The pictures that the study has values for; `frame` is what `described` gives."""
    titles = axis_titles(record.columns)
    for headline in FRONTS:
        if (frame["learned"].notna() & frame[headline].notna()).any():
            title, crowded = f"Learned against {headline}", not is_few(frame, headline)
            yield Picture(
                f"learned-{headline}", "scatter", title, [scatter(frame, headline, titles)], crowded
            )
    cells = score_cells(record, frame)
    if len(cells):
        yield Picture("scores", "scores", "Scores after each stage", heat_maps(frame, cells))
    for key in swept_keys(frame):
        charts = sweep_charts(frame, key, titles)
        if charts:
            yield Picture(file_name(key), "sweep", key, charts, is_crowded(frame, key))
    if histograms := list(lengths(data.splits if data else ())):
        yield Picture("lengths", DATA, "Lengths of the rows", histograms)


def page_specification(chart: alt.LayerChart) -> dict[str, Any]:
    """The chart for the page: transparent, and as wide as its place unless its cells have a size."""
    fluid = chart if _has_size(chart) else chart.properties(width="container", height=340)
    return _specification(fluid) | {"background": "transparent"}


def write_files(picture: Picture, folder: Path) -> None:
    """Write `<name>.svg` and `<name>.png`."""
    drawn = svg(picture)
    (folder / f"{picture.name}.svg").write_text(drawn, encoding="utf-8")
    (folder / f"{picture.name}.png").write_bytes(png(drawn))


def svg(picture: Picture) -> str:
    """Draw all charts of a picture, on white."""
    import altair as alt
    import vl_convert

    sized = [
        chart if _has_size(chart) else chart.properties(width=460, height=320) for chart in picture.charts
    ]
    whole = (
        sized[0]
        if len(sized) == 1
        else alt.concat(*sized, columns=3, spacing=36).resolve_scale(color="independent")
    )
    specification = _specification(whole) | {"background": "white", "padding": 16}
    return str(vl_convert.vegalite_to_svg(specification, vl_version=vega_lite_version()))


def png(drawn: str) -> bytes:
    """Turn a drawing into pixels, two a point."""
    import vl_convert

    return bytes(vl_convert.svg_to_png(drawn, scale=2))


def vega_lite_version() -> str:
    """The version that altair writes, as vl-convert names it: `6.4`."""
    import altair as alt

    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


def _has_size(chart: alt.LayerChart) -> bool:
    import altair as alt

    return chart.width is not alt.Undefined


def _specification(chart: alt.LayerChart | alt.ConcatChart) -> dict[str, Any]:
    import altair as alt

    # A thousand trials have more rows than altair lets through unasked.
    with alt.data_transformers.enable(max_rows=None):
        return chart.to_dict(validate=False) | {"config": CONFIG}
