"""A study's table in a terminal."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from myosotis.ledger import StudyRecord


def show(record: StudyRecord) -> None:
    """Print a study's table, and where its report and its offline runs are."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from myosotis.report.table import SHOWN_WHOLE, front_first, summary_table

    summary = summary_table(record)
    shown = summary if len(summary) <= SHOWN_WHOLE else front_first(summary).head(SHOWN_WHOLE)
    table = Table(box=box.SIMPLE_HEAD, title=f"study {record.name}", title_justify="left", pad_edge=False)
    for column, header in TERMINAL.items():
        table.add_column(header, justify="left" if column == "configuration" else "right", overflow="fold")
    for row in shown.to_dict("records"):
        table.add_row(*(_terminal_cell(column, row[column]) for column in TERMINAL))
    console = Console()
    console.print(table)
    if len(shown) < len(summary):
        console.print(f"{len(summary) - len(shown)} more: myosotis results {record.name} --summary")
    offline = sorted(record.folder.glob("*/wandb/offline-run-*"))
    if offline:
        console.print(
            f"W&B ran offline; to upload: wandb sync {os.path.relpath(record.folder)}/*/wandb/offline-run-*"
        )
    if (record.folder / "report.html").is_file():
        console.print(f"report: {os.path.relpath(record.folder / 'report.html')}", soft_wrap=True)


TERMINAL = {
    "configuration": "configuration",
    "learned": "learned",
    "forgotten": "forgotten",
    "forgotten_base": "forgotten\nbase",
    "trainable_parameters": "trainable\nparameters",
    "seconds": "seconds",
    "n": "seeds",
}


LONG_NUMBER = re.compile(r"\d+\.\d{6,}(e-?\d+)?")
"""A swept value that a search has drawn."""


def _terminal_cell(column: str, value: Any) -> str:
    if column == "configuration":
        return LONG_NUMBER.sub(lambda number: f"{float(number[0]):g}", value)
    if isinstance(value, float):
        if value != value:
            return "–"
        if column == "trainable_parameters":
            return f"{value:,.0f}"
        return f"{value:.1f}" if column == "seconds" else f"{value:+.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
