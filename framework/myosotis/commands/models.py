"""Commands about the models that trials end with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from myosotis.commands.arguments import StudiesFolder

app = typer.Typer()


@app.command()
def export(
    trial: Annotated[str, typer.Argument(help="Its id, the beginning of it, or its run folder.")],
    to: Annotated[Path, typer.Option("--to", help="A new folder.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Put the adapter into the base's weights, and write those.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; as it is where not given.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option("--push-to-hub", help="Upload the folder to this repository of the Hub.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --push-to-hub: make a new repository public.")
    ] = False,
    studies: StudiesFolder = Path("studies"),
) -> None:
    """Write a trial's model as a folder that transformers or peft loads, with tokenizer and model card."""
    from myosotis.export import export_trial, push
    from myosotis.ledger import find_trial
    from myosotis.plugins import load_registry

    export_trial(load_registry(), find_trial(trial, studies), to, merge, dtype)
    typer.echo(f"model: {to}")
    if push_to_hub:
        typer.echo(f"uploaded: {push(to, push_to_hub, public)}")


@app.command()
def compare(
    trials: Annotated[list[str], typer.Argument(help="Ids, their beginnings, or run folders.")],
    prompt: Annotated[list[str], typer.Option("--prompt", help="What to ask; several times.")],
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="After which an answer is cut.")
    ] = 64,
    studies: StudiesFolder = Path("studies"),
) -> None:
    """Show what the base and the tuned models answer, side by side."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from myosotis.answers import answers
    from myosotis.ledger import find_trial
    from myosotis.plugins import load_registry

    folders = [find_trial(each, studies) for each in trials]
    found = answers(load_registry(), folders, prompt, max_new_tokens)
    table = Table("prompt", *(each.model for each in found), box=box.SIMPLE_HEAD, show_lines=True)
    for number, asked in enumerate(prompt):
        table.add_row(Text(asked), *(Text(each.texts[number].strip()) for each in found))
    Console().print(table)
