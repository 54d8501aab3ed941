"""Another Hydra program of the same environment, with a folder named `conf` too, is left as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys

import hydra


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config):
    print("value", config.value, config.method.name)


main()
ours = {"myosotis", "myosotis_plugins", "torch"}
print("ours", sorted(name for name in sys.modules if name.split(".")[0] in ours))
"""
CONFIGURATION = "defaults:\n- method: theirs\n- _self_\nvalue: 3\n"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "config.yaml").write_text(CONFIGURATION)
    (tmp_path / "conf" / "method" / "theirs.yaml").write_text("name: theirs\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "program.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_it_runs_as_ever_and_imports_nothing_of_ours(program: Path) -> None:
    done = call(program, "value=4")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["value 4 theirs", "ours []"]
    assert (program / "outputs").is_dir()  # Hydra's own folder, and no study
    assert not (program / "studies").exists()


def test_its_configuration_is_its_own(program: Path) -> None:
    done = call(program, "--cfg", "job")
    assert done.stdout.split("ours")[0] == "method:\n  name: theirs\nvalue: 3\n"


def test_its_search_path_has_no_entry_of_ours(program: Path) -> None:
    done = call(program, "--info", "searchpath")
    assert done.returncode == 0
    assert f"file://{program}/conf" in done.stdout
    for word in ("myosotis", "working folder"):
        assert word not in done.stdout.split("ours")[0]
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.count("|") > 2]
    assert sorted(rows[1:]) == ["hydra", "main", "schema"]


def test_its_groups_have_no_option_of_ours(program: Path) -> None:
    done = call(program, "method=unknown")
    assert done.returncode == 1
    assert "Available options in 'method':\n\ttheirs" in done.stderr
    assert "lora" not in done.stderr


def test_its_launcher_and_sweeper_are_hydras(program: Path) -> None:
    done = call(program, "--multirun", "value=1,2", "hydra.sweep.dir=swept")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("value")] == [
        "value 1 theirs",
        "value 2 theirs",
    ]
    assert sorted(path.name for path in (program / "swept").iterdir()) == ["0", "1", "multirun.yaml"]
