"""Writing a study's report."""

from __future__ import annotations

from pathlib import Path

from myosotis.ledger import StudyRecord, write_text
from myosotis.report.aggregate import configurations


def warm_up() -> None:
    """Import what a report is made with."""
    import altair
    import pandas
    import vl_convert

    from myosotis.report import page, pictures, words

    del altair, pandas, vl_convert, page, pictures, words


def write_report(record: StudyRecord) -> Path:
    """Write `report.html` into the study's folder, and each picture as SVG and PNG into `report/`.

    The page is one file that opens from disk without a network. Writing again replaces it, at once.

    Returns:
        The page's path.
    """
    from myosotis.report.page import page
    from myosotis.report.pictures import pictures, write_files
    from myosotis.report.words import described

    frame = described(configurations(record))
    shown = list(pictures(record, frame))
    folder = record.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    for picture in shown:
        write_files(picture, folder)
    path = record.folder / "report.html"
    write_text(path, page(record, frame, shown))
    return path
