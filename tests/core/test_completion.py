"""The shell completes commands, studies, plugins, measures, and the overrides of a study."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from myosotis.cli import app
from myosotis.ledger import write_study
from tests.core.commands import ROOT
from tests.core.terminal import type_in_terminal

CASES = {
    "myosotis stat": ["status"],
    "myosotis plugins n": ["new"],
    "myosotis status r": ["ranks", "rates"],
    "myosotis report --studies other m": ["mine"],
    "myosotis clean x": [],
    "myosotis plugins show pu": ["pull"],
    "myosotis explain forg": ["forgetting", "forgotten", "forgotten_base"],
    "myosotis explain hi": ["hits"],
}


TOYS = "model=toy dataset=[points] probe=[] method=[pull]"
"""What the commands below have before the word that is completed."""
OVERRIDES = {
    # Groups, and what can be chosen of them: in a list, behind others, in a sweep, under a name of one's own.
    "sched": ["schedule.", "schedule="],
    "schedule=c": ["schedule=constant", "schedule=cosine"],
    "method=p": ["method=plain", "method=pull"],
    "method=[p": ["method=[plain", "method=[pull"],
    "method=[pull,": ["method=[pull,plain", "method=[pull,qlora", "method=[pull,still", "method=[pull,tuned"],
    "method=[plain,s": ["method=[plain,still,", "method=[plain,still]"],
    "'method=[plain],[s": ["method=[plain],[still,", "method=[plain],[still]"],
    "+dataset@dataset.near=": ["+dataset@dataset.near=points"],
    "+probe": ["+probe@probe."],
    # Written studies of the working folder and of the project.
    "+experiments=m": ["+experiments=mine"],
    "+experiments/": ["+experiments/deep=", "+experiments/deep=own"],
    # Parameters: of what is chosen, in any of the trials; the only key shows its value.
    "method.": ["method.pull.", "method.pull.strength=", "method.pull.strength=0.1"],
    "method.pull.st": ["method.pull.strength=", "method.pull.strength=0.1"],
    "method.plain": [],
    "method=[pull],[still] method.": ["method.pull.", "method.still."],
    "+dataset@dataset.near=points dataset.near.a": ["dataset.near.angle=", "dataset.near.angle=0.0"],
    "trainer.max_": ["trainer.max_epochs=", "trainer.max_steps=", "trainer.max_tokens="],
    "mix.": ["mix.points="],
    # Values: those of the type, or the one that is there.
    "trainer.save=": ["trainer.save=false", "trainer.save=true"],
    "trainer.batch_size=": ["trainer.batch_size=8"],
    "trainer.max_steps=1": [],
    "'' trainer.save=f": ["trainer.save=false"],
    # What is mistaken already is not completed.
    "nothing=3 trainer.sa": [],
    "method=[[ trainer.sa": [],
}


def completed(words: list[str], number: int) -> list[str]:
    environment = {
        "_MYOSOTIS_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(number),
    }
    return CliRunner().invoke(app, [], prog_name="myosotis", env=environment).output.split()


@pytest.mark.parametrize("typed", CASES)
def test_the_last_word_is_completed(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("studies/ranks", "studies/rates", "other/mine"):
        Path(name).mkdir(parents=True)
        write_study(Path(name), [], [])
    assert completed(typed.split(), len(typed.split()) - 1) == CASES[typed]


@pytest.fixture
def written(tmp_path: Path) -> None:
    """Two studies of the working folder, one of them with arms."""
    study = """
# @package _global_
defaults: [override /method: [plain], override /model: toy, override /dataset: [points], override /probe: []]
arms: {a: {method: [pull]}, b: {method: [still]}}
"""
    for path in ("experiments/mine.yaml", "experiments/deep/own.yaml", "experiments/notes/none.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(study)


@pytest.mark.parametrize("command", ["run", "plan", "data check", "data show"])
def test_every_command_that_takes_overrides_completes_them(command: str) -> None:
    words = ["myosotis", *command.split(), *TOYS.split(), "method.pull.st"]
    assert completed(words, len(words) - 1) == OVERRIDES["method.pull.st"]


@pytest.mark.parametrize("typed", OVERRIDES)
def test_overrides_are_completed(typed: str, written: None) -> None:
    words = f"myosotis run --cfg job {TOYS} {typed}".split(" ")
    assert completed(words, len(words) - 1) == OVERRIDES[typed]


def test_parameters_are_those_of_a_written_studys_arms(written: None) -> None:
    words = ["myosotis", "run", "+experiments=mine", "method."]
    assert completed(words, 3) == ["method.pull.", "method.still."]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        # As bash cuts words, and replaces the last part alone; a part that is = is empty.
        ("method = [pl", ["[plain,", "[plain]"]),
        ("trainer.save =", ["false", "true"]),
        ("+dataset @ dataset.near = po", ["points"]),
        ("method = [pull],[still] method.", ["method.pull.", "method.still."]),
    ],
)
def test_words_that_bash_cuts_are_completed(typed: str, found: list[str]) -> None:
    words = ["myosotis", "run", *TOYS.replace("=", " = ").split(" "), *typed.split(" ")]
    assert completed([each for each in words if each], len(words) - 1) == found


def test_completing_imports_torch_at_most() -> None:
    heavy = {"lightning", "transformers", "peft", "datasets", "pandas", "scipy", "rich"}
    script = (
        "import sys; from myosotis.completion import completions; "
        f"assert completions({TOYS.split()!r}, 'method.pu'); sys.exit(str({heavy!r} & sys.modules.keys()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_a_zsh_completes_once_it_is_installed(tmp_path: Path, written: None) -> None:
    write_study(tmp_path / "studies" / "ranks", [], [])
    variables = {
        "HOME": str(tmp_path),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "TERM": "dumb",
        "PS1": "ready> ",
    }
    # Two commands, so that zsh stays to be the one that is found.
    install = ["zsh", "-f", "-c", "myosotis --install-completion; true"]
    subprocess.run(install, cwd=tmp_path, env={**os.environ, **variables}, check=True)
    again = "\x15"  # Control-U takes away what is typed
    toys = shlex.join(TOYS.split())
    typed = [
        ("", "ready> "),
        ("myosotis \t", "\a"),  # the first TAB of a shell loads it
        (f"{again}myosotis stat\t", "status "),
        (f"{again}myosotis status r\t", "ranks "),
        (f"{again}myosotis run {toys} +experiments=mi\t", "mine "),
        (f"{again}myosotis run {toys} method.pull.st\t", "rength="),
        (f"{again}myosotis run {toys} 'method=[still,p\t", "method=[still,pull"),
    ]
    type_in_terminal(["zsh", "-i"], tmp_path, variables, typed)
