"""A trial's log of numbers survives a kill, and no logger ends a trial."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from omegaconf import OmegaConf

from myosotis.errors import ConfigurationError, StorageError
from myosotis.logs import trial_logs
from myosotis.tracking import Tracker, WandbRun, check_logger, open_logger
from tests.core.commands import ROOT
from tests.core.test_processes import offline

RUN = {"study": "toy", "trial": "abc", "name": "plain seed=0"}
WANDB = {
    "_target_": "myosotis.tracking.WandbRun",
    "project": "myosotis",
    "entity": None,
    "tags": [],
    "artifacts": False,
    "group": "${run.study}",
    "id": "${run.trial}",
    "name": "${run.name}",
    "save_dir": "${run.folder}",
}
KEY = "0123456789abcdef0123456789abcdef01234567"


def steps(tracker: Tracker, stage: int, count: int) -> None:
    for step in range(1, count + 1):
        tracker.log(stage, step, 10 * stage + step, {"loss": step / 4})


def points(folder: Path) -> list[tuple[int, int]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(entry["stage"], entry["step"]) for entry in map(json.loads, lines)]


ALL = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]


@pytest.mark.parametrize(
    ("at", "kept"),
    [
        ((0, None), []),
        ((1, None), ALL[:3]),
        ((2, None), ALL),
        ((1, 2), ALL[:2]),
        ((2, 0), ALL[:3]),
        ((2, 1), ALL[:4]),
        ((1, 2**31), ALL[:3]),
    ],
    ids=str,
)
def test_trial_goes_on_from_a_point(
    tmp_path: Path, at: tuple[int, int | None], kept: list[tuple[int, int]]
) -> None:
    tracker = Tracker(tmp_path)
    tracker.start({}, 0)
    steps(tracker, 1, 3)
    steps(tracker, 2, 3)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    Tracker(tmp_path).start({}, *at)
    assert points(tmp_path) == kept
    assert before.startswith((tmp_path / "metrics.jsonl").read_bytes())


@pytest.mark.parametrize("lost", range(1, 20))
def test_half_written_line_is_dropped(tmp_path: Path, lost: int) -> None:
    tracker = Tracker(tmp_path)
    steps(tracker, 1, 3)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    tracker.start({}, 1, 3)
    expected = ALL[:3] if lost == 1 else ALL[:2]  # a line is whole without its end
    assert points(tmp_path) == expected
    tracker.log(1, len(expected) + 1, 14, {"loss": 1.0})
    assert points(tmp_path) == [*expected, (1, len(expected) + 1)]


def test_damaged_lines_are_dropped_and_said(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, trial="abc")
    steps(tracker, 1, 2)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n[1]\n{"stage": 1}\n{"stage": null, "step": 1}\n')
    tracker.log(1, 3, 13, {"loss": 1.0})
    with trial_logs({"abc": tmp_path}):
        tracker.start({}, 1)
    assert points(tmp_path) == ALL[:3]
    assert "4 damaged lines of" in (tmp_path / "log.txt").read_text()


def test_full_disk_is_said(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"metrics\.jsonl must be written, but No space left on device"):
        Tracker(tmp_path).log(1, 1, 1, {"loss": 1.0})


# Loggers that fail


class Moody:
    """A logger that raises from one of its calls on."""

    def __init__(self, folder: str = "", call: str = "", after: int = 0) -> None:
        self.call, self.after = call, after
        self.calls: list[str] = []
        if call == "open":
            raise ConnectionError("no route to the logger")

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.call and self.calls.count(name) > self.after:
            raise ConnectionError("no route to the logger")

    def log_hyperparams(self, params: Any) -> None:
        self._called("log_hyperparams")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._called("log_metrics")

    def finalize(self, status: str) -> None:
        self._called(f"finalize {status}")


@pytest.mark.parametrize(
    ("call", "after", "calls"),
    [
        ("log_hyperparams", 0, ["log_hyperparams"]),
        ("log_metrics", 1, ["log_hyperparams", "log_metrics", "log_metrics"]),
        ("log_metrics", 3, ["log_hyperparams", *["log_metrics"] * 4, "finalize success"]),
        ("finalize success", 0, ["log_hyperparams", *["log_metrics"] * 4, "finalize success"]),
    ],
)
def test_logger_that_fails_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], call: str, after: int, calls: list[str]
) -> None:
    moody = Moody(call=call, after=after)
    tracker = Tracker(tmp_path, moody, "abc")
    with trial_logs({"abc": tmp_path}):
        tracker.start({"seed": 0}, 0)
        steps(tracker, 1, 3)
        tracker.finish([], {"learned": 1.0})
    assert moody.calls == calls  # and is never asked again
    assert points(tmp_path) == ALL[:3]
    warning = "the logger Moody failed: ConnectionError: no route to the logger. The trial goes on without it"
    assert capsys.readouterr().err.count(warning) == 1
    assert (tmp_path / "log.txt").read_text().count(warning) == 1


def test_logger_that_fails_at_a_failed_trials_end(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, Moody(call="finalize failed"))
    tracker.fail()
    assert tracker.logger is None


def test_logger_that_cannot_be_opened_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = OmegaConf.create(
        {"_target_": "tests.core.test_tracking.Moody", "folder": "${run.folder}", "call": "open"}
    )
    check_logger(node)
    with trial_logs({"abc": tmp_path}):
        assert open_logger(node, {**RUN, "folder": str(tmp_path)}) is None
    warning = (
        "Moody could not be opened: ConnectionError: no route to the logger. The trial goes on without it"
    )
    assert warning in capsys.readouterr().err
    assert warning in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("parameters", "parts"),
    [
        ({"_target_": "nothing.Logger"}, ["logger._target_:", "nothing"]),
        ({"_target_": "tests.core.test_tracking.Moody", "foldr": 1}, ["Moody", "foldr"]),
        ({"_target_": "tests.core.test_tracking.Moody", "folder": "${run.fold}"}, ["Moody", "fold"]),
        ({key: value for key, value in WANDB.items() if key != "name"}, ["WandbRun", "'name'"]),
    ],
    ids=["target", "parameter", "interpolation", "missing"],
)
def test_logger_that_cannot_be_is_refused(parameters: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_logger(OmegaConf.create(parameters))
    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        WANDB,
        {"_target_": "logging.handlers.MemoryHandler", "_args_": [10], "flushLevel": 40},
        {"_target_": "collections.OrderedDict", "anything": 1},
    ],
    ids=["none", "wandb", "positional", "not in Python"],
)
def test_logger_that_can_be_is_not(parameters: dict[str, Any]) -> None:

    check_logger(OmegaConf.create(parameters))


# Weights & Biases


def run_wandb(folder: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script that has `tracker`, on W&B, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", BEGIN + script],
        cwd=folder,
        env=wandb_environment(environment),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )


def wandb_environment(environment: Mapping[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return {**kept, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", **environment}


BEGIN = """
import time
from pathlib import Path
from omegaconf import OmegaConf
from myosotis import tracking
from myosotis.logs import trial_logs
from tests.core.test_tracking import RUN, WANDB, steps
tracking.WAIT_SECONDS = 3.0

