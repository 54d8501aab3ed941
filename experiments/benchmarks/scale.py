"""Time what trains nothing at sizes that hurt: planning, the report, and a finished study's rerun.

- planning: 500 to 4,000 trials of the embedded model, from the command's overrides to `study.json`, by
  the functions that `myosotis run` calls; without the check that each trial fits its model;
- report: `myosotis report` over 500, 1,000 and 2,000 finished trials, five seeds a configuration;
- rerun: the same command again, of a study whose 200 trials are finished.

Each measurement is a process of its own, start included; sizes take turns, so that a drift of the machine
meets all. No trial is trained: results are drawn at random, and written as the ledger writes them.

    python experiments/benchmarks/scale.py planning report rerun --rounds 5
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from myosotis.ledger import Score, TrialEntry, content_hash, write_json, write_scores, write_study, write_text

COMMAND = [sys.executable, "-m", "myosotis"]
SIZES = (500, 1000, 2000)
PLANNED = (*SIZES, 4000)
RERUN = 200
RATES = (0.0003, 0.001, 0.003, 0.01)
SEEDS = 5
ARMS = {
    "lora": ("method.lora.rank", 0.5, 0.9),
    "lora + replay": ("method.lora.rank", 0.45, 0.3),
    "freeze": ("method.freeze.first", 0.4, 0.6),
    "full": ("trainer.batch_size", 0.6, 1.2),
}
"""A synthetic study's arms: what each sweeps beside the learning rate, how much it learns and forgets."""
TASKS = {"pydocs": 2.6, "pycode": 3.2, "pycomments": 2.9}
"""What each column's cross-entropy is for the base; the last one is the probe."""
STAGES = 3
LOGGED = 60
"""Lines of a trial's training log."""


# Planning


def overrides(trials: int, study: str) -> list[str]:
    """Write the command of a study of so many trials: ranks times learning rates times seeds."""
    ranks = trials // (len(RATES) * SEEDS)
    return [
        "model=nano",
        f"method.lora.rank=range(1,{ranks + 1})",
        f"optimizer.learning_rate={','.join(map(str, RATES))}",
        f"seed=range(0,{SEEDS})",
        f"study={study}",
    ]


def plan(trials: int, folder: Path) -> list[TrialEntry]:
    """Plan a study of the default configuration and list its trials in `study.json`; nothing is launched."""
    from myosotis import study
    from myosotis.config import composer
    from myosotis.plugins import load_registry
    from myosotis.points import expand
    from myosotis.resolve import Resolver

    arguments = overrides(trials, folder.name)
    with composer() as compose:
        points = expand(compose, "config", arguments, {}, {})
        planned = study.plan(compose, "config", points, folder, Resolver(load_registry()), force=False)
    assert len(planned) == trials
    return write_study(folder, arguments, [each.entry for each in planned])


def measure_planning(folder: Path, rounds: int) -> None:
    """Plan each size in a folder of its own."""
    measured: dict[int, list[Measurement]] = {size: [] for size in PLANNED}
    for turn in range(rounds):
        for size in PLANNED:
            command = [
                sys.executable,
                __file__,
                "plan",
                str(size),
                str(folder / f"studies-{turn}" / str(size)),
            ]
            measured[size].append(call(command, folder))
    show("planning", measured)


# The report


