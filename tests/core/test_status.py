"""How a study stands, told from its folder: states, how far, how long, without a change to it."""

from __future__ import annotations

import io
import json
import math
import socket
import subprocess
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from myosotis.cli import app
from myosotis.ledger import Score, TrialEntry, write_json, write_scores, write_study
from myosotis.locks import TrialLock
from myosotis.status import study_status
from myosotis.status_text import show_status
from tests.core.commands import run_at, toy

IDS = [f"{number:012x}" for number in range(6)]


@pytest.fixture
def study(tmp_path: Path, other: subprocess.Popen[bytes]) -> Path:
    """Two trials are finished, one runs, one failed, one has stopped, and one waits."""
    folder = tmp_path / "studies" / "ranks"
    entries = [
        TrialEntry(each, each, "lora", {"method.lora.rank": 2**number}, 0, "")
        for number, each in enumerate(IDS)
    ]
    folder.mkdir(parents=True)
    write_study(folder, [], entries)
    for name in IDS[:5]:
        (folder / name).mkdir()
    for name, seconds in zip(IDS[:2], (30.0, 50.0), strict=True):
        write_json(folder / name / "result.json", {"seconds": seconds})
    log = [{"stage": 1, "step": 10, "loss": 2.5}, {"stage": 2, "step": 3, "held_out_loss": 9.0}]
    text = "\n".join(json.dumps(each) for each in log) + '\n{"stage": 2, "st'
    (folder / IDS[2] / "metrics.jsonl").write_text(text, encoding="utf-8")
    values = [
        (0, "prose", "loss", 3.0),
        (0, "prose", "bits", 7.0),
        (1, "prose", "loss", 2.0),
        (1, "prose", "bits", 6.0),
    ]
    scores = [
        Score(stage, 0, task, "test", metric, value, 8, value, value) for stage, task, metric, value in values
    ]
    write_scores(folder / IDS[2] / "scores.jsonl", scores)
    path = TrialLock(folder, IDS[2]).path
    path.parent.mkdir()
    path.write_text(json.dumps({"pid": other.pid, "host": socket.gethostname(), "since": "2026-01-01"}))
    (folder / IDS[3] / "error.txt").write_text("ValueError: no\n\nTraceback …\n", encoding="utf-8")
    return folder


def test_each_trials_state_and_how_far_it_is(study: Path) -> None:
    found = study_status(study)
    states = [each.standing.status for each in found.trials]
    assert states == ["finished", "finished", "running", "failed", "unfinished", "new"]
    running = found.trials[2]
    assert running.logged == {"stage": 1, "step": 10, "loss": 2.5}
    assert running.scores == {"prose": (3.0, 2.0)}


def test_the_time_left_is_what_finished_trials_took_for_each_that_is_left(study: Path) -> None:
    # 40 seconds a trial; two wait, and one that runs is half done, one at a time.
    assert study_status(study).seconds_left() == pytest.approx(40 * 2.5)


def test_no_time_is_told_where_nothing_runs(study: Path, other: subprocess.Popen[bytes]) -> None:
    other.kill()
    other.wait()
    found = study_status(study)
    assert found.counts() == {"finished": 2, "failed": 1, "unfinished": 2, "new": 1}
    assert math.isnan(found.seconds_left())


def test_it_is_printed_and_nothing_is_changed(study: Path) -> None:
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    output = io.StringIO()
    show_status(study_status(study), Console(file=output, width=120))
    text = output.getvalue()
    assert text.startswith(
        "study ranks: 6 trials, 2 finished, 1 running, 1 failed, 1 stopped, 1 waiting; about 1 min 40 s left\n"
    )
    [row] = [line for line in text.splitlines() if "lora.rank=4" in line]
    assert row.split() == ["lora", "lora.rank=4", "0", "running", "1", "10", "2.5", "prose", "3", "→", "2"]
    assert "failed: lora lora.rank=8 seed=0: ValueError: no" in text
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before


def test_the_command_reads_a_real_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_at(tmp_path, *toy("seed=0,1", "trainer.max_steps=2", "study=two", "hydra.launcher.workers=1"))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["status", "two"])
    assert done.exit_code == 0
    assert done.output == "study two: 2 trials, 2 finished\n"
