"""Peak memory of a study on a text, and on ten times as much of it, with its rows on disk and in memory.

Each is a whole `myosotis run` in one process, with an empty cache: reading, check of the data, encoding, base
row, a few steps of training, evaluation, report. The text is random words, made on the spot. Peaks are the
kernel's, of the resident set.

    python experiments/benchmarks/streaming.py
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WORDS = (
    "forget",
    "me",
    "not",
    "said",
    "the",
    "flower",
    "by",
    "brook",
    "while",
    "rain",
    "fell",
    "on",
    "stones",
)
TIMES = 10
BAR = 1.1


@dataclass(frozen=True)
class Measured:
    """What a study took: bytes of its peak, and seconds."""

    peak: int
    seconds: float


def write_text(path: Path, megabytes: float) -> int:
    """Write lines of random words; give how many."""
    draw, lines = random.Random(0), 0
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1e6:
            file.write("".join(" ".join(draw.choices(WORDS, k=18)) + "\n" for _ in range(1_000)))
            lines += 1_000
    return lines


def command(text: Path, streaming: bool, steps: int) -> list[str]:
    """Write the command of a study on a text."""
    return [
        *(sys.executable, "-m", "myosotis", "run"),
        "dataset=[]",
        "+dataset@dataset.text=file",
        f"dataset.text.train='{text}'",
        f"dataset.text.streaming={str(streaming).lower()}",
        "probe=[]",
        f"trainer.max_steps={steps}",
        "evaluation.limit=16",
        "logger=none",
        "hydra.launcher.workers=1",
        "hydra.launcher.cohort=1",
        "study=streaming",
    ]


def measured(words: Sequence[str], folder: Path) -> Measured:
    """Run a command to its end in a folder and with a cache of its own."""
    folder.mkdir()
    environment = {**os.environ, "MYOSOTIS_CACHE": str(folder / "cache")}
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        # This process stays small: a child's peak starts from what its parent held when it forked.
        child = subprocess.Popen(words, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, code, usage = os.wait4(child.pid, 0)
        if code:
            output.seek(0)
            sys.exit(f"{' '.join(words)} failed:\n{output.read().decode()[-2000:]}")
    return Measured(usage.ru_maxrss * 1024, time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=10, help="the smaller text")
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for streaming in (True, False):
            found = []
            for times in (1, TIMES):
                text = folder / f"{times}.txt"
                rows = write_text(text, times * args.megabytes)
                own = folder / f"{streaming}-{times}"
                found.append(measured(command(text, streaming, args.steps), own))
                size = text.stat().st_size
                print(
                    f"{'on disk' if streaming else 'in memory'}: {size / 1e6:,.0f} MB, {rows:,} rows: peak "
                    f"{found[-1].peak / 1e6:,.0f} MB, {found[-1].seconds:.0f} s",
                    flush=True,
                )
            ratio = found[1].peak / found[0].peak
            bar = f"; at most {BAR}" if streaming else ""
            print(f"  {TIMES} times the data: {ratio:.3f} times the memory{bar}", flush=True)


if __name__ == "__main__":
    main()
