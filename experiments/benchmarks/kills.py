"""Kill a study at random moments, run the same command again, and hold it against one that was left alone.

Every table, log and weight must be the same to the bit, and what has finished must not be touched again.
The command's own workers must end with it.

    python experiments/benchmarks/kills.py --kills 50
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

SWEEP = (
    "method=[lora],[lora,replay]",
    "method.lora.rank=2,8",
    "seed=0,1",
    "trainer.max_steps=24",  # many kills must come after a trial has finished
    "trainer.checkpoint_every_n_steps=2",  # a run that is killed after ten seconds must have come further
    "evaluation.limit=16",
    "logger=none",
    "study=killed",
)
"""Eight trials of two stages on the embedded model and data."""


def start(overrides: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    log = (folder / "output.txt").open("ab")
    command = [sys.executable, "-m", "myosotis", "run", *overrides]
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Give when each finished trial's result was written."""
    found = {}
    for path in folder.glob("studies/killed/*/result.json"):
        state = path.stat()
        found[path.parent.name] = (state.st_mtime_ns, state.st_ino)
    return found


def kill(process: subprocess.Popen[bytes], after: float) -> bool:
    """Kill the command alone, not its workers; tell whether it still ran."""
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def descendants_end(session: int, patience: float = 3.0) -> bool:
    """Tell whether every process of a killed command's session is gone soon."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if not _running(session):
            return True
        time.sleep(0.05)
    return False


def _running(session: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=,stat=", "-s", str(session)], capture_output=True, text=True)
    pairs = [line.split() for line in listed.stdout.splitlines()]
    return [int(pid) for pid, state in pairs if not state.startswith("Z")]


def contents(folder: Path) -> dict[str, bytes]:
    """Read all that must be the same to the bit."""
    names = ("scores.jsonl", "metrics.jsonl", "adapter/adapter_model.safetensors")
    study = folder / "studies" / "killed"
    return {
        f"{path.parent.name}/{name}": (path.parent / name).read_bytes()
        for path in study.glob("*/result.json")
        for name in names
    }


def run_with_kills(
    overrides: Sequence[str], folder: Path, kills: int, most_seconds: float
) -> tuple[int, int]:
    """Run a study to its end, killed on the way; give how often, and how often with finished trials."""
    done = late = 0
    while True:
        before = finished(folder)
        process = start(overrides, folder)
        killed = done < kills and kill(process, random.uniform(0, most_seconds))
        if killed and not descendants_end(process.pid):
            sys.exit(f"processes outlived their command: {_running(process.pid)}")
        code = process.wait()
        now = finished(folder)
        if any(now.get(trial) != when for trial, when in before.items()):
            sys.exit("a finished trial was run again")
        done += killed
        late += killed and bool(now)
        print(f"  kill {done}: {len(now)} trials finished", flush=True)
        if not killed:
            if code:
                sys.exit((folder / "output.txt").read_text()[-3000:])
            return done, late


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of myosotis run, in place of the eight trials")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most-seconds", type=float, default=20.0, help="between a start and its kill")
    parser.add_argument("--cohort", default="2")
    parser.add_argument("--workers", default="2")
    args = parser.parse_args()
    random.seed(args.seed)
    overrides = [*(args.overrides or SWEEP), f"hydra.launcher.cohort={args.cohort}"]
    overrides += [f"hydra.launcher.workers={args.workers}"]
    os.environ.pop("WANDB_API_KEY", None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / "whole"
        whole.mkdir()
        begun = time.monotonic()
        if start(overrides, whole).wait():
            sys.exit((whole / "output.txt").read_text()[-3000:])
        print(f"left alone: {time.monotonic() - begun:.0f} s", flush=True)
        expected = contents(whole)
        done = late = studies = 0
        while done < args.kills:
            folder = Path(temporary) / f"killed{studies}"
            folder.mkdir()
            kills, with_finished = run_with_kills(overrides, folder, args.kills - done, args.most_seconds)
            done, late = done + kills, late + with_finished
            found = contents(folder)
            different = [name for name in expected if found.get(name) != expected[name]]
            if different or found.keys() != expected.keys():
                sys.exit(f"not the same: {different or found.keys() ^ expected.keys()}")
            studies += 1
        print(
            f"{done} kills over {studies} studies of {len(expected) // 3} trials, {late} of them after some had "
            "finished: all files the same to the bit"
        )


if __name__ == "__main__":
    main()
