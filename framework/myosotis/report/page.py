"""The page: words, pictures and tables in one HTML file that needs nothing else."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from myosotis.data_record import DataRecord
from myosotis.errors import StorageError
from myosotis.ledger import StudyRecord, cache_folder, write_text
from myosotis.report.data import HEADER, balance, cells
from myosotis.report.pictures import DATA, Picture, page_specification, vega_lite_version
from myosotis.report.table import SHOWN_WHOLE, front_first
from myosotis.report.words import findings

if TYPE_CHECKING:
    import pandas as pd


def page(record: StudyRecord, frame: pd.DataFrame, data: DataRecord, shown: list[Picture]) -> str:
    """The HTML of the report; `frame` is what `described` gives. Every name is escaped."""
    from jinja2 import Environment

    is_long = len(frame) > SHOWN_WHOLE
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        name=record.name,
        statuses=record.trials["status"].value_counts().to_dict(),
        findings=list(findings(record, frame)),
        pictures=[_embedded(picture) for picture in shown if picture.section != DATA],
        data=data,
        data_header=HEADER,
        data_rows=[cells(split) for split in data.splits],
        data_balance=list(balance(data.splits)),
        data_pictures=[_embedded(picture) for picture in shown if picture.section == DATA],
        rows=(front_first(frame) if is_long else frame).to_dict("records"),
        is_long=is_long,
        has_probes=bool((record.columns["role"] == "probe").any()),
        failures=record.trials[record.trials["status"] == "failed"].to_dict("records"),
        scripts=_vega() if shown else "",
    )


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
