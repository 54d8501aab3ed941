"""The command line: every command's heavy imports happen when it runs."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from myosotis.errors import ConfigurationError, MyosotisError, in_one_line

if TYPE_CHECKING:
    from myosotis.cleaning import Leftover
    from myosotis.ledger import StudyRecord
    from myosotis.testing.checking import Checked

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
MULTIRUN_FLAGS = ("-m", "--multirun")
COLLECTED_AFTER = 10_000
"""New objects between two searches for garbage: a third of what imports take would go into Python's 700."""
PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(
    name="myosotis",
    help="Which way of fine-tuning this model learns the most and forgets the least?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode=None,
)
plugins_app = typer.Typer(help="List the plugins of this environment.", invoke_without_command=True)
app.add_typer(plugins_app, name="plugins")
data_app = typer.Typer(help="Look at the data of a study before it runs.", no_args_is_help=True)
app.add_typer(data_app, name="data")


def _studies_there(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a study's name."""
    folder = Path(context.params.get("studies") or "studies")
    names = [path.parent.name for path in folder.glob("*/study.json")]
    return sorted(name for name in names if name.startswith(incomplete))


def _plugins_there(incomplete: str) -> list[str]:
    """Complete a plugin's name."""
    from myosotis.plugins import load_registry

    return sorted({each.name for each in load_registry() if each.name.startswith(incomplete)})


def _explained_there(incomplete: str) -> list[str]:
    """Complete the name of a measure or a metric."""
    from myosotis.describe import explained_names
    from myosotis.plugins import load_registry

    return sorted(name for name in explained_names(load_registry()) if name.startswith(incomplete))


def _overrides_there(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a group, a parameter or its value."""
    from myosotis.completion import completions

    return completions(context.params.get("overrides") or [], incomplete)


StudiesFolder = Annotated[Path, typer.Option("--studies", help="The folder of studies.")]
StudyName = Annotated[str, typer.Argument(autocompletion=_studies_there)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Such as trainer.max_steps=100, in Hydra's grammar.", autocompletion=_overrides_there
    ),
]


class Format(StrEnum):
    """How a table is printed."""

    json = "json"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"


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


@app.command(context_settings=PASS_THROUGH)
def run(overrides: Overrides = None) -> None:
    """Run a study: myosotis run method=[NAME] method.NAME.PARAMETER=4,8,16,32 seed=0,1.

    Takes Hydra's override grammar, and its flags --cfg job, --info, --hydra-help.
    Without overrides it runs the embedded quickstart.
    """
    if any(each.split("=")[0] in HYDRA_FLAGS for each in overrides or []):
        _hydra([each for each in overrides or [] if each not in MULTIRUN_FLAGS])
        return
    arguments = _checked(overrides, "run")
    from myosotis.ahead import started_ahead

    with started_ahead(arguments) as server:
        from myosotis.study import run as run_study

        _show(run_study(arguments, server=server))


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
    arguments = _checked(overrides, "plan")
    from myosotis.plan_text import plan_json, plan_text
    from myosotis.study import plan_study

    planned = plan_study(arguments, price_per_hour, measure)
    typer.echo(plan_json(planned) if json else plan_text(planned))


def _checked(overrides: Sequence[str] | None, command: str) -> list[str]:
    """Give a command's overrides, and refuse what it took for one that is an option."""
    arguments = [each for each in overrides or [] if each not in MULTIRUN_FLAGS]
    flags = [each for each in arguments if each.startswith("-")]
    if flags:
        raise ConfigurationError(
            f"{flags[0]} is not an option of {command}; settings are written as key=value, as in "
            "trainer.max_steps=100"
        )
    return arguments


def _hydra(arguments: list[str]) -> None:
    """Let Hydra's own command line print configurations and search paths."""
    import hydra

    from myosotis.config import VERSION_BASE, conf_folder, explained

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
    target = [f"tuned={_quoted(tuned)}"] if tuned else ["method=[]", "curriculum.stages=[]"]
    arguments = [f"model.path={_quoted(model)}", f"probe=[{','.join(probe or [])}]", *target, *overrides]
    _show(run_study(arguments, config_name="evaluate"))


def _quoted(text: str) -> str:
    """Write a text in Hydra's grammar, whatever characters it has."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


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
    studies_named: Annotated[list[str], typer.Argument(metavar="STUDY...", autocompletion=_studies_there)],
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
    _show(record)


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
            help="Such as forgotten, backward_transfer, perplexity.", autocompletion=_explained_there
        ),
    ],
) -> None:
    """Define a measure of forgetting or a metric: what it is, its equation, its source."""
    from myosotis.describe import explain
    from myosotis.plugins import load_registry

    typer.echo(explain(name, load_registry()))


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


def _show(record: StudyRecord) -> None:
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


def _terminal_cell(column: str, value: Any) -> str:
    if isinstance(value, float):
        if value != value:
            return "–"
        if column == "trainable_parameters":
            return f"{value:,.0f}"
        return f"{value:.1f}" if column == "seconds" else f"{value:+.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@plugins_app.callback()
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


@plugins_app.command("show")
def show(name: Annotated[str, typer.Argument(autocompletion=_plugins_there)]) -> None:
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


@plugins_app.command("check")
def check_plugins(
    package: Annotated[
        str | None,
        typer.Argument(
            help="A distribution, a module, or a plugin; all that is installed where not given.",
            autocompletion=_plugins_there,
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


@plugins_app.command("new")
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


@data_app.command("show", context_settings=PASS_THROUGH)
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
    for row in shown_rows(_checked(overrides, "data show"), split, rows):
        console.print(Text(f"{row.task}, row {row.number}, {row.tokens} tokens", style="bold"))
        for what, text in lines(row):
            console.print(Text.assemble(f"  {what:>10}  ", (text, styles[what])), soft_wrap=True)


@data_app.command("check", context_settings=PASS_THROUGH)
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

    found, different = checked(_checked(overrides, "data check"))
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
