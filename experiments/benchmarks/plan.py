"""What `myosotis plan` says of the embedded quickstart, against what `myosotis run` then takes.

Each round is a folder of its own, plan first; what the plan measured of cohorts is remembered for the run, as it
is for a user. Time is the run's, as a process, start and report included; a trial's is its own `seconds`. Memory is
the most that the command and its workers hold at once, a shared page counted once; disk is all that lies in
the study's folder. Plans and runs take turns, so that a drift of the machine meets both; where others use the
machine, the ratios scatter with what they do.

    python experiments/benchmarks/plan.py --rounds 5
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

NEAR = 0.3
"""An estimate is near where it is off by no more than this share of the truth."""


@dataclass(frozen=True)
class Pair:
    """An estimate and what came of it."""

    what: str
    unit: str
    estimate: float
    truth: float


class Done(NamedTuple):
    """What a command printed, its seconds, and the most memory that it and its workers held together; bytes."""

    printed: str
    seconds: float
    memory: int


def call(folder: Path, *arguments: str) -> Done:
    """Run a command of this project to its end."""
    environment = {**os.environ, "MYOSOTIS_CACHE": str(folder / "cache"), "WANDB_MODE": "offline"}
    command = [sys.executable, "-m", "myosotis", *arguments]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        begun = time.perf_counter()
        child = psutil.Popen(command, cwd=folder, env=environment, stdout=output, stderr=errors)
        most = 0
        while child.poll() is None:
            most = max(most, _held(child))
            time.sleep(0.25)
        seconds = time.perf_counter() - begun
        output.seek(0)
        errors.seek(0)
        if child.returncode:
            sys.exit(f"myosotis {' '.join(arguments)} failed:\n{errors.read()[-2000:]}")
        return Done(output.read(), seconds, most)


def _held(process: psutil.Process) -> int:
    """Give what a process and those that it started hold, a page that they share once."""
    total = 0
    with contextlib.suppress(psutil.Error):
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += each.memory_full_info().pss
    return total


def measure(folder: Path, overrides: Sequence[str]) -> Iterator[Pair]:
    """Plan a study, run it, and pair what was said with what it was."""
    planned = call(folder, "plan", *overrides, "--json")
    ran = call(folder, "run", *overrides)
    plan = json.loads(planned.printed)
    print(f"  planned in {planned.seconds:.0f} s, ran in {ran.seconds:.0f} s", flush=True)
    results = [json.loads(Path(each["folder"], "result.json").read_text()) for each in plan["trials"]]
    whole = plan["estimate"]
    files = [path for path in Path(plan["folder"]).rglob("*") if path.is_file()]
    yield Pair("time", "s", whole["seconds"], ran.seconds)
    for trial, result in zip(plan["trials"], results, strict=True):
        yield Pair(f"time of {trial['name']}", "s", trial["estimate"]["seconds"], result["seconds"])
    yield Pair("memory", "MB", whole["memory_bytes"] / 1e6, ran.memory / 1e6)
    yield Pair("tokens", "", whole["tokens"], sum(result["tokens"] for result in results))
    yield Pair("disk", "MB", whole["disk_bytes"] / 1e6, sum(path.stat().st_size for path in files) / 1e6)


def show(rounds: Sequence[Sequence[Pair]]) -> None:
    """Print each number's medians, and the median ratio with the smallest and the largest."""
    for of in zip(*rounds, strict=True):
        ratios = [pair.estimate / pair.truth for pair in of]
        estimate, truth = (
            statistics.median(getattr(pair, side) for pair in of) for side in ("estimate", "truth")
        )
        middle = statistics.median(ratios)
        unit = f" {of[0].unit}" if of[0].unit else ""
        print(
            f"{of[0].what}: estimate {estimate:,.1f}{unit}, truth {truth:,.1f}{unit}, ratio {middle:.2f} "
            f"[{min(ratios):.2f}, {max(ratios):.2f}]{'' if abs(middle - 1) <= NEAR else ', not near'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="another study than the quickstart")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rounds = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(list(measure(Path(folder), args.overrides)))
    print(f"n = {args.rounds}, load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    show(rounds)


if __name__ == "__main__":
    main()
