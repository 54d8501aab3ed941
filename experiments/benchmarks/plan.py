"""What `myosotis plan` says of the embedded quickstart, against what `myosotis run` then takes.

Each round is a folder of its own, plan first; what the plan measured of cohorts is remembered for the run, as it
is for a user. Time is the run's, as a process, start and report included; a trial's is its own `seconds`. Memory is
the most that a trial's result names, disk all that lies in the study's folder. Plans and runs take turns, so that a
drift of the machine meets both; where others use the machine, the ratios scatter with what they do.

    python experiments/benchmarks/plan.py --rounds 5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEAR = 0.3
"""An estimate is near where it is off by no more than this share of the truth."""


@dataclass(frozen=True)
class Pair:
    """An estimate and what came of it."""

    what: str
    unit: str
    estimate: float
    truth: float


def call(folder: Path, *arguments: str) -> tuple[str, float]:
    """Run a command of this project to its end; give what it printed, and its seconds."""
    begun = time.perf_counter()
    environment = {**os.environ, "MYOSOTIS_CACHE": str(folder / "cache"), "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, "-m", "myosotis", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"myosotis {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return done.stdout, time.perf_counter() - begun


def measure(folder: Path, overrides: Sequence[str]) -> Iterator[Pair]:
    """Plan a study, run it, and pair what was said with what it was."""
    printed, planning = call(folder, "plan", *overrides, "--json")
    _, seconds = call(folder, "run", *overrides)
    plan = json.loads(printed)
    print(f"  planned in {planning:.0f} s, ran in {seconds:.0f} s", flush=True)
    results = [json.loads(Path(each["folder"], "result.json").read_text()) for each in plan["trials"]]
    whole = plan["estimate"]
    files = [path for path in Path(plan["folder"]).rglob("*") if path.is_file()]
    yield Pair("time", "s", whole["seconds"], seconds)
    for trial, result in zip(plan["trials"], results, strict=True):
        yield Pair(f"time of {trial['name']}", "s", trial["estimate"]["seconds"], result["seconds"])
    yield Pair("memory", "MB", whole["memory_bytes"] / 1e6, _most(results, "peak_memory_bytes") / 1e6)
    yield Pair("tokens", "", whole["tokens"], sum(result["tokens"] for result in results))
    yield Pair("disk", "MB", whole["disk_bytes"] / 1e6, sum(path.stat().st_size for path in files) / 1e6)


def _most(results: Sequence[dict[str, Any]], key: str) -> float:
    return max(float(result[key]) for result in results)


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
