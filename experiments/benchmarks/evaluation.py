"""What share of a trial's time goes into evaluation at the defaults, and how much is evaluated in it.

Each round runs every study anew in a folder of its own: one trial of LoRA with `nano`, by itself in its process.
The share is the trial's `evaluation_seconds` of all its `seconds`, as its manifest has them. The base's row, which
is measured once for all trials and studies, is left out of both.

    python experiments/benchmarks/evaluation.py --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from myosotis.config import composer
from myosotis.plugins import load_registry
from myosotis.points import expand
from myosotis.resolve import Resolver
from myosotis.workspace import Workspace

STUDIES: Mapping[str, Sequence[str]] = {
    "running text: two tasks, a probe": (),
    "instructions: a task, a probe": ("dataset=[pysummary]", "probe=[pydocs]"),
    "labels: a task, a probe": ("dataset=[pymodule]", "probe=[pydocs]"),
    "one of each: three tasks, a probe": ("dataset=[pydocs,pysummary,pymodule]", "probe=[pycomments]"),
}
"""The first is `myosotis run` as it is."""
BAR = 0.25
ROWS, TOKENS = 200, 8_000


def evaluated(overrides: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Give each task and probe, its rows that are scored, and their tokens."""
    registry = load_registry()
    with composer() as compose:
        [point] = expand(compose, "config", list(overrides), {}, {})
        config = Resolver(registry).resolve(compose.compose("config", point.overrides))
    model, workspace = config.model.outline(config.objectives), Workspace(Path(), registry)
    for name, task in config.tasks.items():
        identities = config.identities[name], config.identities["model"]
        examples = workspace.evaluated(task, identities[0], model, identities[1], config.evaluation)
        yield name, len(examples), sum(map(task.objective.scored_tokens, examples))


def share(overrides: Sequence[str]) -> float:
    """Run a study whose base row is there already; give its trial's share of seconds in evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        # Another seed leaves the base's row to the trial that is timed.
        for seed, steps in ((1, 1), (0, None)):
            length = [] if steps is None else [f"trainer.max_steps={steps}"]
            run(Path(folder), [*overrides, *length, f"seed={seed}", f"study=seed{seed}"])
        [manifest] = Path(folder).glob("studies/seed0/*/manifest.json")
        cost = json.loads(manifest.read_text(encoding="utf-8"))["cost"]
        return float(cost["evaluation_seconds"] / cost["seconds"])


def run(folder: Path, overrides: Sequence[str]) -> None:
    """Run a study in a process of its own."""
    command = [sys.executable, "-m", "myosotis", "run", *overrides]
    environment = {**os.environ, "MYOSOTIS_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def main() -> None:
    """Measure, and say what holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="for every study, such as trainer.max_steps=4")
    arguments = parser.parse_args()
    shares: dict[str, list[float]] = {name: [] for name in STUDIES}
    always = ["logger=none", "hydra.launcher.workers=1", *arguments.overrides]
    for _ in range(arguments.rounds):
        for name, overrides in STUDIES.items():
            shares[name].append(share([*overrides, *always]))
            print(f"{name}: {shares[name][-1]:.3f}", file=sys.stderr, flush=True)
    print("| study | evaluated | share of the trial's seconds | |\n|---|---|---|---|")
    for name, overrides in STUDIES.items():
        tasks = list(evaluated([*overrides, *always]))
        text = ", ".join(f"{task} {rows} rows, {tokens:,} tokens" for task, rows, tokens in tasks)
        enough = all(rows >= ROWS or tokens >= TOKENS for _, rows, tokens in tasks)
        middle, low, high = statistics.median(shares[name]), min(shares[name]), max(shares[name])
        holds = "holds" if enough and middle <= BAR else "does not hold"
        print(f"| {name} | {text} | **{middle:.3f}** [{low:.3f}, {high:.3f}] | {holds} |")


if __name__ == "__main__":
    main()
