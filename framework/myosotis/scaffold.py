"""What to begin with: a project of one's own, and a distribution of one plugin, complete as they are."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from myosotis.config import conf_folder
from myosotis.errors import ConfigurationError
from myosotis.interfaces import API

NewKind = Literal["method", "dataset", "model", "metric"]
NAME = re.compile(r"[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*")
USAGE: Mapping[NewKind, str] = {
    "method": "myosotis run 'method=[{name}]'",
    "dataset": "myosotis run 'dataset=[{name}]'",
    "model": "myosotis run model={name}",
    "metric": "myosotis run 'dataset=[DATASET]' 'dataset.DATASET.metrics=[{name}]'",
}
"""How a plugin of each kind is used."""


@dataclass(frozen=True)
class Names:
    """What a plugin, its class, its module and its distribution are called."""

    name: str
    cls: str
    module: str
    distribution: str

    @classmethod
    def of(cls, name: str) -> Names:
        """Derive them from the plugin's name.

        Raises:
            ConfigurationError: it is no name.
        """
        if not NAME.fullmatch(name):
            raise ConfigurationError(
                f"a plugin's name must be of lower-case letters and digits, with _ between words, but got {name!r}"
            )
        words = re.split(r"[_-]", name)
        plain = "_".join(words)
        title = "".join(word.capitalize() for word in words)
        return cls(plain, title, f"myosotis_{plain}", f"myosotis-{'-'.join(words)}")


def write_distribution(names: Names, kind: NewKind, folder: Path) -> list[Path]:
    """Write a distribution into a folder that must be new; all of it, or nothing.

    Returns:
        The files, relative to the folder.

    Raises:
        ConfigurationError: the folder is there already, or cannot be made.
    """
    values = {**vars(names), "kind": kind, "api": API, "usage": USAGE[kind].format(name=names.name)}
    files = {
        "pyproject.toml": "pyproject.toml.jinja",
        "README.md": "README.md.jinja",
        ".github/workflows/test.yml": "test.yml.jinja",
        f"{names.module}.py": f"{kind}/plugin.py.jinja",
        f"tests/test_{names.name}.py": f"{kind}/test.py.jinja",
    }
    return _write(folder, files, values)


def write_project(folder: Path) -> list[Path]:
    """Write a project of one's own into a folder that must be new: rows, a study, a preset; all of it, or nothing.

    Returns:
        The files, relative to the folder.

    Raises:
        ConfigurationError: the folder is there already, or cannot be made.
    """
    files = {
        "README.md": "project/README.md.jinja",
        "data/train.jsonl": "project/rows.jsonl.jinja",
        "data/test.jsonl": "project/rows.jsonl.jinja",
        "experiments/first.yaml": "project/first.yaml.jinja",
        "conf/trainer/short.yaml": "project/short.yaml.jinja",
    }
    return _write(folder, files, {"title": folder.resolve().name, "held_out": (1, 4, 8, 11, 15, 18)})


def _write(folder: Path, files: Mapping[str, str], values: Mapping[str, Any]) -> list[Path]:
    if folder.exists():
        raise ConfigurationError(f"the folder must be new, but {folder} is there already; give another one")
    templates = Environment(
        loader=FileSystemLoader(conf_folder() / "scaffold"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            for name, template in files.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                text = templates.get_template(template).render({**values, "file": name})
                (made / name).write_text(text, encoding="utf-8")
            made.chmod(0o755)
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise ConfigurationError(
            f"{folder} cannot be written: {error.strerror or error}; give another folder"
        ) from error
    return [Path(name) for name in files]
