"""A trial's own log: what is in it, what is not, and that it never costs a trial."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from myosotis import logs
from myosotis.logs import trial_log, trial_logs, warn

CORE = logging.getLogger("myosotis.trial")
LIBRARY = logging.getLogger("library.of.somebody")
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ [\w.]+: .*")


@pytest.fixture
def hermit() -> Iterator[logging.Logger]:
    """A library's logger that keeps its records from the root, as transformers' does."""
    logger = logging.getLogger("hermit")
    logger.propagate = False
    yield logger
    logger.propagate = True


def read(folder: Path) -> str:
    return (folder / "log.txt").read_text(encoding="utf-8")


def messages(folder: Path) -> list[str]:
    """Give what was said, without when, how loud and by whom, and without the first line."""
    return [line.split(": ", 1)[1] for line in read(folder).splitlines()[1:]]


def test_core_is_heard_from_info_on_and_others_from_warning_on(
    tmp_path: Path, hermit: logging.Logger
) -> None:
    with trial_logs({"a": tmp_path}):
        CORE.debug("core whispers")
        CORE.info("core speaks")
        for logger in (LIBRARY, hermit, logging.getLogger("myosotis_somebody_elses")):
            logger.info("%s speaks", logger.name)
            logger.warning("%s warns", logger.name)
    CORE.warning("afterwards")
    assert messages(tmp_path) == [
        "core speaks",
        "library.of.somebody warns",
        "hermit warns",
        "myosotis_somebody_elses warns",
    ]
    assert all(LINE.fullmatch(line) for line in read(tmp_path).splitlines())


def test_cohort_shares_what_is_nobodys_own(tmp_path: Path) -> None:
    folders = {trial: tmp_path / trial for trial in ("a", "b", "c")}
    with trial_logs(folders):
        CORE.info("for all")
        trial_log("a").info("for %s", "a")
        CORE.info("for b", extra={"trial": "b"})
        trial_log("").info("for all again")
        LIBRARY.error("a library's")
    common = ["for all", "for all again", "a library's"]
    assert messages(folders["c"]) == common
    assert messages(folders["a"]) == ["for all", "for a", *common[1:]]
    assert messages(folders["b"]) == ["for all", "for b", *common[1:]]


def test_traceback_is_whole(tmp_path: Path) -> None:
    with trial_logs({"a": tmp_path}):
        try:
            raise ValueError("mishap")
        except ValueError:
            trial_log("a").exception("it failed")
    assert "Traceback (most recent call last)" in read(tmp_path)
    assert read(tmp_path).endswith("ValueError: mishap\n")


def test_warnings_are_written_and_shown_as_before(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        before = warnings.showwarning
        with trial_logs({"a": tmp_path}):
            warnings.warn("careful", stacklevel=1)
            with warnings.catch_warnings(record=True):
                warnings.warn("hidden", stacklevel=1)
        assert warnings.showwarning is before
    assert [str(each.message) for each in shown] == ["careful"]
    assert "WARNING py.warnings: " in read(tmp_path)
    assert "UserWarning: careful" in read(tmp_path)
    assert "hidden" not in read(tmp_path)


def test_trial_that_goes_on_appends(tmp_path: Path) -> None:
    with trial_logs({"a": tmp_path}):
        CORE.info("first")
    with (tmp_path / "log.txt").open("a") as file:
        file.write("2026-01-01 half a li")  # as a kill leaves it
    with trial_logs({"a": tmp_path}):
        CORE.info("second")
    lines = read(tmp_path).splitlines()
    assert lines[0].endswith(f"the trial begins, in process {os.getpid()} on {os.uname().nodename}")
    assert lines[1].endswith("first")
    assert lines[2:4] == ["2026-01-01 half a li", "-" * 80]
    assert "the trial goes on" in lines[4]
    assert lines[5].endswith("second")
    assert len(lines) == 6


def test_nothing_is_left_behind_after_fifty_trials(tmp_path: Path, hermit: logging.Logger) -> None:
    def state() -> tuple[object, ...]:
        loggers = (logging.root, hermit, CORE, LIBRARY, logs.CORE)
        known = [each for each in logging._handlerList if each() is not None]  # type: ignore[attr-defined]
        found = [(list(logger.handlers), logger.level) for logger in loggers]
        return found, len(known), len(list(Path("/dev/fd").iterdir())), warnings.showwarning

    before = state()
    for number in range(50):
        folders = {name: tmp_path / f"{name}{number}" for name in ("a", "b")}
        mishap = contextlib.suppress(ValueError)
        with mishap, trial_logs(folders):
            CORE.info("speaks")
            hermit.warning("warns")
            if number % 2:
                raise ValueError
        assert messages(folders["b"]) == ["speaks", "warns"]
    assert state() == before


def test_log_that_cannot_be_written_costs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, nowhere = tmp_path / "full", tmp_path / "nowhere"
    full.mkdir()
    (full / "log.txt").symlink_to("/dev/full")  # every write to it ends in ENOSPC
    nowhere.write_text("no folder")
    with trial_logs({"a": full, "b": nowhere, "c": tmp_path / "c"}):
        CORE.warning("speaks")
        warn("beware", "c")
    assert messages(tmp_path / "c") == ["speaks", "beware"]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "warning: beware\n")


def test_text_that_is_none_costs_nothing(tmp_path: Path) -> None:
    with trial_logs({"a": tmp_path}):
        CORE.info("text \udc80 that is none")
    assert messages(tmp_path) == ["text \\udc80 that is none"]


def test_library_cannot_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LIMIT", 10_000)
    with trial_logs({"a": tmp_path}):
        for _ in range(1000):
            LIBRARY.warning("x" * 90)
        CORE.info("core speaks still")
    assert 10_000 < (tmp_path / "log.txt").stat().st_size < 10_400
    assert messages(tmp_path)[-1] == "core speaks still"


def test_libraries_reach_the_log_and_not_the_terminal(tmp_path: Path) -> None:
    script = """
import logging, sys
from pathlib import Path
from myosotis.logs import trial_logs
with trial_logs({"a": Path(sys.argv[1])}):
    logging.getLogger("library").error("chatter")
    logging.getLogger("library").info("whisper")
    logging.getLogger("myosotis.trial").warning("core")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert messages(tmp_path) == ["chatter", "core"]
