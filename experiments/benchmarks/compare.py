"""Hold the project against one process a trial on the same work, and print the ratios.

Interleaved pairs, medians with their spread. Both sides do the same: start, base row, training, evaluation on the
training file and on each held-out one, and ours the report and W&B offline too.

- ranks: eight LoRA ranks, our one command over eight baseline processes one after another (lower is better);
- ranks-small: the same in batches of 2x64;
- freeze: embeddings and the first 1 to 4 blocks frozen, the rest trained, on the first lines of a text;
- sweep: as ranks, ours one trial at a time;
- training: tokens per second of one LoRA trial, ours over the baseline's (higher is better);
- start: seconds of `--help`, of `plugins`, and of a finished study's rerun.

`--against alone` holds the sweeps against our own command with one trial at a time instead.

How many trials train at once is ours to choose. It measures that once and remembers it in the user's cache, so that
one warm-up, which is not counted, comes before the pairs.

    python experiments/benchmarks/compare.py --model DIR --train plays.txt --eval stories=stories.jsonl
    python experiments/benchmarks/compare.py ranks --launcher cohort=8 --launcher workers=1 --model …
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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

RANKS = (1, 2, 4, 8, 16, 32, 48, 64)
BLOCKS = (1, 2, 3, 4)
ALONE = ("cohort=1", "workers=1")
LIMIT = 64
"""Blocks of each file that both sides score."""
BASELINE = Path(__file__).with_name("baseline.py")
COMMAND = [sys.executable, "-m", "myosotis"]


def call(command: Sequence[str], folder: Path) -> tuple[float, str]:
    """Run a command and give its seconds and what it printed."""
    begun = time.perf_counter()
    environment = {**os.environ, "WANDB_MODE": "offline"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return seconds, done.stdout


@dataclass(frozen=True)
class Sweep:
    """Trials of one study, as each side is told of them.

    Attributes:
        ours: the overrides of our one command.
        theirs: the arguments of each of the baseline's processes.
        train: the file to train on.
        batch: rows a batch.
        length: tokens a row.
        bar: the most that the ratio of seconds may be.
        adapters: whether what trains is added to the base.
        launcher: the launcher's options.
    """

    ours: Sequence[str]
    theirs: Sequence[Sequence[str]]
    train: Path
    batch: int
    length: int
    bar: float
    adapters: bool = False
    launcher: Sequence[str] = ()


@dataclass
class Work:
    """Does the same on both sides, in folders of its own."""

    model: Path
    held_out: Sequence[tuple[str, Path]]
    folder: Path
    runs: int = 0

    def theirs(self, sweep: Sweep) -> tuple[float, list[dict[str, Any]]]:
        """Train every trial in a process of its own; give the seconds of all, and what each printed."""
        done = [call(self._baseline(sweep, own), self.folder) for own in sweep.theirs]
        printed = [json.loads(output.splitlines()[-1]) for _, output in done]
        return sum(seconds for seconds, _ in done), printed

    def _baseline(self, sweep: Sweep, own: Sequence[str]) -> list[str]:
        command = [sys.executable, str(BASELINE), "--model", str(self.model), "--train", str(sweep.train)]
        command += ["--batch", str(sweep.batch), "--length", str(sweep.length), "--limit", str(LIMIT), *own]
        for name, file in [("new", sweep.train), *self.held_out]:
            command += ["--eval", f"{name}={file}"]
        return command

    def ours(self, sweep: Sweep) -> tuple[float, Path]:
        """Run the study by one command, in an empty folder: nothing is reused; give seconds and folder."""
        self.runs += 1
        folder = self.folder / str(self.runs)
        folder.mkdir()
        return call(self.command(sweep), folder)[0], folder / "studies" / "benchmark"

    def command(self, sweep: Sweep) -> list[str]:
        """Write the study's command."""
        overrides = [
            "model=huggingface",
            f"model.path='{self.model}'",
            "dataset=[]",
            "+dataset@dataset.new=file",
            f"dataset.new.train='{sweep.train}'",
            f"dataset.new.test='{sweep.train}'",
            f"dataset.new.length={sweep.length}",
            "probe=[]",
            f"trainer.batch_size={sweep.batch}",
            f"evaluation.limit={LIMIT}",
            "study=benchmark",
            *sweep.ours,
            *(f"hydra.launcher.{option}" for option in sweep.launcher),
        ]
        for name, file in self.held_out:
            overrides += [f"+probe@probe.{name}=file", f"probe.{name}.test='{file}'"]
            overrides += [f"probe.{name}.length={sweep.length}"]
        return [*COMMAND, "run", *overrides]


