"""Commands about plugins."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from myosotis.commands.arguments import plugins_there
from myosotis.errors import ConfigurationError

if TYPE_CHECKING:
    from myosotis.testing.checking import Checked


app = typer.Typer(help="List the plugins of this environment.", invoke_without_command=True)


@app.callback()
def plugins(context: typer.Context) -> None:
    """List the plugins of this environment: kind, name, distribution, file."""
    if context.invoked_subcommand is not None:
        return
    from myosotis.plugins import load_registry

    registry = load_registry()
    rows = [
        (found.kind, found.name, found.distribution, f"{_short(found.file)}:{found.line}")
        for found in registry
    ]
    header = ("kind", "name", "distribution", "file")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(4)]
    for row in [header, *sorted(rows)]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for broken in registry.broken:
        typer.echo(f"broken: {broken}", err=True)


def _short(file: str) -> str:
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative


@app.command("show")
def show(name: Annotated[str, typer.Argument(autocompletion=plugins_there)]) -> None:
    """Print a plugin's description and its parameters."""
    from myosotis.describe import describe
    from myosotis.errors import unknown_name
    from myosotis.plugins import load_registry

    registry = load_registry()
    found = [each for each in registry if each.name == name]
    if not found:
        known = {each.name for each in registry}
        raise ConfigurationError(unknown_name("plugin", name, known) + registry.hints)
    typer.echo("\n\n".join(describe(each) for each in found))


@app.command("check")
def check_plugins(
    package: Annotated[
        str | None,
        typer.Argument(
            help="A distribution, a module, or a plugin; all that is installed where not given.",
            autocompletion=plugins_there,
        ),
    ] = None,
) -> None:
    """Run the conformance suites on what is installed, and say what fails. Exits with 1 where something does.

    A plugin is made of its defaults and checked with others that work as they are; nothing is downloaded. What
    only its author can say, such as make_neutral, is left to a suite of its own.
    """
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")  # before anything reads them
    from myosotis.plugins import load_registry
    from myosotis.testing.checking import check, choose

    registry = load_registry()
    chosen = choose(registry, package)
    counts = {"ok": 0, "failed": len(chosen.broken), "not checked": 0}
    for module in chosen.broken:
        typer.echo(f"{'failed':>11}  {module}")
    for each in check(registry, chosen):
        state, text = _told(each)
        counts[state] += 1
        typer.echo(f"{state:>11}  {each.origin.kind} {each.origin.name}: {text}")
        for failure in each.failures:
            typer.echo(f"{'':13}{failure.rule}\n{'':15}{failure.found}")
    typer.echo(", ".join(f"{count} {state}" for state, count in counts.items()))
    if counts["failed"]:
        sys.exit(1)


def _told(checked: Checked) -> tuple[str, str]:
    """Say how a plugin's check ended, and what there is to say of it."""
    if checked.obstacle:
        return "not checked", checked.obstacle
    if checked.failures:
        return "failed", f"{len(checked.failures)} of {checked.checks} checks on {checked.ground}"
    return "ok", f"{checked.checks} checks on {checked.ground}"


class NewKind(StrEnum):
    """What a new plugin can be."""

    method = "method"
    dataset = "dataset"
    model = "model"
    metric = "metric"


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="The plugin's, such as my_penalty.")],
    kind: Annotated[NewKind, typer.Option("--kind", help="What it is.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="A new folder; the distribution's name where not given.")
    ] = None,
) -> None:
    """Write a complete distribution of one plugin, with its tests: a plugin of one's own begins with it."""
    from myosotis.plugins import load_registry
    from myosotis.scaffold import Names, write_distribution

    names = Names.of(name)
    taken = load_registry().plugins[kind.value].get(names.name)
    if taken is not None:
        raise ConfigurationError(
            f"a {kind.value} must have a name of its own, but {names.name} is one of {taken.distribution}; choose "
            "another"
        )
    folder = to or Path(names.distribution)
    for path in write_distribution(names, kind.value, folder):
        typer.echo(folder / path)
    typer.echo(f"now: cd {folder} && pip install --editable '.[test]' && pytest")
