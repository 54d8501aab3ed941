"""The toy plugins in place of those that are installed, and one toy study that many tests read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from myosotis import plugins
from myosotis.ledger import StudyRecord
from tests.core.commands import run_at, toy


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Load the toy plugins alone, and work in an empty folder."""
    monkeypatch.setenv("MYOSOTIS_PLUGINS", "tests.toy")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write_plugin(
    isolated: None, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str], Path]]:
    """Give a function that writes a plugin module, to be loaded beside the toy plugins."""
    folder = tmp_path_factory.mktemp("plugins")
    monkeypatch.syspath_prepend(str(folder))
    names: list[str] = []

    def write(name: str, source: str) -> Path:
        path = folder / f"{name}.py"
        path.write_text(source, encoding="utf-8")
        names.append(name)
        monkeypatch.setenv("MYOSOTIS_PLUGINS", ",".join(["tests.toy", *names]))
        return path

    plugins._load_registry.cache_clear()
    yield write
    plugins._load_registry.cache_clear()
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of the study that many tests read."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def study(home: Path) -> StudyRecord:
    """Three methods, two seeds: six finished trials."""
    command = toy("method=[plain],[pull],[still]", "method.pull.strength=0.1", "seed=0,1", "study=toy")
    return run_at(home, *command, report=True)


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this machine."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
