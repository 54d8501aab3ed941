"""What commands take as arguments, and how a shell completes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from myosotis.errors import ConfigurationError

MULTIRUN_FLAGS = ("-m", "--multirun")
PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}


def studies_there(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a study's name."""
    folder = Path(context.params.get("studies") or "studies")
    names = [path.parent.name for path in folder.glob("*/study.json")]
    return sorted(name for name in names if name.startswith(incomplete))


def plugins_there(incomplete: str) -> list[str]:
    """Complete a plugin's name."""
    from myosotis.plugins import load_registry

    return sorted({each.name for each in load_registry() if each.name.startswith(incomplete)})


def explained_there(incomplete: str) -> list[str]:
    """Complete the name of a measure or a metric."""
    from myosotis.describe import explained_names
    from myosotis.plugins import load_registry

    return sorted(name for name in explained_names(load_registry()) if name.startswith(incomplete))


def _overrides_there(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a group, a parameter or its value."""
    from myosotis.completion import completions

    return completions(context.params.get("overrides") or [], incomplete)


StudiesFolder = Annotated[Path, typer.Option("--studies", help="The folder of studies.")]


StudyName = Annotated[str, typer.Argument(autocompletion=studies_there)]


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Such as trainer.max_steps=100, in Hydra's grammar.", autocompletion=_overrides_there
    ),
]


def checked_overrides(overrides: Sequence[str] | None, command: str) -> list[str]:
    """Give a command's overrides, and refuse what it took for one that is an option."""
    arguments = [each for each in overrides or [] if each not in MULTIRUN_FLAGS]
    flags = [each for each in arguments if each.startswith("-")]
    if flags:
        raise ConfigurationError(
            f"{flags[0]} is not an option of {command}; settings are written as key=value, as in "
            "trainer.max_steps=100"
        )
    return arguments
