"""The README's tables of plugins and extras have what there is, and nothing else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from myosotis.plugins import KINDS, load_registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def table(first: str) -> list[list[str]]:
    """Give the rows of the table whose first column is so headed."""
    [body] = re.findall(rf"^\| {first} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", README, flags=re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()]


def names(cell: str) -> list[str]:
    """Give the names of a cell, each as code."""
    assert re.fullmatch(r"`\w+`( `\w+`)*", cell), cell
    return re.findall(r"\w+", cell)


def built_in(kind: str) -> list[str]:
    own = [each for each in load_registry() if each.distribution.startswith("myosotis ")]
    return sorted(each.name for each in own if each.kind == kind)


def told() -> list[tuple[str, str]]:
    """Give kind and name of all that the table of plugins has; the kind stands before what says which of it."""
    return [(re.split(r"[:,]| of ", head)[0], name) for head, cell in table("kind") for name in names(cell)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_of_plugins_has_the_registrys(kind: str) -> None:
    assert sorted(name for each, name in told() if each == kind) == built_in(kind)


def test_the_table_of_plugins_has_no_other_kind() -> None:
    assert {kind for kind, _ in told()} == {*KINDS, "preset"}
    presets = {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")}
    assert {name for kind, name in told() if kind == "preset"} == presets - {"tuned"}  # `evaluate` has it


def test_the_table_of_extras_has_the_projects() -> None:
    extras = [name for cell, _ in table("extra") for name in names(cell)]
    assert sorted([*extras, "test"]) == sorted(PROJECT["optional-dependencies"])
