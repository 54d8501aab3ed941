"""Commands about studies that are there."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from myosotis.commands.arguments import StudiesFolder, StudyName, studies_there
from myosotis.commands.show import show
from myosotis.errors import ConfigurationError

if TYPE_CHECKING:
    from myosotis.cleaning import Leftover


app = typer.Typer()


class Format(StrEnum):
    """How a table is printed."""

    json = "json"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"


@app.command()
def status(study: StudyName, studies: StudiesFolder = Path("studies")) -> None:
    """Say how a study stands, from any terminal: what is done, what runs and how far, what failed.

    It takes no lock and changes nothing, so that it works while the study runs.
    """
    from myosotis.ledger import find_study
    from myosotis.status import study_status
    from myosotis.status_text import show_status

    show_status(study_status(find_study(study, studies)))


@app.command()
def report(
    studies_named: Annotated[list[str], typer.Argument(metavar="STUDY...", autocompletion=studies_there)],
    studies: StudiesFolder = Path("studies"),
    to: Annotated[
        Path | None, typer.Option("--to", help="A folder for the report of several studies.")
    ] = None,
) -> None:
    """Write a study's report anew, or one of several studies side by side; print its table and where it is."""
    from myosotis.ledger import find_study, read_study
    from myosotis.report import write_report
    from myosotis.report.joined import joined_record

    records = [read_study(find_study(each, studies)) for each in studies_named]
    if len(records) == 1:
        if to is not None:
            raise ConfigurationError("--to is for several studies; a study's report stands in its own folder")
        [record] = records
    else:
        record = joined_record(records, to or studies / "+".join(each.name for each in records))
    write_report(record)
    show(record)


@app.command()
def results(
    study: StudyName,
    summary: Annotated[bool, typer.Option("--summary", help="One row a configuration.")] = False,
    trials: Annotated[bool, typer.Option("--trials", help="One row a trial.")] = False,
    variants: Annotated[
        bool,
        typer.Option("--variants", help="Models that methods make of the trained ones, one row a score."),
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Every two configurations, seed by seed, one row a pair.")
    ] = False,
    format: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.markdown,
    studies: StudiesFolder = Path("studies"),
) -> None:
    """Print a study's scores, one row a score; a summary in Markdown or LaTeX is ready for a paper."""
    if summary + trials + variants + pairs > 1:
        raise ConfigurationError(
            "results prints one of --summary, --trials, --variants, --pairs, but got several"
        )
    from myosotis.ledger import find_study, read_study
    from myosotis.report.pairs import paired
    from myosotis.report.table import latex, paper_table, summary_table

    record = read_study(find_study(study, studies))
    table = record.trials if trials else record.variants if variants else record.scores
    if summary:
        table = (paper_table if format in {Format.markdown, Format.latex} else summary_table)(record)
    if pairs:
        table = paired(record)
    printers = {
        Format.json: lambda: table.to_json(orient="records", force_ascii=False, indent=1),
        Format.csv: lambda: table.to_csv(index=False).rstrip("\n"),
        Format.markdown: lambda: _markdown(table),
        Format.latex: lambda: latex(table),
    }
    typer.echo(printers[format]())


def _markdown(table: Any) -> str:
    rows = [list(table.columns), ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(_cell(value) for value in row) + " |" for row in rows)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


@app.command()
def clean(
    study: StudyName,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    superseded: Annotated[
        bool, typer.Option("--superseded", help="Run folders too that force=true made anew since.")
    ] = False,
    unlisted: Annotated[
        bool, typer.Option("--unlisted", help="Run folders too of trials that the study does not list.")
    ] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="W&B's files too, of finished trials.")] = False,
    adapters: Annotated[
        bool, typer.Option("--adapters", help="Adapters and weights too, of finished trials.")
    ] = False,
    studies: StudiesFolder = Path("studies"),
) -> None:
    """Say what a study no longer needs on disk, then remove it.

    That is: checkpoints of finished trials, half-written files, caches, locks that nobody holds. Results,
    reports, logs and what a running trial holds stay, whatever is chosen.
    """
    from myosotis.cleaning import Choice, leftovers, remove
    from myosotis.ledger import find_study

    folder = find_study(study, studies)
    choice = Choice(superseded, unlisted, wandb, adapters)
    found = leftovers(folder, choice)
    _say_leftovers(found)
    if not found:
        return
    if not yes and not sys.stdin.isatty():
        typer.echo("nothing was removed; to remove this, run the same command with --yes")
        return
    name = folder.resolve().name
    if not yes and typer.prompt(f"to remove this, type the study's name ({name})", default="") != name:
        typer.echo("nothing was removed")
        return
    removed = remove(folder, found, choice)
    kept = f"; {len(found) - len(removed)} are in use by now and stay" if len(removed) < len(found) else ""
    typer.echo(f"removed {_total(removed)}{kept}")


def _say_leftovers(found: Sequence[Leftover]) -> None:
    """Print what would be removed, by kind, and the total."""
    from myosotis.storage import size

    for what in dict.fromkeys(each.what for each in found):
        group = [each for each in found if each.what == what]
        typer.echo(f"{what}: {_total(group)}")
        for each in group:
            typer.echo(f"  {size(each.bytes):>8}  {os.path.relpath(each.path)}")
    typer.echo(f"in all: {_total(found)}" if found else "there is nothing to remove")


def _total(found: Sequence[Leftover]) -> str:
    from myosotis.storage import size

    return f"{len(found):,} ({size(sum(each.bytes for each in found))})"
