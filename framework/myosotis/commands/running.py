"""Commands that run studies, or say what would run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from myosotis.commands.arguments import MULTIRUN_FLAGS, PASS_THROUGH, Overrides, checked_overrides
from myosotis.commands.show import show
from myosotis.errors import ConfigurationError

app = typer.Typer()


HYDRA_FLAGS = (
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--hydra-help",
    "--resolve",
    "--package",
    "-p",
    "--shell-completion",
)


@app.command(context_settings=PASS_THROUGH)
def run(overrides: Overrides = None) -> None:
    """Run a study: myosotis run method=[NAME] method.NAME.PARAMETER=4,8,16,32 seed=0,1.

    Takes Hydra's override grammar, and its flags --cfg job, --info, --hydra-help.
    Without overrides it runs the embedded quickstart.
    """
    if any(each.split("=")[0] in HYDRA_FLAGS for each in overrides or []):
        _hydra([each for each in overrides or [] if each not in MULTIRUN_FLAGS])
        return
    arguments = checked_overrides(overrides, "run")
    if "WORLD_SIZE" in os.environ:
        from myosotis.nodes import following

        with following() as followed:
            if not followed:
                _run(arguments)
        return
    _run(arguments)


def _run(arguments: list[str]) -> None:
    from myosotis.ahead import started_ahead

    with started_ahead(arguments) as server:
        from myosotis.study import run as run_study

        show(run_study(arguments, server=server))


@app.command(context_settings=PASS_THROUGH)
def plan(
    overrides: Overrides = None,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", min=0, help="What an hour of this machine costs.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything, for programs.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Time a few steps, or estimate nothing.")
    ] = True,
) -> None:
    """Say what run would do with the same overrides, and what it takes: nothing is run.

    That is: which trials are done, each value and where it comes from, the cohorts, and the time, memory,
    tokens and disk of each, from a few steps of the largest trial of every shape.
    """
    arguments = checked_overrides(overrides, "plan")
    from myosotis.plan_text import plan_json, plan_text
    from myosotis.study import plan_study

    planned = plan_study(arguments, price_per_hour, measure)
    typer.echo(plan_json(planned) if json else plan_text(planned))


def _hydra(arguments: list[str]) -> None:
    """Let Hydra's own command line print configurations and search paths."""
    import hydra

    from myosotis.config import VERSION_BASE, conf_folder
    from myosotis.explained import explained

    def no_task(config: Any) -> None:
        """Nothing runs behind these flags."""

    sys.argv = ["myosotis run", *arguments]
    main = hydra.main(version_base=VERSION_BASE, config_path=str(conf_folder()), config_name="config")
    with explained():
        main(no_task)()


@app.command(context_settings=PASS_THROUGH)
def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A base: a local folder or a Hub id.")],
    tuned: Annotated[
        str | None, typer.Argument(help="A fine-tune of it: an adapter or whole weights.")
    ] = None,
    probe: Annotated[
        list[str] | None, typer.Option("--probe", help="A dataset to score on; several times.")
    ] = None,
) -> None:
    """Measure how much an existing fine-tune forgot: nothing is trained."""
    from myosotis.study import run as run_study

    overrides = list(context.args)
    if tuned is not None and "=" in tuned and not Path(tuned).exists():
        overrides, tuned = [tuned, *overrides], None
    if not probe and not any("probe" in each for each in overrides):
        raise ConfigurationError("evaluate must have something to score on; name datasets with --probe")
    # Without a fine-tune there is no stage: the base's row is all.
    target = [f"+tuned={_quoted(tuned)}"] if tuned else ["method=[]", "curriculum.stages=[]"]
    arguments = [f"model.path={_quoted(model)}", f"probe=[{','.join(probe or [])}]", *target, *overrides]
    show(run_study(arguments, config_name="evaluate"))


def _quoted(text: str) -> str:
    """Write a text in Hydra's grammar, whatever characters it has."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
