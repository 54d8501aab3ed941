"""The wheel works without the checkout: built, installed elsewhere, and run from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def call(folder: Path, *arguments: str, path: Path | None = None) -> str:
    """Run Python in a folder, with `path` before what the environment has, and give what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(ROOT, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder))
    [path] = folder.glob("myosotis-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed") / "packages"
    options = ["--no-index", "--no-deps", "--quiet", "--disable-pip-version-check", "--target", str(folder)]
    call(ROOT, "-m", "pip", "install", *options, str(wheel))
    return folder


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_wheel_holds_what_is_needed_and_no_more(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configurations = {
        f"myosotis/conf/{path.relative_to(ROOT / 'conf').as_posix()}"
        for path in (ROOT / "conf").rglob("*.yaml")
    }
    assert configurations <= names
    assert {
        "myosotis/py.typed",
        "myosotis/report/page.html",
        "myosotis/conf/scaffold/pyproject.toml.jinja",
        "myosotis/conf/scaffold/method/plugin.py.jinja",
        "myosotis_plugins/models/nano/model.safetensors",
        "hydra_plugins/myosotis_sweeper.py",
    } <= names
    assert "hydra_plugins/__init__.py" not in names  # Hydra's plugins share one namespace
    assert {name.split("/")[0].split("-")[0] for name in names} == {
        "myosotis",
        "myosotis_plugins",
        "hydra_plugins",
    }
    assert wheel.stat().st_size < 10 << 20


def test_it_is_the_wheel_that_runs(installed: Path, empty: Path) -> None:
    script = "import myosotis, myosotis.config as c; print(myosotis.__file__); print(c.conf_folder())"
    assert call(empty, "-c", script, path=installed).splitlines() == [
        str(installed / "myosotis" / "__init__.py"),
        str(installed / "myosotis" / "conf"),
    ]


def test_plugins_are_those_of_the_wheel(installed: Path, empty: Path) -> None:
    rows = [
        line.split() for line in call(empty, "-m", "myosotis", "plugins", path=installed).splitlines()[1:]
    ]
    own = [row for row in rows if row[2] == "myosotis"]
    assert {("method", "lora"), ("model", "nano"), ("dataset", "pydocs")} <= {(row[0], row[1]) for row in own}
    files = [(empty / row[-1].rpartition(":")[0]).resolve() for row in own]
    assert all(file.is_relative_to(installed / "myosotis_plugins") for file in files)


def test_study_of_two_trials_from_an_empty_folder(installed: Path, empty: Path) -> None:
    command = [
        "method=[full],[lora]",
        "dataset=[pydocs]",
        "probe=[pycode]",
        "trainer.max_steps=2",
        "trainer.batch_size=2",
        "evaluation.limit=2",
        "evaluation.resamples=100",
        "logger=none",
        "study=small",
    ]
    printed = call(empty, "-m", "myosotis", "run", *command, path=installed)
    assert "report: studies/small/report.html" in printed
    study = empty / "studies" / "small"
    assert len(list(study.glob("*/result.json"))) == 2
    assert (study / "report.html").stat().st_size > 10_000
    table = call(empty, "-m", "myosotis", "results", "small", "--summary", "--format", "csv", path=installed)
    assert [line.split(",")[0] for line in table.splitlines()] == ["arm", "full", "lora"]
    assert [path.name for path in empty.iterdir()] == ["studies"]
