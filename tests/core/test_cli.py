"""The command line: what it prints, and what it refuses before anything is run."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import myosotis
from myosotis.errors import ConfigurationError
from myosotis.ledger import StudyRecord, TrialEntry, write_json, write_study, write_text
from tests.core.commands import COLUMNS, ROOT, SETTING, python, toy

MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "method": (["method=[pul]"], ["no method named 'pul'", "Did you mean pull", "plain, pull, still"]),
    "model": (["model=tou"], ["no model named 'tou'", "Did you mean toy"]),
    "dataset": (["+dataset@dataset.more=pints"], ["no dataset named 'pints'", "Did you mean points"]),
    "plugin's parameter": (["method=[pull]", "method.pull.strengh=1"], ["Did you mean strength"]),
    "parameter without its plugin": (
        ["method.pull.strength=1"],
        ["no trial of this study has the method 'pull'"],
    ),
    "parameter of no plugin": (["method.pool.strength=1"], ["'pool'", "pull"]),
    "core's parameter": (["trainer.max_step=1"], ["Did you mean max_steps"]),
    "key": (["trainr.max_steps=1"], ["trainr"]),
    "added key that nothing reads": (["+optimiser.name=sgd"], ["Did you mean optimizer", "as ${optimiser}"]),
    "added group of experiments": (
        ["+experiment=first"],
        ["no key named 'experiment'", "Did you mean experiments"],
    ),
    "group of experiments": (["experiment=first"], ["Did you mean experiments"]),
    "added parameter of the core": (
        ["+trainer.max_step=1"],
        ["parameter of trainer", "Did you mean max_steps"],
    ),
    "list for a sweep": (["seed=[0,1]"], ["a sweep is seed=1,2", "under hydra.sweeper.params"]),
    "added parameter of the launcher": (
        ["+hydra.launcher.workrs=2"],
        ["hydra.launcher named", "Did you mean workers"],
    ),
    "added parameter of Ray": (
        ["+hydra.launcher.ray.adress=a"],
        ["hydra.launcher.ray named", "mean address"],
    ),
    "added parameter of SLURM": (
        ["+hydra.launcher.slurm.partiton=a"],
        ["hydra.launcher.slurm named", "Did you mean partition"],
    ),
    "added parameter of the sweep": (
        ["+hydra.sweeper.parms={}"],
        ["hydra.sweeper named 'parms'", "mean params"],
    ),
    "added parameter of the search": (
        ["hydra/sweeper=search", "+hydra.sweeper.n_trial=3"],
        ["hydra.sweeper named 'n_trial'", "Did you mean n_trials"],
    ),
    "added parameter far down": (["+trainer.early_stopping.pat=1"], ["trainer.early_stopping named 'pat'"]),
    "type": (["method=[pull]", "method.pull.strength=big"], ["method.pull.strength", "'big'"]),
    "type of the core": (["trainer.max_steps=many"], ["trainer.max_steps", "'many'"]),
    "range": (["method=[pull]", "method.pull.strength=-1"], ["strength must be at least 0, but got -1"]),
    "range of the core": (["optimizer.learning_rate=-1"], ["optimizer.learning_rate must be greater than 0"]),
    "range in a sweep": (["trainer.batch_size=4,0"], ["trainer.batch_size must be at least 1, but got 0"]),
    "task in mix": (["curriculum=joint", "mix.rihgt=0.5"], ["no task named 'rihgt'", "Did you mean right"]),
    "probe in mix": (["curriculum=joint", "mix.side=0.5"], ["no task named 'side'"]),
    "shares above 1": (
        ["curriculum=joint", "mix.right=0.9", "mix.up=0.3"],
        ["sum to at most 1, but sum to 1.2"],
    ),
    "shares below 1": (
        ["curriculum=joint", "mix.right=0.5", "mix.up=0.3"],
        ["must sum to 1, but they sum to 0.8"],
    ),
    "negative share": (["curriculum=joint", "mix.right=-0.1"], ["mix.right must not be negative"]),
    "mix without joint": (["mix.right=0.5"], ["add curriculum=joint"]),
    "order": (["curriculum.order=[right]"], ["must be 'random' or name each task once (right, up)"]),
    "no task": (["~dataset.right", "~dataset.up"], ["must have a task to train on"]),
    "option": (["--max-steps", "3"], ["--max-steps is not an option", "key=value"]),
    "short option": (["-x"], ["-x is not an option"]),
    "open bracket": (["method=[pull"], ["method=[pull", "each [ must have its ]", "in quotes"]),
    "open brace": (["arms={a: [pull]"], ["each { must have its }"]),
    "last comma": (["seed=1,2,"], ["seed=1,2,", "a value must stand behind its last comma"]),
    "grammar": (["seed='1"], ["seed='1 does not follow Hydra's grammar"]),
    "no key": (["seed"], ["seed does not follow", "key=value"]),
    "spaces": (["method", "=", "[plain]"], ["method does not follow", "without spaces around the ="]),
    "file of a study": (["experiments/mine.yaml"], ["is chosen by its name: +experiments=mine"]),
    "path for an experiment": (["+experiments=experiments/cl4.yaml"], ["by its name: +experiments=cl4"]),
    "study's name": (["study=a/b"], ["study must be a name", "'a/b'"]),
    "study's name above": (["study=.."], ["study must be a name"]),
    "interval": (["seed=interval(0,1)"], ["must be a list of values"]),
    "split": (["evaluation.split=validation"], ["must have a validation split, but it has none"]),
    "empty split": (["dataset.right.rows=0"], ["task right must have a test split, but it is empty"]),
    "nothing to train": (
        ["method=[still]", "method.still.layers=[0,3]"],
        ["leaves 0 of 82 parameters to train"],
    ),
    "logger": (["logger=csw"], ["no logger named 'csw'", "Did you mean csv"]),
    "launcher": (["hydra.launcher.backend=cloud"], ["no backend named 'cloud'", "local"]),
    "value for a task": (
        ["dataset.right=points"],
        ["dataset.right must hold a plugin's parameters", "+dataset@"],
    ),
    "value for a method": (
        ["method=[pull]", "method.pull=3"],
        ["method.pull must hold a plugin's parameters"],
    ),
    "value for mix": (["curriculum=joint", "mix=0.5"], ["mix must map tasks to shares, but got 0.5"]),
    "value for arms": (["arms=x"], ["arms must map each arm's name to its overrides", "'x'"]),
    "value for an arm": (["arms={a: 1}"], ["arms must map each arm's name to its overrides"]),
    "nothing for a group": (["optimizer=null"], ["must be a string or a list", "optimizer=null"]),
    "negative seed": (["seed=-1"], ["seed must be at least 0, but got -1"]),
    "no seed": (["~seed"], ["seed must not be taken out of the configuration"]),
    "no list of stages": (["curriculum=stages", "curriculum.stages=3"], ["must be a list with one mapping"]),
    "accelerator": (["trainer.accelerator=gppu"], ["no value named 'gppu'", "Did you mean gpu"]),
    "folder": (["studies=/dev/null/x"], ["studies must be a folder that can be written to"]),
    "experiment": (["+experiments=cl44"], ["no experiment named 'cl44'", "Did you mean cl4"]),
    "devices": (["trainer.devices=auto"], ["trainer.devices: Value 'auto'", "Integer"]),
    "no device": (["trainer.devices=0"], ["trainer.devices must be at least 1, but got 0"]),
    "more GPUs than there are": (["trainer.devices=99"], ["GPUs that torch sees, but got 99"]),
    "nodes": (["trainer.num_nodes=2"], ["must be started on every node by torchrun"]),
    "8-bit optimizer": (["optimizer.name=adamw_8bit"], ["optimizer.name=adamw_8bit must have a GPU"]),
    "strategy": (["trainer.strategy=magic"], ["no value named 'magic'", "auto, ddp, fsdp"]),
    "logger's class": (["+logger._target_=nothing.Logger"], ["logger._target_:", "nothing"]),
    "sweeper": (["hydra/sweeper=basic"], ["hydra/sweeper must be one that knows studies"]),
    "plugin's own error": (["method=[still]", "method.still.layers=[0,[1]]"], ["TypeError"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_ends_before_anything_is_written(call, tmp_path: Path, mistake: str) -> None:  # type: ignore[no-untyped-def]
    overrides, parts = MISTAKES[mistake]
    removed = {each[1:] for each in overrides if each.startswith("~")}
    setting = [each for each in toy(*overrides) if each.split("=")[0].rpartition(".")[0] not in removed]
    code, out, err = call("run", *setting)
    assert code == 2, err
    assert [line.startswith("error: ") for line in err.splitlines()].count(True) == 1
    assert "Traceback" not in err + out
    for part in parts:
        assert part in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["report", "nothing"], ["no study named 'nothing'"]),
        (["results", "nothing"], ["no study named 'nothing'"]),
        (["clean", "nothing"], ["no study named 'nothing'"]),
        (["clean"], ["Missing argument 'study'"]),
        (["plugins", "show", "pul"], ["no plugin named 'pul'", "Did you mean pull"]),
        (["evaluate", "model"], ["something to score on"]),
        (["results", "nothing", "--format", "xml"], ["xml"]),
        (["results"], ["Missing argument 'study'"]),
        (["runn"], ["runn"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_other_commands_refuse_too(call, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:  # type: ignore[no-untyped-def]
    code, out, err = call(*arguments)
    assert code == 2
    assert "Traceback" not in err + out
    for part in parts:
        assert part in err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(call) -> None:  # type: ignore[no-untyped-def]
    for arguments in (["--debug", "run", *toy("seed=one")], ["run", *toy("seed=one"), "--debug"]):
        with pytest.raises(ConfigurationError, match="seed"):
            call(*arguments)


def test_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    quiet = python(["-m", "myosotis", "run", *toy("method=[pul]")], tmp_path)
    assert (quiet.returncode, quiet.stdout) == (2, "")
    assert (
        quiet.stderr
        == "error: there is no method named 'pul'. Did you mean pull? Known: plain, pull, still\n"
    )
    loud = python(["-m", "myosotis", "run", *toy("method=[pul]"), "--debug"], tmp_path)
    assert loud.returncode != 0
    assert "Traceback (most recent call last)" in loud.stderr
    assert "myosotis.errors.ConfigurationError: there is no method named 'pul'" in loud.stderr


def test_version(call) -> None:  # type: ignore[no-untyped-def]
    assert call("--version") == (0, f"myosotis {myosotis.__version__}\n", "")


def test_help_names_every_command(call) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = call("--help")
    assert code == 0
    for command in ("run", "report", "results", "evaluate", "clean", "plugins"):
        assert f" {command} " in out


def test_plugins_lists_kind_name_distribution_file(call) -> None:  # type: ignore[no-untyped-def]
    code, out, err = call("plugins")
    lines = [line.split() for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert lines[0] == ["kind", "name", "distribution", "file"]
    assert [line[:2] for line in lines[1:]] == [
        ["dataset", "points"],
        ["method", "plain"],
        ["method", "pull"],
        ["method", "still"],
        ["metric", "hits"],
        ["metric", "surprise"],
        ["model", "toy"],
        ["objective", "points"],
    ]
    assert all("tests/toy.py:" in line[-1] for line in lines[1:])


def test_plugins_names_what_is_broken(call, write_plugin) -> None:  # type: ignore[no-untyped-def]
    write_plugin("broken_module", "raise OSError('gone')\n")
    code, out, err = call("plugins")
    assert code == 0
    assert "method   pull" in out or "pull" in out
    assert (
        err == "broken: plugin module broken_module of no distribution could not be loaded: OSError: gone\n"
    )


def test_show_describes_a_plugin(call) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = call("plugins", "show", "pull")
    assert code == 0
    assert out.startswith("method pull  (no distribution, ")
    assert "a quadratic penalty" in out
    assert "strength: float = 0.1\n      half the factor of the squared distance." in out
    assert "\nstores between stages: one copy of the weights" in out


def test_show_gives_all_of_one_name(call) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = call("plugins", "show", "points")
    assert out.startswith("dataset points")
    assert "stores" not in out
    assert "\nobjective points" in out


def test_cfg_job_prints_what_a_trial_would_have(call) -> None:  # type: ignore[no-untyped-def]
    import yaml

    code, out, _ = call("run", *toy("method=[pull]", "method.pull.strength=3"), "--cfg", "job")
    config = yaml.safe_load(out)
    assert code == 0
    assert config["method"]["pull"]["strength"] == 3
    assert config["trainer"]["max_steps"] == 12
    assert "hydra" not in config


def test_results_in_every_format(call, study: StudyRecord, home: Path) -> None:  # type: ignore[no-untyped-def]
    expected = study.scores.to_dict("records")
    place = ("--studies", str(home / "studies"))

    code, out, _ = call("results", "toy", "--format", "json", *place)
    rows = json.loads(out)
    assert code == 0
    assert [list(row) for row in rows] == [COLUMNS] * 6 * 3 * 3 * 2
    assert [row["trial"] for row in rows] == [row["trial"] for row in expected]
    assert [row["value"] for row in rows] == pytest.approx([row["value"] for row in expected], abs=1e-9)

    _, out, _ = call("results", "toy", "--format", "csv", *place)
    [header, *lines] = csv.reader(io.StringIO(out))
    assert header == COLUMNS
    assert [float(line[COLUMNS.index("value")]) for line in lines] == [row["value"] for row in expected]

    _, out, _ = call("results", str(study.folder))
    lines = [line.strip("| ").split(" | ") for line in out.splitlines()]
    assert lines[0] == COLUMNS
    assert lines[1] == ["---"] * len(COLUMNS)
    assert len(lines) == 2 + len(expected)


def test_summary_aggregates_over_seeds(call, study: StudyRecord) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = call("results", str(study.folder), "--summary", "--format", "json")
    rows = {row["configuration"]: row for row in json.loads(out)}
    assert list(rows) == ["plain", "pull", "still"]
    for arm, row in rows.items():
        own = study.trials[study.trials.arm == arm]
        assert row["n"] == 2
        for name in ("learned", "forgotten", "forgotten_base"):
            assert row[name] == pytest.approx(own[name].mean(), abs=1e-9)


def test_report_is_written_anew(call, study: StudyRecord) -> None:  # type: ignore[no-untyped-def]
    page = study.folder / "report.html"
    page.unlink()
    code, out, _ = call("report", str(study.folder))
    assert code == 0
    assert page.read_text(encoding="utf-8").startswith("<!")
    assert "report.html" in out
    assert "plain" in out


def test_a_report_compares_studies(call, study: StudyRecord, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    other = tmp_path / "other"
    shutil.copytree(study.folder, other)
    code, out, err = call("report", str(study.folder), str(other), "--to", str(tmp_path / "both"))
    assert (code, err) == (0, "")
    assert f"{study.name} plain" in out
    assert "other · plain" in (tmp_path / "both" / "report.html").read_text(encoding="utf-8")
    code, _, err = call("report", str(study.folder), "--to", str(tmp_path / "both"))
    assert code == 2
    assert "--to is for several studies" in err


@pytest.mark.parametrize("module", ["torch", "altair"])
def test_an_installation_that_broke_off_is_told(module: str, tmp_path: Path) -> None:
    """Without what a command needs, it says so in one line, and what to do."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {module!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    command = [sys.executable, "-m", "myosotis", "run", *SETTING, "trainer.max_steps=1"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "MYOSOTIS_PLUGINS": "tests.toy"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        f"error: ModuleNotFoundError: No module named '{module}'; if an installation broke off" in done.stderr
    )
    assert "myosotis doctor" in done.stderr
    assert "Traceback" not in done.stderr


