"""Commands that need no study: to begin with, and to look things up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from myosotis.commands.arguments import StudiesFolder, explained_there

app = typer.Typer()


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new folder.")]) -> None:
    """Write a project of one's own: rows, a study, a preset. It runs as it is, and yours takes its place."""
    from myosotis.scaffold import write_project

    for path in write_project(folder):
        typer.echo(folder / path)
    typer.echo(f"now: cd {folder} && myosotis run +experiments=first")


@app.command()
def doctor(studies: StudiesFolder = Path("studies")) -> None:
    """Look at this environment: what works, what does not, what to do. Exits with 1 where studies would fail."""
    from myosotis.doctor import diagnoses

    problems = 0
    for each in diagnoses(studies):
        problems += each.state == "problem"
        typer.echo(
            f"{each.state:>7}  {each.part}: {each.found}"
            + (f"\n         {each.advice}" if each.advice else "")
        )
    if problems:
        sys.exit(1)


@app.command("explain")
def explain_measure(
    name: Annotated[
        str,
        typer.Argument(
            help="Such as forgotten, backward_transfer, perplexity.", autocompletion=explained_there
        ),
    ],
) -> None:
    """Define a measure of forgetting or a metric: what it is, its equation, its source."""
    from myosotis.describe import explain
    from myosotis.plugins import load_registry

    typer.echo(explain(name, load_registry()))
