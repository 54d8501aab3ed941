"""The page: words, pictures and tables in one HTML file that needs nothing else."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from myosotis.data_record import DataRecord
from myosotis.errors import StorageError
from myosotis.ledger import StudyRecord, cache_folder, read_json, write_text
from myosotis.report.data import HEADER, balance, cells
from myosotis.report.flags import Flag, flags
from myosotis.report.numbers import decimals
from myosotis.report.pairs import paired
from myosotis.report.pictures import DATA, Picture, page_specification, vega_lite_version
from myosotis.report.table import SHOWN_WHOLE, front_first
from myosotis.report.words import findings, warnings

if TYPE_CHECKING:
    import pandas as pd


def page(record: StudyRecord, frame: pd.DataFrame, data: DataRecord, shown: list[Picture]) -> str:
    """The HTML of the report; `frame` is what `described` gives. Every name is escaped."""
    from jinja2 import Environment

    is_long = len(frame) > SHOWN_WHOLE
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    flagged = list(flags(record, frame))
    rows = front_first(frame) if is_long else frame
    return environment.from_string(_part("page.html")).render(
        name=record.name,
        style=_part("page.css"),
        script=_part("page.js"),
        command=_command(record),
        statuses=record.trials["status"].value_counts().to_dict(),
        findings=list(findings(record, frame)),
        careful=list(warnings(frame, flagged)),
        marks=_marks(flagged),
        pictures=[_embedded(picture) for picture in shown if picture.section != DATA],
        data=data,
        data_header=HEADER,
        data_rows=[cells(split) for split in data.splits],
        data_balance=list(balance(data.splits)),
        data_pictures=[_embedded(picture) for picture in shown if picture.section == DATA],
        rows=rows.to_dict("records"),
        is_long=is_long,
        has_arms=bool((frame["arm"] != "").any()),
        has_single=bool((frame["n"] == 1).any()),
        has_several=bool((frame["n"] > 1).any()),
        has_probes=bool((record.columns["role"] == "probe").any()),
        has_ends=bool(frame["end"].notna().any()),
        has_gap=bool(frame["stability_gap"].notna().any()),
        failures=record.trials[record.trials["status"] == "failed"].to_dict("records"),
        scripts=_vega() if shown else "",
        **_pairs(record, rows[rows["n"] > 0].head(SHOWN_WHOLE)),
    )


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _command(record: StudyRecord) -> str:
    """The command line that the study's trials come from; nothing where there was none."""
    path = record.folder / "study.json"
    return f"myosotis run {shlex.join(read_json(path)['command'])}" if path.is_file() else ""


def _marks(flagged: Iterable[Flag]) -> dict[int, list[str]]:
    """What to be careful of, by configuration."""
    marks: dict[int, list[str]] = {}
    for flag in flagged:
        for number in flag.numbers:
            marks.setdefault(number, []).append(flag.mark)
    return {number: list(dict.fromkeys(each)) for number, each in marks.items()}


def _pairs(record: StudyRecord, rows: pd.DataFrame) -> dict[str, Any]:
    """Every two of these configurations, as the page's script reads them."""
    table = paired(record, list(rows["label"])) if len(rows) > 1 else None
    if table is None or table.empty:
        return {"pairs": "", "compared": []}
    numbers = dict(zip(rows["label"], rows["number"], strict=True))
    differences = {
        f"{row['measure']}|{numbers[row['configuration']]}|{numbers[row['other']]}": [
            *(_number(row[name]) for name in ("difference", "low", "high", "n", "p_corrected")),
            "apart" if row["verdict"] in {"higher", "lower"} else row["verdict"],
        ]
        for row in table.to_dict("records")
    }
    measures = [
        {"name": name, "places": decimals(own["difference"])}
        for name, own in table.groupby("measure", sort=False)
    ]
    # The two that learned most come first, and so are held against each other as the page opens.
    listed = rows.sort_values("learned", ascending=False, kind="stable")
    compared = list(zip(listed["number"], listed["label"], strict=True))
    return {"pairs": _script_safe({"measures": measures, "differences": differences}), "compared": compared}


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _embedded(picture: Picture) -> dict[str, Any]:
    charts = [_script_safe(page_specification(chart)) for chart in picture.charts]
    caption = f"many {picture.section}" if picture.crowded else picture.section
    return {
        "name": picture.name,
        "section": picture.section,
        "caption": caption,
        "title": picture.title,
        "charts": charts,
    }


def _script_safe(specification: dict[str, Any]) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(specification, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@lru_cache(maxsize=1)
def _vega() -> str:
    """Vega, Vega-Lite and their embedding as one script, so that the page needs no network."""
    versions = f"{version('vl-convert-python')}-{vega_lite_version()}"
    kept = cache_folder() / "vega" / f"{versions}.js"
    # Bundling takes a second or two, and always gives the same.
    with suppress(OSError, UnicodeDecodeError):
        return kept.read_text(encoding="utf-8")
    import vl_convert

    bundle = str(
        vl_convert.javascript_bundle(snippet="window.vegaEmbed = vegaEmbed;", vl_version=vega_lite_version())
    )
    script = bundle.replace("</script", "<\\/script")
    with suppress(StorageError):
        write_text(kept, script)
    return script