def begin(trial):
    folder = Path(trial)
    folder.mkdir(exist_ok=True)
    run = {**RUN, "trial": trial, "folder": str(folder)}
    tracker = tracking.Tracker(folder, tracking.open_logger(OmegaConf.create(WANDB), run), trial)
    tracker.start({"seed": 0}, 0)
    return tracker
"""


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_wandb_that_cannot_be_reached_is_waited_for_once(tmp_path: Path, closed_port: int) -> None:
    script = """
for trial in ("abc", "def"):
    started = time.monotonic()
    with trial_logs({trial: Path(trial)}):
        tracker = begin(trial)
        steps(tracker, 1, 3)
        tracker.finish([], {"learned": 1.0})
    print(time.monotonic() - started)
"""
    address = {"WANDB_BASE_URL": f"http://127.0.0.1:{closed_port}", "WANDB_API_KEY": KEY}
    done = run_wandb(tmp_path, script, **address)
    first, second = map(float, done.stdout.split())
    assert 3 <= first < 60
    assert second < 3
    warning = "Weights & Biases cannot be reached: CommError:"
    assert done.stderr.count(warning) == 1
    assert "to upload later: wandb sync ./*/wandb/offline-run-*" in done.stderr
    assert warning in (tmp_path / "abc" / "log.txt").read_text()
    for trial in ("abc", "def"):
        found = offline(tmp_path / trial)
        assert [row["loss"] for row in found.history if "loss" in row] == [0.25, 0.5, 0.75]
        assert (found.summary["learned"], found.exit_code) == (1.0, 0)


class Server(http.server.BaseHTTPRequestHandler):
    """Answers what W&B asks as it begins a run, and takes in all that it sends."""

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            query = json.loads(sent)
            answer["data"] = self.upserted(query["variables"]) if "UpsertBucket" in query["query"] else {}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def upserted(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "myosotis", "entity": {"id": "e", "name": "somebody"}}
        texts = {"id": "b", "config": "{}", "summaryMetrics": "{}", "description": "", "sweepName": ""}
        names = {"name": variables["name"], "displayName": variables["displayName"]}
        bucket = {**texts, **names, "historyLineCount": 0, "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""


SERVER = """
import http.server
from tests.core.test_tracking import Server
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def test_wandb_that_is_lost_in_the_middle_ends_no_trial(tmp_path: Path) -> None:
    script = """
import os, signal, sys
tracker = begin("abc")
steps(tracker, 1, 3)
time.sleep(1)
os.kill(int(os.environ["SERVER"]), signal.SIGKILL)
steps(tracker, 2, 3)
started = time.monotonic()
tracker.finish([], {"learned": 1.0})
print(time.monotonic() - started)
"""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    with server.stdout:
        address = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    try:
        done = run_wandb(tmp_path, script, WANDB_BASE_URL=address, WANDB_API_KEY=KEY, SERVER=str(server.pid))
    finally:
        server.kill()
        server.wait()
    assert 3 <= float(done.stdout) < 60
    assert points(tmp_path / "abc") == ALL
    [run] = tmp_path.glob("abc/wandb/run-*")
    [warning] = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert "the logger WandbRun failed: TimeoutError: Timed out finishing run" in warning
    assert f"to upload what W&B has so far: wandb sync {run.relative_to(tmp_path)}" in warning
    run.rename(run.with_name(f"offline-{run.name}"))  # the reader looks there
    found = offline(tmp_path / "abc")
    assert [row["loss"] for row in found.history if "loss" in row] == [0.25, 0.5, 0.75] * 2
    assert (found.summary["learned"], found.exit_code) == (1.0, 0)


