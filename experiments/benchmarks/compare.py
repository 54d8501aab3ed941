"""Hold the project against one process a trial on the same work, and print the ratios.

Three comparisons, interleaved pairs, medians with their spread:

- training: tokens per second of one LoRA trial, ours over the baseline's (higher is better);
- sweep: eight ranks end to end, our one command over eight baseline processes (lower is better);
- start: seconds of `--help`, of `plugins`, and of a finished study's rerun.

    python experiments/benchmarks/compare.py --model DIR --train plays.txt --eval stories=stories.jsonl
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RANKS = (1, 2, 4, 8, 16, 32, 48, 64)
BASELINE = Path(__file__).with_name("baseline.py")
COMMAND = [sys.executable, "-m", "myosotis"]


def call(command: Sequence[str], folder: Path) -> tuple[float, str]:
    """Run a command and give its seconds and what it printed."""
    begun = time.perf_counter()
    environment = {**os.environ, "WANDB_MODE": "offline"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return seconds, done.stdout


class Work:
    """The same work for both sides."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        self.runs = 0

    def baseline(self, rank: int) -> dict[str, Any]:
        """Train one rank in a process of its own."""
        command = [sys.executable, str(BASELINE), "--model", str(self.args.model.resolve())]
        command += ["--train", str(self.args.train.resolve()), "--rank", str(rank)]
        command += ["--steps", str(self.args.steps), "--batch", str(self.args.batch)]
        command += ["--length", str(self.args.length)]
        for name, file in self.args.eval:
            command += ["--eval", f"{name}={file.resolve()}"]
        seconds, printed = call(command, self.folder)
        return {**json.loads(printed.splitlines()[-1]), "process_seconds": seconds}

    def ours(self, ranks: Sequence[int]) -> tuple[float, Path]:
        """Sweep the ranks with one command, in an empty folder: nothing is reused."""
        self.runs += 1
        folder = self.folder / str(self.runs)
        folder.mkdir()
        return call(self.command(ranks), folder)[0], folder

    def command(self, ranks: Sequence[int]) -> list[str]:
        """Write the sweep's command."""
        train = f"'{self.args.train.resolve()}'"
        overrides = [
            "model=huggingface",
            f"model.path='{self.args.model.resolve()}'",
            "dataset=[]",
            "+dataset@dataset.new=file",
            f"dataset.new.train={train}",
            f"dataset.new.test={train}",
            f"dataset.new.length={self.args.length}",
            "probe=[]",
            f"method.lora.rank={','.join(map(str, ranks))}",
            f"trainer.max_steps={self.args.steps}",
            f"trainer.batch_size={self.args.batch}",
            "study=benchmark",
        ]
        for name, file in self.args.eval:
            overrides += [f"+probe@probe.{name}=file", f"probe.{name}.test='{file.resolve()}'"]
            overrides += [f"probe.{name}.length={self.args.length}"]
        return [*COMMAND, "run", *overrides]

    def our_speed(self) -> float:
        """Give tokens per second of one trial of ours."""
        _, folder = self.ours([8])
        manifest = next(folder.glob("studies/benchmark/*/manifest.json"))
        cost = json.loads(manifest.read_text())["cost"]
        return float(cost["tokens"] / cost["training_seconds"])


def pairs(count: int, one: Callable[[], float], other: Callable[[], float]) -> list[tuple[float, float]]:
    """Measure two things in turn, so that a drift of the machine meets both."""
    measured = []
    for number in range(count):
        measured.append((one(), other()))
        print(f"  pair {number + 1}: {measured[-1][0]:.1f} {measured[-1][1]:.1f}", flush=True)
    return measured


def spread(values: Sequence[float]) -> str:
    """Write a median with its smallest and largest."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def show(name: str, measured: Sequence[tuple[float, float]], unit: str) -> None:
    ratios = [ours / theirs for ours, theirs in measured]
    print(f"{name}: ratio {spread(ratios)}, n = {len(ratios)}")
    print(f"  ours {spread([ours for ours, _ in measured])} {unit}")
    print(f"  baseline {spread([theirs for _, theirs in measured])} {unit}", flush=True)


def show_start(work: Work, count: int) -> None:
    """Time what trains nothing."""
    _, folder = work.ours([8])
    commands = {
        "--help": [*COMMAND, "--help"],
        "plugins": [*COMMAND, "plugins"],
        "rerun of a finished study": work.command([8]),
    }
    for name, command in commands.items():
        print(f"start: {name}: {spread([call(command, folder)[0] for _ in range(count)])} s", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="*", default=["training", "sweep", "start"])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--eval", action="append", default=[], metavar="NAME=FILE", type=_named)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=5)
    return parser.parse_args()


def _named(text: str) -> tuple[str, Path]:
    name, _, file = text.partition("=")
    return name, Path(file)


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        work = Work(args, Path(temporary))
        if "training" in args.what:
            measured = pairs(args.pairs, work.our_speed, lambda: float(work.baseline(8)["tokens_per_second"]))
            show("training", measured, "tokens/s")
        if "sweep" in args.what:
            measured = pairs(
                args.pairs,
                lambda: work.ours(RANKS)[0],
                lambda: sum(float(work.baseline(rank)["process_seconds"]) for rank in RANKS),
            )
            show("sweep", measured, "s")
        if "start" in args.what:
            show_start(work, args.pairs)


if __name__ == "__main__":
    main()
