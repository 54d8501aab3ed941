"""The command line: every command's heavy imports happen when it runs."""

from __future__ import annotations

import gc
import sys
from typing import Annotated

import typer

from myosotis.commands import data, environment, models, plugins, running, studies
from myosotis.errors import MyosotisError, in_one_line

COLLECTED_AFTER = 10_000
"""New objects between two searches for garbage: a third of what imports take would go into Python's 700."""

app = typer.Typer(
    name="myosotis",
    help="Which way of fine-tuning this model learns the most and forgets the least?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode=None,
)
for each in (running, studies, models, environment):
    app.add_typer(each.app)
app.add_typer(plugins.app, name="plugins")
app.add_typer(data.app, name="data")


def _print_version(value: bool) -> None:
    if value:
        from myosotis import __version__

        typer.echo(f"myosotis {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Hold the options that every command has."""


def main() -> None:
    """Run the command line; a mistake is one clear line and exit code 2, a failed trial 1."""
    arguments = [each for each in sys.argv[1:] if each != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    gc.set_threshold(COLLECTED_AFTER)
    try:
        app(args=arguments, prog_name="myosotis")
    except MyosotisError as error:
        if debug:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if debug:
            raise
        typer.echo(f"error: {in_one_line(error)}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("\nstopped; the same command goes on after each trial's last finished stage", err=True)
        sys.exit(130)
    finally:
        gc.freeze()  # what the interpreter would search as it ends, the system frees anyway
