"""Commands that look at a study's data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from myosotis.commands.arguments import PASS_THROUGH, Overrides, checked_overrides

app = typer.Typer(help="Look at the data of a study before it runs.", no_args_is_help=True)


@app.command("show", context_settings=PASS_THROUGH)
def show_data(
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many of each task.")] = 2,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "train",
) -> None:
    """Print rows as the model will see them: token by token, which are trained on, and which a template wrote.

    Takes the overrides that run takes; of a sweep, the first trial is shown.
    """
    from rich.console import Console
    from rich.text import Text

    from myosotis.data import SHOWN, TEMPLATE, TRAINED, lines, shown_rows

    styles = {TRAINED: "green", SHOWN: "", TEMPLATE: "dim"}
    console = Console(highlight=False)
    for row in shown_rows(checked_overrides(overrides, "data show"), split, rows):
        console.print(Text(f"{row.task}, row {row.number}, {row.tokens} tokens", style="bold"))
        for what, text in lines(row):
            console.print(Text.assemble(f"  {what:>10}  ", (text, styles[what])), soft_wrap=True)


@app.command("check", context_settings=PASS_THROUGH)
def check_data(
    overrides: Overrides = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw the rows' lengths into this .svg or .png.")
    ] = None,
) -> None:
    """Look for what is wrong with the data: copies, overlaps, rows cut off, odd characters, rare labels.

    Takes the overrides that run takes; of a sweep, all trials' data are looked at.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from myosotis.data import checked, draw_lengths
    from myosotis.report.data import HEADER, balance, cells
    from myosotis.study_data import refuse

    found, different = checked(checked_overrides(overrides, "data check"))
    table = Table(*HEADER, box=box.SIMPLE_HEAD, pad_edge=False)
    for split in found.splits:
        table.add_row(*cells(split))
    Console().print(table)
    for line in balance(found.splits):
        typer.echo(line)
    if different > 1:
        typer.echo(f"{different} trials differ in their data or how they read them: all were looked at")
    for each in found.findings:
        typer.echo(f"{each.where}: {each.what}\n    {each.advice}")
    if not found.findings:
        typer.echo("nothing was found that is wrong")
    if picture is not None:
        draw_lengths(found.splits, picture)
        typer.echo(f"lengths: {picture}")
    refuse(found.findings)
