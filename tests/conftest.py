"""What all tests share: nothing that happens to be set in the environment may change a result."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator

import pytest

# Before torch is imported. Small models gain nothing from more threads, and lose everything beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that none of those who share the tests is left with it at the end."""
    items.sort(key=lambda item: (-_most_seconds(item), item.get_closest_marker("slow") is None))


def _most_seconds(item: pytest.Item) -> float:
    """Give how long a test may take, where it may take longer than the others."""
    marker = item.get_closest_marker("timeout")
    return max(0.0, marker.args[0] - float(item.config.getini("timeout"))) if marker else 0.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write out what a test printed that is no text: it goes to another process."""
    report = yield
    report.sections = [
        (title, printed.encode(errors="backslashreplace").decode()) for title, printed in report.sections
    ]
    return report


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in [name for name in os.environ if name.startswith(("WANDB_", "HYDRA_", "MYOSOTIS_"))]:
        del os.environ[name]
    os.environ["MYOSOTIS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Give a function that runs the command line here, and gives its exit code and what it printed."""

    from myosotis import cli

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["myosotis", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
