"""Every command that a document shows is run here, as far as it can be; one that is not known here fails.

What "run" means:

- studies train: one step a stage, two rows a task, one seed, and what else `TINY` says. Those of a hundred trials
  take fewer rows a step (`MANY`), and what else is dear in them is cut by `WITH`; all that they sweep but seeds is
  trained;
- a hosted model is asked, of a server of a few lines;
- what a document leaves open is a tiny file or folder made here (`PLACES`, `INSTEAD`, `WITH`); a model is `nano`;
- what reads a study reads one that was trained here under the name STUDY, whatever its own name;
- scripts that write an experiment's tables write them from what is committed, which must come out the same, and
  compose their pictures without drawing them. Benchmarks, the making of `nano` and what collects the trials of all
  methods' studies read their arguments, and stop before they begin; the first two run at a tiny size in
  `test_benchmarks.py` and `test_nano.py`;
- of pip, make and the rest, what they name must be there. Nothing is installed, served, fetched or uploaded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from packaging.requirements import Requirement

import myosotis
from myosotis.journal import FILE as JOURNAL
from myosotis.points import QUICKSTART
from myosotis.scaffold import write_project
from myosotis_plugins.models.nano import FOLDER as NANO
from tests.documented import DOCUMENTS, OTHER_LANGUAGES, ROOT, Command, blocks, commands, read
from tests.ray_cluster import ray_variables
from tests.serving import answering
from tests.slurm_cluster import require, slurm_cluster

Call: TypeAlias = Callable[..., tuple[int, str, str]]

TINY = (
    "trainer.max_steps=1",
    "trainer.checkpoint_every_n_steps=0",
    "evaluation.limit=2",
    "evaluation.resamples=100",
    "seed=0",
    "logger=none",
    "data_check=false",
    "hydra.launcher.workers=1",
    "hydra.launcher.cohort=8",
)
"""What makes a study one of seconds."""
MANY = ("trainer.batch_size=3", "hydra.launcher.workers=2")
"""What makes a trial one of half a second: a row of each task where all are trained at once."""
PLACES = {
    "model.path": "model",
    "stories": "model",
    "folder": "small",
    "dataset.sst2.path": "sst2",
    "dataset.xquad.path": "xquad",
    "dataset.quotes.path": "quotes",
    "probe.yelp_polarity.path": "yelp_polarity",
}
"""What a key leaves open, and what is made for it here."""
INSTEAD = {
    "probe.lm_eval.tasks=[arc_easy]": "probe.lm_eval.task_file=task.yaml",
    "hydra.launcher.slurm.partition=gpu": "hydra.launcher.slurm.partition=debug",
    "trainer.devices=4": "trainer.devices=2",
}
"""What comes from the network or is elsewhere, and what of its kind is here."""
WITH = {
    "trainer.devices=4": ("trainer.accelerator=cpu",),
    "probe=[gsm8k]": ("probe.gsm8k.path=gsm8k",),
    "+experiments/recipes=quotes_8bit": ("model.path=model", "dataset.quotes.path=quotes"),
    # From 200 examples, one by one, three times a trial.
    "+experiments/method_ablation=strengths": ("method.ewc.examples=1",),
    "+experiments/method_ablation=reporting": ("method.ewc.examples=1",),
    "+experiments=retrieval_or_fine_tuning": (
        "model.path=model",
        "dataset.xquad.path=xquad",
        "probe.stories.path=stories",
        "method.retrieval.corpus=plays.txt",
    ),
}
"""What else a study says that would look for its data elsewhere, or take long."""
CL5 = {"yelp": "positive", "agnews": "World", "dbpedia": "Album", "amazon": "positive", "yahoo": "Sports"}
"""One label of each of these tasks."""
WITH_PYTHON = ("README.md", "CONTRIBUTING.md")
"""Documents whose blocks of Python are run."""
SEARCHED = "hydra/sweeper=search"
SHORT = ("hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "trainer.max_steps=2", "evaluation.every=1")
"""What makes a search one of seconds, and lets it prune."""
LONG = (
    "+experiments/digits_validation=",
    "+experiments/method_ablation=",
    "method.lora.rank=range(1,101)",
)
"""What takes long: a trial of every method, or a hundred."""
WRITTEN = "".join(
    path.read_text(encoding="utf-8")
    for folder, pattern in (("experiments", "*.yaml"), ("conf/scaffold", "*.yaml.jinja"))
    for path in sorted((ROOT / folder).rglob(pattern))
)
"""All written studies: each has its name in it."""


# What the commands find


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_data(folder: Path) -> None:
    """Write a few rows of each data set that a command names, in its layout."""
    films = [{"text": f"film {number} is fine", "label": number % 2} for number in range(2_000)]
    places = [{"text": f"{each} is a place", "label": f"very {each}"} for each in ("positive", "negative")]
    sums = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(10)]
    texts = [{"text": f"Once upon a time, {n} roses stood by the brook. " * 20} for n in range(8)]
    for name in ("train", "dev", "test"):
        write_rows(folder / "sst2" / f"{name}.jsonl", films)
        write_rows(folder / "yelp_polarity" / f"{name}.jsonl", places)
        write_rows(folder / "gsm8k" / f"{name}.jsonl", sums)
        write_rows(folder / "small" / f"{name}.jsonl", texts)
        for task, label in CL5.items():
            write_rows(folder / "CL5" / task / f"{name}.jsonl", [{"text": "a text", "label": label}] * 20)
    for name in ("train", "heldout"):
        write_rows(folder / "stories" / f"{name}.jsonl", texts)
    write_rows(folder / "xquad" / "qa_en.jsonl", sums)
    write_rows(folder / "xquad" / "corpus_en.jsonl", texts)
    write_rows(folder / "quotes" / "english_quotes.jsonl", [{"quote": each["text"]} for each in texts] * 3)
    write_rows(folder / "stories.jsonl", texts)
    write_rows(
        folder / "documents.jsonl", [{"text": "A rose is", "choices": ["red", "loud"], "answer": 0}] * 4
    )
    (folder / "plays.txt").write_text("the rose is red and the violet blue\n" * 400)
    task = {
        "task": "roses",
        "output_type": "multiple_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "documents.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{answer}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that commands find: data, the studies of the project, and two that are finished."""
    folder = tmp_path_factory.mktemp("home")
    write_data(folder)
    (folder / "model").symlink_to(NANO)
    (folder / "small" / "untrained").symlink_to(NANO)
    (folder / "experiments").symlink_to(ROOT / "experiments")
    write_project(folder / "mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("myosotis.report.write_report", lambda record: None)
        patch.chdir(folder)
        myosotis.run(["study=STUDY", "method=[lora],[full]", *TINY, "seed=0,1"])
        shutil.copytree("studies/STUDY", "studies/ANOTHER")
        patch.chdir(folder / "mine")
        myosotis.run(["+experiments=first", *TINY])
    return folder


@pytest.fixture
def at_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to work in."""
    folder = tmp_path / "home"
    shutil.copytree(home, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("myosotis.report.write_report", lambda record: None)
    return folder


def trial(folder: Path) -> Path:
    """Give a finished trial that saved an adapter."""
    return next(path.parents[1] for path in sorted(folder.glob("studies/*/*/adapter/adapter_config.json")))


# Ways to run a command


class Runner:
    """Runs commands of one test."""

    def __init__(self, call: Call, folder: Path, patch: pytest.MonkeyPatch, command: Command) -> None:
        self.call, self.folder, self.patch, self.command = call, folder, patch, command

    def succeed(self, *words: str) -> str:
        """Run `myosotis` in this process."""
        code, out, err = self.call(*words)
        assert code == 0, out + err
        return out

    def study(self, words: Sequence[str]) -> None:
        """Train a study at a tiny size, or ask what is hosted."""
        overrides = [INSTEAD.get(each, each) for each in words or [QUICKSTART]]
        more = [each for word in words for each in WITH.get(word, ())]
        many = MANY if any(each.startswith(LONG) for each in words) else ()
        short = SHORT if SEARCHED in words else ()
        self.patch.setenv("OPENAI_API_KEY", "a key")
        with answering() as server, self.cluster(words):
            places = {**PLACES, "model.url": server.address}
            for number, each in enumerate(overrides):
                key = each.partition("=")[0]
                if key in places:
                    overrides[number] = f"{key}={places[key]}"
            self.succeed("run", *overrides, *more, *TINY, *many, *short)
        rows = 2 if "model=endpoint" in words else 0
        assert server.keys == ["Bearer a key"] * rows
        assert all(f"model.name={body['model']}" in words for body in server.bodies)

    @contextmanager
    def cluster(self, words: Sequence[str]) -> Iterator[None]:
        """Start SLURM where a command is for it; what Ray starts by itself is as other tests have it."""
        if "hydra.launcher.backend=slurm" not in words:
            with ray_variables():
                yield
            return
        require()
        with slurm_cluster() as cluster:
            self.patch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
            yield

    def plan(self, words: Sequence[str]) -> None:
        flags = [each for each in words if each.startswith("--")]
        self.succeed("plan", *flags, *(each for each in words if each not in flags), *TINY)

    def reading(self, words: Sequence[str]) -> None:
        """Read the finished study, by whatever name it goes in the document."""
        name, *options = words[1:]
        if self.command.folder or name == "STUDY":
            assert self.succeed(*words)
            return
        told = (ROOT / self.command.document).read_text(encoding="utf-8")
        assert f" study={name}\n" in told or f"\nstudy: {name}\n" in WRITTEN
        assert self.succeed(words[0], "STUDY", *options)

    def trials(self, words: Sequence[str]) -> None:
        """Do something with a finished trial."""
        self.patch.setattr("myosotis.export.push", lambda folder, name, public: name)
        found = trial(self.folder).name
        assert self.succeed(*(found if each == "TRIAL" else each for each in words))

    def evaluate(self, words: Sequence[str]) -> None:
        places = {"BASE": "model", "ADAPTER_OR_WEIGHTS": str(trial(self.folder) / "adapter")}
        self.succeed(*(places.get(each, each) for each in words), "study=evaluated", *TINY)

    def init(self, words: Sequence[str]) -> None:
        """Make a project where there is none yet."""
        (self.folder / "empty").mkdir()
        self.patch.chdir(self.folder / "empty")
        self.as_it_is(words)

    def as_it_is(self, words: Sequence[str]) -> None:
        assert self.succeed(*words)

    def doctor(self, words: Sequence[str]) -> None:
        code, out, _ = self.call(*words)
        assert code == (1 if "problem" in out else 0)

    def new(self, words: Sequence[str]) -> None:
        names = [each.lower() if each == "NAME" else each for each in words]
        assert self.succeed(*names, *(() if len(words) > 2 else ("--help",)))

    def checked(self, words: Sequence[str]) -> None:
        """Check one plugin in place of all, in a process whose Hub libraries have not looked for a network yet."""
        program = [sys.executable, "-m", "myosotis", "plugins", "check", "accuracy"]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def completion(self, words: Sequence[str]) -> None:
        """Install it into a home of its own, from a bash as it is for a user."""
        program = [sys.executable, "-m", *self.command.words]
        environment = {**os.environ, "HOME": str(self.folder)}
        # Two commands, so that bash stays to be the one that is found.
        done = subprocess.run(["bash", "-c", '"$@"; true', "bash", *program], env=environment, check=False)
        assert done.returncode == 0
        assert list(self.folder.glob(".bash_completions/*"))

    def rendered(self, script: str, arguments: Sequence[str]) -> None:
        """Write a note's tables from what is committed beside it: nothing may change."""
        (self.folder / "experiments").unlink()
        shutil.copytree(ROOT / "experiments", self.folder / "experiments")
        self.patch.setattr("myosotis.report.pictures.write_files", composed)
        self.script(self.folder / script, script, arguments)
        for path in (self.folder / "experiments").rglob("*.*"):
            if path.suffix in {".md", ".csv", ".yaml"}:
                assert path.read_bytes() == (ROOT / path.relative_to(self.folder)).read_bytes()

    def parsed(self, script: str, arguments: Sequence[str]) -> None:
        """Let a script read its arguments, and stop there."""
        parse = argparse.ArgumentParser.parse_args

        def stopped(parser: argparse.ArgumentParser, *given: Any) -> None:
            parse(parser, *given)
            raise Begun

        self.patch.setattr("argparse.ArgumentParser.parse_args", stopped)
        with pytest.raises(Begun):
            self.script(ROOT / script, script, arguments)

    def loaded(self, script: str, arguments: Sequence[str]) -> None:
        """Load a script that takes no arguments, and has what it starts with."""
        assert not arguments
        assert callable(runpy.run_path(str(ROOT / script))["main"])

    def by_question(self, script: str, arguments: Sequence[str]) -> None:
        """Pair the losses of the study's model; all that it reads lies beside the folder."""
        beside = {
            "models/stories260K": "model",
            "data/xquad": "xquad",
            "data/tinystories_sample": "stories",
            "data/wikitext2/valid.txt": "plays.txt",
        }
        for name, given in beside.items():
            place = self.folder.parent / "shared" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(self.folder / given)
        self.script(ROOT / script, script, arguments)

    def script(self, path: Path, name: str, arguments: Sequence[str]) -> None:
        self.patch.setattr(sys, "argv", [name, *arguments])
        self.patch.syspath_prepend(str(path.parent))
        runpy.run_path(str(path), run_name="__main__")


class Begun(Exception):
    """A script has read its arguments."""


def composed(picture: Any, folder: Path) -> None:
    """Compose a picture's specification in place of drawing it."""
    assert all(chart.to_dict() for chart in picture.charts)
    (folder / f"{picture.name}.png").touch()


MYOSOTIS: Mapping[str, Callable[[Runner, Sequence[str]], None]] = {
    "run": lambda runner, words: runner.study(words[1:]),
    "plan": lambda runner, words: runner.plan(words[1:]),
    "evaluate": Runner.evaluate,
    "status": Runner.reading,
    "report": Runner.reading,
    "results": Runner.reading,
    "clean": Runner.reading,
    "export": Runner.trials,
    "compare": Runner.trials,
    "init": Runner.init,
    "doctor": Runner.doctor,
    "data check": Runner.as_it_is,
    "data show": Runner.as_it_is,
    "plugins": Runner.as_it_is,
    "plugins show": Runner.as_it_is,
    "plugins new": Runner.new,
    "plugins check": Runner.checked,
    "explain": Runner.as_it_is,
    "--install-completion": Runner.completion,
}
"""What is done with each command of ours."""
SCRIPTS: Mapping[str, Callable[[Runner, str, Sequence[str]], None]] = {
    "experiments/render.py": Runner.rendered,
    "experiments/recipes/render.py": Runner.rendered,
    # Takes the results from studies of hours: what is committed of them stands in for those.
    "experiments/digits_validation/render.py": lambda runner, script, _: runner.rendered(script, []),
    "experiments/method_ablation/render.py": lambda runner, script, arguments: (
        runner.parsed if arguments[0] == "collect" else runner.rendered
    )(script, arguments),
    "experiments/nano/kneser_ney.py": Runner.loaded,
    "experiments/retrieval_or_fine_tuning/by_question.py": Runner.by_question,
    "experiments/recipes/small.py": lambda runner, script, arguments: runner.script(
        ROOT / script, script, arguments
    ),
    **dict.fromkeys(
        (
            "experiments/nano/pretrain.py",
            *(
                f"experiments/benchmarks/{name}.py"
                for name in (
                    "compare",
                    "evaluation",
                    "fake_trials",
                    "gpu_cohort",
                    "kills",
                    "memory",
                    "plan",
                    "report_page",
                    "scale",
                    "streaming",
                )
            ),
        ),
        Runner.parsed,
    ),
}
"""What is done with each script."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pip(arguments: Sequence[str]) -> None:
    """Look that what is to be installed is this project, with extras that it has."""
    first, *rest = arguments
    assert first == "install"
    while rest and rest[0].startswith("--"):
        option, value, *rest = rest
        assert option in {"--constraint", "--editable"}
        assert (ROOT / value.partition("[")[0]).exists()
    for each in map(Requirement, rest):
        assert each.name == "torch" or each.extras <= {*PROJECT["optional-dependencies"], "EXTRA"}


def make(arguments: Sequence[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{each}:", makefile, flags=re.MULTILINE) for each in arguments)


def curl(arguments: Sequence[str]) -> None:
    """Look that `transformers serve` has the route."""
    server = find_spec("transformers.cli.serving.server")
    assert server is not None
    assert f'"{arguments[0].partition("8000")[2]}"' in Path(str(server.origin)).read_text(encoding="utf-8")
    assert {"model", "prompt"} <= json.loads(arguments[arguments.index("-d") + 1]).keys()


def transformers(arguments: Sequence[str]) -> None:
    """Look that there is such a program; `test_export.py` serves by it."""
    assert arguments[0] == "serve"
    assert Path(sys.executable).with_name("transformers").is_file()


def torchrun(arguments: Sequence[str]) -> None:
    """Look that torch starts our command so; `test_distributed.py` does."""
    from torch.distributed.run import parse_args

    given = parse_args(list(arguments))
    assert given.module
    assert [given.training_script, given.training_script_args[0]] == ["myosotis", "run"]
    assert {"trainer.devices=4", "trainer.num_nodes=2"} <= set(given.training_script_args)
    assert [given.nnodes, given.nproc_per_node] == ["2", "4"]


def environment(arguments: Sequence[str]) -> None:
    assert list(arguments) == ["-m", "venv", ".venv"]
    assert find_spec("venv")


def pre_commit(arguments: Sequence[str]) -> None:
    assert list(arguments) == ["install"]
    assert (ROOT / ".pre-commit-config.yaml").is_file()
    assert find_spec("pre_commit")


def optuna_dashboard(arguments: Sequence[str]) -> None:
    """Look that it is given what a search writes; `test_search.py` reads that with Optuna alone."""
    [path] = arguments
    assert Path(path).name == JOURNAL


def wandb(arguments: Sequence[str]) -> None:
    """Look that there are such commands; `test_wandb_agent.py` runs what an agent makes of the sweep's file."""
    from wandb.cli.cli import cli

    assert arguments[0] in cli.commands


def du(arguments: Sequence[str]) -> None:
    assert shutil.which("du")


OTHERS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "pip": pip,
    "make": make,
    "curl": curl,
    "transformers": transformers,
    "python3": environment,
    "torchrun": torchrun,
    "pre-commit": pre_commit,
    "du": du,
    "optuna-dashboard": optuna_dashboard,
    "wandb": wandb,
}
"""What is done with programs that are not ours."""


