"""All pictures of a report: which there are, as specifications for the page and as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myosotis.data_record import DataRecord
from myosotis.ledger import StudyRecord
from myosotis.report.aggregate import FRONTS
from myosotis.report.colours import grouped, is_few
from myosotis.report.cost import cost_charts
from myosotis.report.curves import curve_charts, curve_points
from myosotis.report.data import lengths
from myosotis.report.heatmap import heat_maps
from myosotis.report.history import history_charts, history_points
from myosotis.report.importance import importance, importance_chart
from myosotis.report.matrices import score_cells
from myosotis.report.paths import path_chart, path_points
from myosotis.report.retention import placed_scores, retention_charts
from myosotis.report.scatter import scatter
from myosotis.report.strengths import strength_chart
from myosotis.report.sweeps import file_name, is_crowded, sweep_charts, swept_keys
from myosotis.report.theme import CONFIG
from myosotis.report.words import axis_titles, how_it_forgets

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
        section: scatter, retention, curves, scores, sweep, paths, history, importance, cost or data.
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
    frame, titles = grouped(frame), axis_titles(record.columns)
    crowded = not is_few(frame)
    for headline in FRONTS:
        if (frame["learned"].notna() & frame[headline].notna()).any():
            title = f"Learned against {headline}"
            yield Picture(
                f"learned-{headline}", "scatter", title, [scatter(frame, headline, titles)], crowded
            )
    yield from _of_stages(record, frame, crowded)
    for key in swept_keys(frame):
        charts = sweep_charts(frame, key, titles)
        if trade := strength_chart(frame, key, how_it_forgets(frame), titles):
            charts.append(trade)
        if charts:
            yield Picture(file_name(key), "sweep", key, charts, is_crowded(frame, key))
    paths = path_points(record, frame)
    if len(paths):
        yield Picture("paths", "paths", "Between the base and the trained model", [path_chart(frame, paths)])
    history = history_points(record)
    if len(history):
        yield Picture("history", "history", "The search, suggestion by suggestion", history_charts(history))
    shares = importance(record)
    if len(shares):
        yield Picture("importance", "importance", "Which parameter matters", [importance_chart(shares)])
    if charts := cost_charts(frame, how_it_forgets(frame), titles):
        yield Picture("cost", "cost", "What it costs", charts)
    if histograms := list(lengths(data.splits if data else ())):
        yield Picture("lengths", DATA, "Lengths of the rows", histograms)


def _of_stages(record: StudyRecord, frame: pd.DataFrame, crowded: bool) -> Iterator[Picture]:
    """The pictures of what comes after what."""
    if charts := retention_charts(frame, placed_scores(record, frame)):
        yield Picture("retention", "retention", "What is left, stage by stage", charts, crowded)
    points = curve_points(record, frame)
    if len(points):
        yield Picture("curves", "curves", "Scores over the steps", curve_charts(points))
    cells = score_cells(record, frame)
    if len(cells):
        yield Picture("scores", "scores", "Scores after each stage", heat_maps(frame, cells))


def page_specification(chart: alt.LayerChart) -> dict[str, Any]:
    """The chart for the page: transparent, and as wide as its place unless its cells have a size."""
    return _specification(_sized(chart, "container", 340)) | {"background": "transparent"}


def write_files(picture: Picture, folder: Path) -> None:
    """Write `<name>.svg` and `<name>.png`."""
    drawn = svg(picture)
    (folder / f"{picture.name}.svg").write_text(drawn, encoding="utf-8")
    (folder / f"{picture.name}.png").write_bytes(png(drawn))


def svg(picture: Picture) -> str:
    """Draw all charts of a picture, on white."""
    import altair as alt
    import vl_convert

    sized = [_sized(chart, 460, 320) for chart in picture.charts]
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


def _sized(chart: alt.LayerChart, width: Any, height: int) -> alt.LayerChart:
    """Give the chart the size that it does not have yet."""
    import altair as alt

    if chart.width is alt.Undefined:
        chart = chart.properties(width=width)
    return chart.properties(height=height) if chart.height is alt.Undefined else chart


def _specification(chart: alt.LayerChart | alt.ConcatChart) -> dict[str, Any]:
    import altair as alt

    # A thousand trials have more rows than altair lets through unasked.
    with alt.data_transformers.enable(max_rows=None):
        return chart.to_dict(validate=False) | {"config": CONFIG}
