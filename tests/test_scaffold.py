"""`plugins new` writes distributions that install, are found, and pass their own tests as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from myosotis.cli import app
from myosotis.errors import ConfigurationError
from myosotis.scaffold import Names, write_distribution

KINDS = ("method", "dataset", "model", "metric")


def run(folder: Path, *command: str, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path or ""), "OMP_NUM_THREADS": "1"}
    command = (sys.executable, "-m", *command)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_distribution_installs_is_found_and_passes_its_own_tests(kind: str, tmp_path: Path) -> None:
    said = run(tmp_path, "myosotis", "plugins", "new", "my-own", "--kind", kind)
    made = tmp_path / "myosotis-my-own"
    files = sorted(str(path.relative_to(tmp_path)) for path in made.rglob("*") if path.is_file())
    assert sorted(said.splitlines()[:-1]) == files
    assert len(files) == 5
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
    installed = tmp_path / "installed"
    run(tmp_path, "pip", "install", *options, "--target", str(installed), str(made))
    [line] = [
        line
        for line in run(tmp_path, "myosotis", "plugins", path=installed).splitlines()
        if "my_own" in line.split()
    ]
    assert line.split()[0] == kind
    assert "myosotis-my-own 0.1.0" in line
    run(made, "ruff", "check", "--isolated", ".")
    assert " passed" in run(made, "pytest", "-q", "-p", "no:cacheprovider", path=installed)
    checked = run(tmp_path, "myosotis", "plugins", "check", "myosotis-my-own", path=installed)
    there = kind != "model"  # the weights of the model's default are on the Hub
    assert checked.endswith(f"\n{int(there)} ok, 0 failed, {int(not there)} not checked\n")


def test_a_new_project_runs_as_it_is(tmp_path: Path) -> None:
    said = run(tmp_path, "myosotis", "init", "mine")
    made = tmp_path / "mine"
    files = sorted(str(path.relative_to(tmp_path)) for path in made.rglob("*") if path.is_file())
    assert sorted(said.splitlines()[:-1]) == files
    rows = {
        name: [json.loads(line) for line in (made / "data" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "test")
    }
    assert {name: len(each) for name, each in rows.items()} == {"train": 140, "test": 60}
    prompts = {row["prompt"] for each in rows.values() for row in each}
    assert len(prompts) == 200
    short = ("trainer.max_steps=2", "evaluation.limit=4", "logger=none", "hydra.launcher.workers=1")
    told = run(made, "myosotis", "run", "+experiments=first", *short)
    assert "lora.rank=2" in told
    assert "lora.rank=8" in told
    trials = json.loads(run(made, "myosotis", "results", "first", "--trials", "--format", "json"))
    assert [trial["status"] for trial in trials] == ["finished"] * 4


def test_names_follow_from_the_plugins() -> None:
    assert Names.of("my_own-way") == Names(
        "my_own_way", "MyOwnWay", "myosotis_my_own_way", "myosotis-my-own-way"
    )


@pytest.mark.parametrize("name", ["", "My", "1st", "a b", "a__b", "-a", "a.b"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="name must be of lower-case letters"):
        Names.of(name)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="must be new"):
        write_distribution(Names.of("own"), "method", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_nothing_is_left_of_a_distribution_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ConfigurationError, match="No space left on device; give another folder"):
        write_distribution(Names.of("own"), "method", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["plugins", "new", "lora", "--kind", "method"])
    assert isinstance(done.exception, ConfigurationError)
    assert "lora is one of myosotis" in str(done.exception)
    assert list(tmp_path.iterdir()) == []
