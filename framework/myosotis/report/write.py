"""Writing a study's report."""

from __future__ import annotations

from pathlib import Path

from myosotis.data_record import FILE, joined, read_data
from myosotis.ledger import StudyRecord, write_text
from myosotis.report.aggregate import configurations


def warm_up() -> None:
    """Import what a report is made with, and start what draws its pictures."""
    import vl_convert

    from myosotis.report import page, words
    from myosotis.report.pictures import vega_lite_version

    del page, words
    nothing = {"mark": "point", "data": {"values": []}}
    vl_convert.vegalite_to_svg(nothing, vl_version=vega_lite_version())


def write_report(record: StudyRecord) -> Path:
    """Write `report.html` into the study's folder, and each picture as SVG and PNG into `report/`.

    The page is one file that opens from disk without a network. Writing again replaces it, at once.

    Returns:
        The page's path.
    """
    from altair.utils.schemapi import debug_mode

    from myosotis.report.ends import with_end_scores
    from myosotis.report.page import page
    from myosotis.report.pictures import pictures, write_files
    from myosotis.report.retention import with_stability_gaps
    from myosotis.report.words import described

    frame = with_stability_gaps(record, with_end_scores(record, configurations(record)))
    frame = described(frame)
    data = joined(read_data(record.folder / FILE).values())
    folder = record.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    path = record.folder / "report.html"
    with debug_mode(False):  # would hold every part of every picture against the schema as it is made
        shown = list(pictures(record, frame, data))
        for picture in shown:
            write_files(picture, folder)
        write_text(path, page(record, frame, data, shown))
    return path
