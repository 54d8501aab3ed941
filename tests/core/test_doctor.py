"""What the doctor finds: nothing where all is well, and what is broken with what to do."""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from myosotis import doctor
from myosotis.cli import app
from myosotis.doctor import Diagnosis, diagnoses


def found(part: str) -> list[Diagnosis]:
    return [each for each in diagnoses(Path("studies")) if each.part == part]


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions that packages are said to have; the empty one is of a package that is not there."""
    said: dict[str, str] = {}
    real = metadata.version

    def version(name: str) -> str:
        if said.get(name) == "":
            raise metadata.PackageNotFoundError(name)
        return said.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    return said


def test_nothing_is_wrong_here_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    assert "problem" not in done.output
    assert f"torch {torch.__version__}" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_or_old_is_a_problem(versions: dict[str, str]) -> None:
    versions.update({"peft": "", "transformers": "4.30"})
    [packages] = found("packages")
    assert packages.state == "problem"
    assert packages.found == "peft is not installed, transformers 4.30 is not <6,>=5"
    assert "pip install" in packages.advice


def test_an_extra_that_is_missing_is_a_note_with_its_line(versions: dict[str, str]) -> None:
    versions["bm25s"] = ""
    [extra] = found("extra retrieval")
    assert (extra.state, extra.found) == ("note", "bm25s is not installed")
    assert extra.advice == "pip install 'myosotis[retrieval]'"
    [packages] = found("packages")
    assert packages.state == "ok"


def test_a_folder_that_cannot_be_written_to_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    assert [each.found for each in found("studies")] == ["studies: Permission denied"]
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "give another folder as studies=FOLDER" in done.output


def test_a_broken_plugin_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYOSOTIS_PLUGINS", "no_such_module")
    states = [each.state for each in found("plugins")]
    assert states == ["ok", "problem"]


def test_what_cannot_be_looked_at_is_a_problem_and_the_rest_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> Any:
        raise RuntimeError("no such library\nand more")

    monkeypatch.setattr(doctor, "_bitsandbytes", broken)
    every = list(diagnoses(Path("studies")))
    assert [each.found for each in every if each.state == "problem"] == ["no such library"]
    assert every[-1].part == "clusters"
