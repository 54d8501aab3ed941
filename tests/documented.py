"""The commands that the documents show, as bash reads them: it goes through each block, and starts nothing."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "experiments").rglob("*.md")),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "plugins").rglob("README.md")),
)
OTHER_LANGUAGES = {"python", "text", "yaml"}
"""Fenced blocks that are no commands say what they are."""
PROGRAMS = (
    ".venv/bin/myosotis",
    ".venv/bin/pip",
    ".venv/bin/pre-commit",
    "curl",
    "du",
    "make",
    "myosotis",
    "optuna-dashboard",
    "pip",
    "python",
    "python3",
    "torchrun",
    "transformers",
    "wandb",
)
"""What a document may start; bash knows nothing else."""
GUIDE = re.compile(r"^## A method in ten minutes$.*?(?=^## )", flags=re.DOTALL | re.MULTILINE)
"""What `test_guide.py` follows word for word."""
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", flags=re.DOTALL | re.MULTILINE)
INLINE = re.compile(rf"`((?:\w+=\S+ )?(?:{'|'.join(map(re.escape, PROGRAMS))}) [^`]+)`")
SHELL = """
set -euo pipefail
PATH=
WHERE=
record() { printf '%s\\0' "$WHERE" "${PYTHONPATH:-}" "${MYOSOTIS_PLUGINS:-}" "$@" $'\\x1e' >> "$LOG"; }
cd() { WHERE=$1; }
tail() { :; }
cut() { printf TRIAL; }
"""
"""`tail` and `cut` pick one trial of `results`."""


@dataclass(frozen=True)
class Command:
    """A command of a document.

    Attributes:
        document: where it stands.
        folder: where the block had gone by then; empty for where it began.
        path: the environment's PYTHONPATH.
        plugins: the environment's MYOSOTIS_PLUGINS.
        words: the program and its arguments.
    """

    document: str
    folder: str
    path: str
    plugins: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"


def blocks(document: str) -> Iterator[tuple[str, str]]:
    """Give a document's fenced blocks: language and text."""
    for _, language, text in FENCED.findall(text_of(document)):
        yield language, text


def text_of(document: str) -> str:
    """Give a document without the guide."""
    return GUIDE.sub("", (ROOT / document).read_text(encoding="utf-8"))


def scripts(document: str) -> Iterator[str]:
    """Give what a document has for the shell: fenced blocks without a language, and what prose shows as code."""
    text = text_of(document)
    yield from (block for language, block in blocks(document) if language not in OTHER_LANGUAGES)
    for found in INLINE.findall(FENCED.sub("", text)):
        yield re.sub(r"\s+", " ", found)


def commands(document: str) -> list[Command]:
    """Give the commands of a document, each once.

    Raises:
        AssertionError: bash does not understand a block, or it starts what `PROGRAMS` does not have, or writes to a
            file that the project does not have.
    """
    found = [each for script in scripts(document) for each in read(document, script)]
    return list(dict.fromkeys(found))


def read(document: str, script: str) -> Iterator[Command]:
    """Give the commands of one script."""
    functions = "".join(f'{name}() {{ record {name} "$@"; }}\n' for name in PROGRAMS)
    with tempfile.TemporaryDirectory() as folder:
        for path in ROOT.glob("experiments/**/"):
            (Path(folder) / path.relative_to(ROOT)).mkdir(parents=True, exist_ok=True)
        log = Path(folder) / "log"
        log.touch()
        done = subprocess.run(
            ["bash", "--norc", "-c", SHELL + functions + script],
            cwd=folder,
            env={"LOG": str(log)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{document}:\n{script}\n{done.stderr}"
        for path in Path(folder).rglob("*.*"):
            assert path.is_dir() or (ROOT / path.relative_to(folder)).is_file(), (
                f"{document} writes {path.name}"
            )
        for record in log.read_text(encoding="utf-8").split("\0\x1e\0")[:-1]:
            folder_of, python_path, plugins, *words = record.split("\0")
            yield Command(document, folder_of, python_path, plugins, tuple(words))