# clean


class Answer(io.StringIO):
    """What somebody types at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def cluttered(tmp_path: Path) -> Path:
    """A study of one finished trial that left its checkpoints: 4,096 bytes and their folder."""
    folder = tmp_path / "studies" / "toy"
    write_study(folder, [], [TrialEntry("0123456789ab", "0123456789ab", "pull", {}, 0, "")])
    write_text(folder / "0123456789ab" / "checkpoints" / "stage1-end-0.pt", "x" * 4096)
    write_json(folder / "0123456789ab" / "result.json", {})
    return folder / "0123456789ab" / "checkpoints"


SAID = [
    r"checkpoints of finished trials: 1 \(\d+(\.\d)? kB\)",
    r" +\d+(\.\d)? kB  studies/toy/0123456789ab/checkpoints",
    r"in all: 1 \(\d+(\.\d)? kB\)",
]


def test_clean_says_and_removes_nothing_by_itself(call, cluttered: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, err = call("clean", "toy")
    assert (code, err) == (0, "")
    end = "nothing was removed; to remove this, run the same command with --yes"
    assert re.fullmatch("\n".join([*SAID, end, ""]), out)
    assert cluttered.is_dir()


def test_clean_removes_what_it_says(call, cluttered: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, err = call("clean", "toy", "--yes")
    assert (code, err) == (0, "")
    assert re.fullmatch("\n".join([*SAID, r"removed 1 \(\d+(\.\d)? kB\)", ""]), out)
    assert not cluttered.exists()
    assert call("clean", "toy", "--yes")[:2] == (0, "there is nothing to remove\n")


@pytest.mark.parametrize(("answer", "removed"), [("toy", True), ("yes", False), ("", False)])
def test_clean_asks_for_the_studys_name(  # type: ignore[no-untyped-def]
    call, cluttered: Path, monkeypatch: pytest.MonkeyPatch, answer: str, removed: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Answer(f"{answer}\n"))
    code, out, _ = call("clean", "toy")
    assert code == 0
    assert "to remove this, type the study's name (toy)" in out
    assert cluttered.exists() is not removed
    assert ("nothing was removed" in out) is not removed


def test_clean_removes_more_where_that_is_asked_for(call, cluttered: Path) -> None:  # type: ignore[no-untyped-def]
    run = cluttered.parent
    for name in ("wandb/offline-run-1-a/run-a.wandb", "adapter/adapter_model.safetensors"):
        write_text(run / name, "x")
    for option, name in (("--wandb", "wandb"), ("--adapters", "adapter")):
        assert (run / name).is_dir()
        assert call("clean", "toy", "--yes", option)[0] == 0
        assert not (run / name).exists()
    unlisted = run.with_name("aaaaaaaaaaaa")
    newer = run.with_name(f"{run.name}.2")
    for folder in (unlisted, newer):
        write_json(folder / "result.json", {})
    assert call("clean", "toy", "--yes", "--superseded")[0] == 0
    assert (run.is_dir(), unlisted.is_dir()) == (True, True)
    assert call("clean", "toy", "--yes", "--unlisted")[0] == 0
    assert (run.is_dir(), unlisted.is_dir()) == (True, False)
    write_study(run.parent, [], [TrialEntry(run.name, newer.name, "pull", {}, 0, "")])
    assert call("clean", "toy", "--yes", "--superseded")[0] == 0
    assert (run.is_dir(), newer.is_dir()) == (False, True)