def make_study(trials: int, folder: Path) -> None:
    """Write a study of finished trials: arms, what each sweeps, and their seeds."""
    entries = []
    for arm, swept in _settings(trials // SEEDS):
        for seed in range(SEEDS):
            trial = content_hash([arm, swept, seed])
            entries.append(TrialEntry(trial, trial, arm, swept, seed, "pydocs pycode"))
            finish(folder / trial, entries[-1])
    write_study(folder, ["synthetic"], entries)


def _settings(count: int) -> Iterator[tuple[str, dict[str, float]]]:
    values = range(1, 1 + math.ceil(count / (len(ARMS) * len(RATES))))
    every = itertools.product(ARMS.items(), values, RATES)
    for (arm, (key, _, _)), value, rate in itertools.islice(every, count):
        yield arm, {key: value, "optimizer.learning_rate": rate}


def finish(folder: Path, entry: TrialEntry) -> None:
    """Write the files of a finished trial."""
    draw = random.Random(entry.id)
    gain, loss = _headline(entry, draw)
    losses = {
        (stage, task): base - gain * (stage > 0) + loss * (stage > 1) + draw.gauss(0, 0.01)
        for task, base in TASKS.items()
        for stage in range(STAGES + 1)
    }
    metrics: dict[str, Callable[[float], float]] = {"cross_entropy": float, "perplexity": math.exp}
    scores = [
        Score(stage, 60, task, "test", metric, of(value), 8128, of(value - 0.03), of(value + 0.03))
        for (stage, task), value in losses.items()
        for metric, of in metrics.items()
    ]
    write_scores(folder / "scores.jsonl", scores)
    lines = [{"stage": 1, "step": step, "loss": 3 - gain * step / LOGGED} for step in range(LOGGED)]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_json(folder / "result.json", _result(entry.id, gain, loss))


def _headline(entry: TrialEntry, draw: random.Random) -> tuple[float, float]:
    """Learn more with more capacity and a middling rate; forget more with what is learned and the rate."""
    key, learns, forgets = ARMS[entry.arm]
    value, rate = entry.swept[key], entry.swept["optimizer.learning_rate"]
    fit = math.exp(-(math.log10(rate / 0.003) ** 2))
    gain = learns * fit * (1 - math.exp(-value / 4)) + draw.gauss(0, 0.01)
    return gain, forgets * gain**2 * (1 + 50 * rate) + draw.gauss(0, 0.01)


def _result(trial: str, gain: float, loss: float) -> dict[str, object]:
    return {
        "trial": trial,
        "learned": gain,
        "forgotten": loss,
        "forgotten_base": loss - gain / 2,
        "metric": "cross_entropy",
        "trainable_parameters": 41_216,
        "total_parameters": 1_600_000,
        "seconds": 12 + 10 * gain,
        "tokens": 122_880,
        "peak_memory_bytes": 700_000_000,
        "columns": [
            {
                "task": task,
                "role": "probe" if task == list(TASKS)[-1] else "task",
                "metric": "cross_entropy",
                "higher_is_better": False,
            }
            for task in TASKS
        ],
    }


def measure_report(folder: Path, rounds: int) -> None:
    """Write each size's report several times over."""
    for size in SIZES:
        make_study(size, folder / "studies" / f"of-{size}")
    measured: dict[int, list[Measurement]] = {size: [] for size in SIZES}
    for _ in range(rounds):
        for size in SIZES:
            measured[size].append(call([*COMMAND, "report", f"of-{size}"], folder))
    show("report", measured)
    page = folder / "studies" / f"of-{SIZES[1]}" / "report.html"
    print(f"  the page over {SIZES[1]:,} trials: {page.stat().st_size / 1e6:.1f} MB", flush=True)


# The rerun


def plan_finished(trials: int, folder: Path) -> None:
    """Plan a study and finish its trials without training them."""
    for entry in plan(trials, folder):
        finish(folder / entry.folder, entry)


def measure_rerun(folder: Path, rounds: int) -> None:
    """Run a finished study's command again."""
    trials = RERUN
    call([sys.executable, __file__, "finish", str(trials), str(folder / "studies" / "finished")], folder)
    run = [*COMMAND, "run", *overrides(trials, "finished")]
    call(run, folder)  # writes the report, which a finished study has
    results = folder.glob("studies/finished/*/result.json")
    written = {path: path.stat().st_mtime_ns for path in results}
    measured = {trials: [call(run, folder) for _ in range(rounds)]}
    assert len(written) == trials
    assert all(path.stat().st_mtime_ns == then for path, then in written.items()), "a trial ran again"
    show("rerun", measured)


# Measuring


class Measurement(NamedTuple):
    """What a process took: seconds, those of its processor time, and its peak memory in megabytes."""

    seconds: float
    processor: float
    memory: float


def call(command: Sequence[str], folder: Path) -> Measurement:
    """Run a command to its end, and measure it."""
    with tempfile.TemporaryFile() as output:
        begun = time.perf_counter()
        # This process is small: a child's peak starts from what its parent held when it forked.
        child = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begun
        if status:
            output.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{output.read().decode()[-2000:]}")
    return Measurement(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def show(name: str, measured: dict[int, list[Measurement]]) -> None:
    """Print each size's median, smallest and largest, and what one trial more costs in processor time."""
    medians = {}
    for size, values in measured.items():
        seconds, processor, memory = zip(*values, strict=True)
        medians[size] = statistics.median(processor)
        print(
            f"{name}, {size} trials: {spread(seconds)} s, of the processor {spread(processor)} s, "
            f"{spread(memory, 0)} MB, n = {len(values)}"
        )
    for one, other in itertools.pairwise(medians):
        slope = 1000 * (medians[other] - medians[one]) / (other - one)
        print(f"  from {one} to {other}: {slope:.2f} ms a trial")
    sys.stdout.flush()


def spread(values: Sequence[float], places: int = 2) -> str:
    """Write a median with its smallest and largest."""
    return f"{statistics.median(values):.{places}f} [{min(values):.{places}f}, {max(values):.{places}f}]"


MEASURED: dict[str, Callable[[Path, int], None]] = {
    "planning": measure_planning,
    "report": measure_report,
    "rerun": measure_rerun,
}
PARTS = {"plan": plan, "finish": plan_finished, "make": make_study}
"""What runs in a process of its own: a number of trials, and the study's folder."""


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in PARTS:
        PARTS[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="*", default=list(MEASURED))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for what in args.what:
        with tempfile.TemporaryDirectory() as folder:
            MEASURED[what](Path(folder), args.rounds)


if __name__ == "__main__":
    main()
