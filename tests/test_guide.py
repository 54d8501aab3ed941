"""What CONTRIBUTING.md says about a method in ten minutes is done here word for word, at a tiny size."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("## A method in ten minutes\n")[2].partition("\n## ")[0]
BLOCKS = re.split(r"^```(\w*)\n(.*?)^```\n", SECTION, flags=re.DOTALL | re.MULTILINE)
SHORT = ["trainer.max_steps=2", "evaluation.limit=4", "logger=none", "hydra.launcher.workers=1"]
WITHOUT_NETWORK = [
    "--no-index",
    "--no-deps",
    "--no-build-isolation",
    "--quiet",
    "--disable-pip-version-check",
]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder that the guide ends in, and what each of its commands printed."""
    folder = tmp_path_factory.mktemp("guide")
    installed = tmp_path_factory.mktemp("installed")
    printed: dict[str, str] = {}
    for prose, language, content in zip(BLOCKS[::3], BLOCKS[1::3], BLOCKS[2::3], strict=False):
        if language == "python":
            name = re.findall(r"`(\S+\.py)`", prose)[-1]
            assert (folder / name).is_file(), "plugins new has written it already"
            (folder / name).write_text(content, encoding="utf-8")
            continue
        for line in content.splitlines():
            command = shlex.split(line)
            if command[0] == "cd":
                folder = folder / command[1]
            else:
                printed[line] = run(folder, installed, command)
    return folder, printed


def run(folder: Path, installed: Path, command: list[str]) -> str:
    """Run a command of the guide: pip without a network, a study in few steps."""
    if command[:2] == ["pip", "install"]:
        command = ["pip", "install", *WITHOUT_NETWORK, "--target", str(installed), "."]
    if command[:2] == ["myosotis", "run"]:
        command = [*command, *SHORT]
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_guide_is_followed_from_new_to_results(followed: tuple[Path, dict[str, str]]) -> None:
    _, printed = followed
    assert [line.split(" ")[:3] for line in printed][-3:] == [
        ["myosotis", "plugins", "check"],
        ["myosotis", "run", "'method=[full],[child_tuning]'"],
        ["myosotis", "results", "child_tuning"],
    ]


def test_the_suite_passes_with_the_guides_own_test(followed: tuple[Path, dict[str, str]]) -> None:
    _, printed = followed
    assert re.search(r"\b26 passed", printed["pytest"])
    assert "0 failed, 0 not checked" in printed["myosotis plugins check child_tuning"]


def test_the_sweep_runs_every_trial(followed: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, _ = followed
    rows = json.loads(
        run(folder, tmp_path, ["myosotis", "results", "child_tuning", "--trials", "--format", "json"])
    )
    assert sorted(row["arm"] for row in rows) == ["child_tuning"] * 4 + ["full"] * 2
    assert {row["status"] for row in rows} == {"finished"}