# Trials


@dataclass(frozen=True)
class Trial:
    """What a trial trained: parameters beside those that stayed, optimizer steps and tokens."""

    trained: int
    frozen: int
    steps: int = field(compare=False)
    tokens: int = field(compare=False)

    def __str__(self) -> str:
        counted = f"{self.trained:,} parameters trained, {self.frozen:,} not"
        return f"{counted}, {self.steps} steps, {self.tokens:,} tokens"


def our_trials(study: Path, adapters: bool) -> list[Trial]:
    """Read what our trials trained, the one with the most parameters first; their total is the base's."""
    found = []
    for path in study.glob("*/result.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        cost = json.loads(path.with_name("manifest.json").read_text(encoding="utf-8"))["cost"]
        trained, total = result["trainable_parameters"], result["total_parameters"]
        frozen = total if adapters else total - trained
        found.append(Trial(trained, frozen, cost["steps"], cost["tokens"]))
    return sorted(found, key=lambda trial: -trial.trained)


def their_trials(printed: Sequence[dict[str, Any]]) -> list[Trial]:
    """Read what the baseline's processes trained, in the same order."""
    names = ("trained_parameters", "frozen_parameters", "steps", "tokens")
    found = [Trial(*(each[name] for name in names)) for each in printed]
    return sorted(found, key=lambda trial: -trial.trained)


def check_same(ours: Sequence[Trial], theirs: Sequence[Trial]) -> None:
    """Print what both sides trained; end where it is not the same."""
    for own, other in zip(ours, theirs, strict=True):
        print(f"  ours: {own}\n  baseline: {other}", flush=True)
    if list(ours) != list(theirs):
        sys.exit("both sides must train the same parameters, but they do not")


def arrangement(study: Path) -> str:
    """Say how our trials were run."""
    [known] = json.loads((study / "cohorts.json").read_text(encoding="utf-8"))
    sizes = ", ".join(str(len(each["trials"])) for each in known["cohorts"])
    threads = ", ".join(sorted({str(each["threads"]) for each in known["cohorts"]}))
    return f"cohorts of {sizes}; {known['workers']} at once, threads of each: {threads}"


# Measuring


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


def show(
    name: str, measured: Sequence[tuple[float, float]], unit: str, bar: str, against: str = "baseline"
) -> None:
    ratios = [ours / theirs for ours, theirs in measured]
    print(f"{name}: ratio {spread(ratios)}, n = {len(ratios)}; {bar}")
    print(f"  ours {spread([ours for ours, _ in measured])} {unit}")
    print(f"  {against} {spread([theirs for _, theirs in measured])} {unit}", flush=True)


def show_sweep(name: str, work: Work, sweep: Sweep, count: int, alone: bool) -> None:
    """Warm up, hold what both sides train against each other, and time them in turn."""
    seconds, study = work.ours(sweep)
    print(f"{name}: warm-up {seconds:.1f} s, not counted: {arrangement(study)}", flush=True)
    if alone:
        other = replace(sweep, launcher=ALONE)
        measured = pairs(count, lambda: work.ours(sweep)[0], lambda: work.ours(other)[0])
        show(name, measured, "s", "at most 1", "one at a time")
        return
    printed: list[dict[str, Any]] = []

    def baseline() -> float:
        seconds, printed[:] = work.theirs(sweep)
        return seconds

    measured = pairs(count, lambda: work.ours(sweep)[0], baseline)
    check_same(our_trials(study, sweep.adapters), their_trials(printed))
    show(name, measured, "s", f"at most {sweep.bar}")


def show_training(work: Work, sweep: Sweep, count: int) -> None:
    """Time the training alone of one trial."""

    def ours() -> float:
        cost = json.loads(next(work.ours(sweep)[1].glob("*/manifest.json")).read_text(encoding="utf-8"))[
            "cost"
        ]
        return float(cost["tokens"] / cost["training_seconds"])

    measured = pairs(count, ours, lambda: float(work.theirs(sweep)[1][0]["tokens_per_second"]))
    show("training", measured, "tokens/s", f"at least {sweep.bar}")


def show_start(work: Work, sweep: Sweep, count: int) -> None:
    """Time what trains nothing."""
    folder = work.ours(sweep)[1].parents[1]
    commands = {
        "--help": [*COMMAND, "--help"],
        "plugins": [*COMMAND, "plugins"],
        "rerun of a finished study": work.command(sweep),
    }
    for name, command in commands.items():
        print(f"start: {name}: {spread([call(command, folder)[0] for _ in range(count)])} s", flush=True)


# The command


def first_lines(path: Path, count: int, folder: Path) -> Path:
    """Copy the first lines of a text."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
    copied = folder / f"first-{count}.txt"
    copied.write_text("".join(lines), encoding="utf-8")
    return copied


def ranks(args: argparse.Namespace, chosen: Sequence[int], batch: int, length: int, bar: float) -> Sweep:
    """Sweep the LoRA rank."""
    return Sweep(
        ours=[f"method.lora.rank={','.join(map(str, chosen))}", f"trainer.max_steps={args.steps}"],
        theirs=[["--rank", str(rank), "--steps", str(args.steps)] for rank in chosen],
        train=args.train,
        batch=batch,
        length=length,
        bar=bar,
        adapters=True,
        launcher=args.launcher,
    )


def freeze(args: argparse.Namespace, folder: Path) -> Sweep:
    """Sweep the number of frozen blocks."""
    chosen = ",".join(map(str, args.blocks))
    return Sweep(
        ours=["method=freeze", f"method.freeze.first={chosen}", f"trainer.max_epochs={args.epochs}"],
        theirs=[["--freeze-first", str(first), "--epochs", str(args.epochs)] for first in args.blocks],
        train=first_lines(args.train, args.lines, folder),
        batch=args.batch,
        length=args.length,
        bar=0.50,
        launcher=args.launcher,
    )


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def named(text: str) -> tuple[str, Path]:
    name, _, file = text.partition("=")
    return name, Path(file).resolve()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    what = ["ranks", "ranks-small", "freeze", "sweep", "training", "start"]
    parser.add_argument("what", nargs="*", metavar="what", default=["ranks", "ranks-small", "freeze"])
    parser.add_argument("--model", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--train", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--eval", action="append", default=[], metavar="NAME=FILE", type=named)
    parser.add_argument("--launcher", action="append", default=[], metavar="OPTION=VALUE")
    parser.add_argument("--against", choices=["baseline", "alone"], default="baseline")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--ranks", type=numbers, default=RANKS)
    parser.add_argument("--blocks", type=numbers, default=BLOCKS, help="freeze: how many are frozen")
    parser.add_argument("--lines", type=int, default=2_000, help="freeze: of the text")
    parser.add_argument("--epochs", type=int, default=10, help="freeze: passes over them")
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    if unknown := set(args.what) - set(what):
        parser.error(f"what must be of {', '.join(what)}, but got {', '.join(sorted(unknown))}")
    return args


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        work = Work(args.model, args.eval, folder)
        sweeps = {
            "ranks": ranks(args, args.ranks, args.batch, args.length, 0.55),
            "ranks-small": ranks(args, args.ranks, 2, 64, 0.25),
            "freeze": freeze(args, folder),
        }
        sweeps["sweep"] = replace(sweeps["ranks"], launcher=ALONE, bar=0.80)
        for name in args.what:
            if name in sweeps:
                show_sweep(name, work, sweeps[name], args.pairs, args.against == "alone")
        alone = ranks(args, [8], args.batch, args.length, 0.97)
        if "training" in args.what:
            show_training(work, alone, args.pairs)
        if "start" in args.what:
            show_start(work, alone, args.pairs)


if __name__ == "__main__":
    main()