# The tests


def all_commands() -> Iterator[Any]:
    """Give every command of the documents, each once in a folder and an environment."""
    seen = set()
    for document in DOCUMENTS:
        for each in commands(document):
            key = (each.folder, each.plugins, each.words)
            if key not in seen:
                seen.add(key)
                marks = [pytest.mark.slow] if any(word.startswith(LONG) for word in each.words) else []
                yield pytest.param(each, id=str(each), marks=marks)


@pytest.mark.parametrize("command", list(all_commands()))
def test_a_documents_command_runs(
    command: Command, call: Call, at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *arguments = command.words
    program = program.removeprefix(".venv/bin/")
    if program == "python" and arguments[:2] == ["-m", "myosotis"]:
        program, *arguments = arguments[1:]
    if program in OTHERS:
        OTHERS[program](arguments)
        return
    folder = at_home / command.folder
    monkeypatch.chdir(folder)
    runner = Runner(call, folder, monkeypatch, command)
    if program == "python":
        SCRIPTS[arguments[0]](runner, arguments[0], arguments[1:])
        return
    assert program == "myosotis"
    if command.plugins:
        monkeypatch.setenv("MYOSOTIS_PLUGINS", command.plugins)
        monkeypatch.syspath_prepend(str(ROOT / command.path))
    name = " ".join(arguments[:2])
    MYOSOTIS[name if name in MYOSOTIS else arguments[0]](runner, arguments)


def test_the_readmes_python_runs(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = myosotis.run
    monkeypatch.setattr(myosotis, "run", lambda overrides: run([*overrides, *TINY]))
    [source] = [text for language, text in blocks("README.md") if language == "python"]
    names: dict[str, Any] = {}
    exec(source, names)
    assert len(names["record"].trials) == 2


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_is_fenced_is_for_the_shell_or_says_what_it_is(document: str) -> None:
    languages = {language for language, _ in blocks(document)}
    assert languages <= {"", *OTHER_LANGUAGES}
    python = [text for language, text in blocks(document) if language == "python"]
    assert not python or document in WITH_PYTHON


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("myosotis runs", "KeyError"),
        ("gym train", "gym: No such file"),
        ("myosotis results STUDY > nowhere.csv", "writes nowhere.csv"),
        ("for each in a b; do myosotis run", "syntax error"),
    ],
)
def test_what_is_not_known_fails(script: str, told: str) -> None:
    """So that nothing can be added to a document that is not run."""
    with pytest.raises((AssertionError, KeyError)) as raised:
        [MYOSOTIS[command.words[1]] for command in read("README.md", script)]
    assert told in f"{raised.typename}: {raised.value}"
