"""A distribution of a third party: installed beside the project, it is found, swept and tested like a built-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins import tiny

EXAMPLE = Path(__file__).parents[1] / "plugins" / "examples" / "myosotis-layerwise"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution alone, in a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    install(EXAMPLE, folder)
    return folder


def install(distribution: Path, folder: Path) -> None:
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(distribution)]
    subprocess.run(command, check=True)


def test_there_is_one_of_each_kind() -> None:
    kinds = {"method": "methods", "dataset": "datasets", "model": "models"}
    for kind, hook in kinds.items():
        found = [
            path for path in EXAMPLE.parent.glob("*/*.py") if f"def myosotis_{hook}()" in path.read_text()
        ]
        assert len(found) == 1, kind


def run(installed: Path, folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-m", *command], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_it_is_one_module_and_one_entry_point(installed: Path) -> None:
    assert [path.name for path in installed.glob("*.py")] == ["myosotis_layerwise.py"]
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert entry_points.read_text().split("\n")[:2] == ["[myosotis]", "layerwise = myosotis_layerwise"]


def test_it_is_listed_with_its_distribution(installed: Path, tmp_path: Path) -> None:
    lines = run(installed, tmp_path, "myosotis", "plugins").splitlines()
    (line,) = [line for line in lines if "layerwise" in line.split()]
    assert "myosotis-layerwise 0.1.0" in line
    assert "method" in line


def test_its_parameters_are_shown(installed: Path, tmp_path: Path) -> None:
    shown = run(installed, tmp_path, "myosotis", "plugins", "show", "layerwise")
    assert "decay" in shown
    assert "0.8" in shown


def test_it_is_swept_beside_a_built_in(installed: Path, tmp_path: Path) -> None:
    tiny.save(tiny.llama(), tmp_path / "model")
    (tmp_path / "poem.txt").write_text("\n".join(tiny.POEM * 4))
    run(
        installed,
        tmp_path,
        "myosotis",
        "run",
        "method=[lora],[layerwise]",
        "method.layerwise.decay=0.5,1.0",
        "model=huggingface",
        "model.path=model",
        "dataset=[]",
        "+dataset@dataset.poem=file",
        "dataset.poem.train=poem.txt",
        "dataset.poem.length=16",
        "probe=[]",
        "trainer.max_steps=3",
        "logger=none",
        "study=both",
    )
    rows = json.loads(
        run(installed, tmp_path, "myosotis", "results", "both", "--summary", "--format", "json")
    )
    assert sorted(row["arm"] for row in rows) == ["layerwise", "layerwise", "lora"]
    assert all(row["learned"] is not None for row in rows)
    learned = {row["learned"] for row in rows if row["arm"] == "layerwise"}
    assert len(learned) == 2, "the decay changes what is learned"


@pytest.fixture(
    scope="module", params=["myosotis-layerwise", "myosotis-reference-manual", "myosotis-from-scratch"]
)
def each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Each of the distributions, and the folder that it alone is installed in."""
    folder = tmp_path_factory.mktemp("each")
    install(EXAMPLE.with_name(request.param), folder)
    return request.param, folder


def test_its_own_tests_pass(each: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = each
    tests = str(EXAMPLE.with_name(name) / "tests")
    run(folder, tmp_path, "pytest", tests, "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path))


def test_it_is_checked_as_it_is_installed(each: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = each
    printed = run(folder, tmp_path, "myosotis", "plugins", "check", name)
    assert printed.endswith("\n1 ok, 0 failed, 0 not checked\n")