def test_wandb_online_without_a_key_goes_offline(tmp_path: Path) -> None:
    script = """
tracker = begin("abc")
steps(tracker, 1, 3)
tracker.finish([], {"learned": 1.0})
"""
    done = run_wandb(tmp_path, script, WANDB_MODE="online", HOME=str(tmp_path))
    assert done.stderr.count("Weights & Biases cannot be reached: ") == 1
    assert offline(tmp_path / "abc").exit_code == 0


class Refusing(http.server.BaseHTTPRequestHandler):
    """Refuses every key, as W&B does one that has expired."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_GET(self) -> None:
        content = b'{"errors": [{"message": "user is not logged in"}]}'
        self.send_response(401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""


def test_wandb_that_refuses_an_expired_key_goes_offline(tmp_path: Path) -> None:
    script = """
tracker = begin("abc")
steps(tracker, 1, 3)
tracker.finish([], {"learned": 1.0})
"""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_address[1]}", "WANDB_API_KEY": KEY}
        done = run_wandb(tmp_path, script, WANDB_MODE="online", HOME=str(tmp_path), **address)
        server.shutdown()
    assert done.stderr.count("Weights & Biases cannot be reached: ") == 1
    assert "401" in done.stderr
    assert "wandb login --relogin" in done.stderr
    assert offline(tmp_path / "abc").exit_code == 0


def test_wandb_whose_service_is_killed_ends_no_trial(tmp_path: Path) -> None:
    script = """
import os, psutil, signal
tracker = begin("abc")
steps(tracker, 1, 3)
for child in psutil.Process().children(recursive=True):
    os.kill(child.pid, signal.SIGKILL)
time.sleep(0.5)
steps(tracker, 2, 3)
tracker.finish([], {"learned": 1.0})
tracker = begin("def")
steps(tracker, 1, 3)
tracker.finish([], {"learned": 1.0})
"""
    done = run_wandb(tmp_path, script, WANDB_MODE="offline")
    assert points(tmp_path / "abc") == ALL
    [warning] = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert "the logger WandbRun failed: ConnectionResetError: " in warning  # worded by who sees it first
    assert "to upload what W&B has so far: wandb sync abc/wandb/offline-run-" in warning
    assert offline(tmp_path / "def").exit_code == 0


def test_killed_process_leaves_what_wandb_had(tmp_path: Path) -> None:
    script = BEGIN + 'steps(begin("abc"), 1, 3); time.sleep(2); print("logged", flush=True); time.sleep(60)'
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=wandb_environment({"WANDB_MODE": "offline"}),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "logged\n"
    others = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(others, timeout=60)  # W&B's own process sees it and ends
    found = offline(tmp_path / "abc")
    assert [row["loss"] for row in found.history] == [0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("is_offline", "place"),
    [
        (False, "W&B: https://wandb.ai/somebody/here/groups/my%20study"),
        (True, "W&B, offline: my study/*/wandb/offline-run-*"),
    ],
)
def test_where_wandb_shows_a_study(
    is_offline: bool, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SimpleNamespace(offline=is_offline, project_url="https://wandb.ai/somebody/here")
    monkeypatch.setattr(WandbRun, "_begin", lambda self, settings: run)
    logger = WandbRun("here", None, [], False, "my study", "abc", "a", str(tmp_path / "my study" / "abc"))
    assert Tracker(tmp_path, logger).place() == place
    assert Tracker(tmp_path).place() == ""
