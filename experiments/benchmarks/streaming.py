"""Peak memory of a study on a text, and on ten times as much of it: on disk, in memory, as the Hub has it.

Each is a whole `myosotis run` in one process, with an empty cache: reading, check of the data, encoding, base
row, a few steps of training, evaluation, report. The text is random words, made on the spot. Peaks are the
kernel's, of the resident set. That has the pages of files that are mapped, too, which the system takes back as it
needs them; `own`, the peak of what is not of a file, is looked at ten times a second.

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
from collections.abc import Mapping, Sequence
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
SOURCES: Mapping[str, Sequence[str]] = {
    "on disk": (
        "+dataset@dataset.text=file",
        "dataset.text.train={folder}/train.txt",
        "dataset.text.streaming=true",
    ),
    "in memory": (
        "+dataset@dataset.text=file",
        "dataset.text.train={folder}/train.txt",
        "dataset.text.streaming=false",
    ),
    "hub": ("+dataset@dataset.text=hub", "dataset.text.path={folder}", "dataset.text.streaming=true"),
}
"""How the rows come: a file's on disk and in memory, and those of a folder as the Hub keeps a data set."""


@dataclass(frozen=True)
class Measured:
    """What a study took: bytes of its peak, of that of its own memory, and seconds."""

    peak: int
    own: int
    seconds: float


def write_text(path: Path, megabytes: float) -> int:
    """Write lines of random words; give how many."""
    draw, lines = random.Random(0), 0
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1e6:
            file.write("".join(" ".join(draw.choices(WORDS, k=18)) + "\n" for _ in range(1_000)))
            lines += 1_000
    return lines


def command(source: str, folder: Path, steps: int) -> list[str]:
    """Write the command of a study on the text in a folder."""
    return [
        *(sys.executable, "-m", "myosotis", "run"),
        "dataset=[]",
        *(each.format(folder=folder) for each in SOURCES[source]),
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
    environment = {**os.environ, "MYOSOTIS_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hub")}
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        # This process stays small: a child's peak starts from what its parent held when it forked.
        child = subprocess.Popen(words, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        own, ended = 0, 0
        while not ended:
            time.sleep(0.1)
            ended, code, usage = os.wait4(child.pid, os.WNOHANG)
            own = max(own, 0 if ended else anonymous(child.pid))
        if code:
            output.seek(0)
            sys.exit(f"{' '.join(words)} failed:\n{output.read().decode()[-2000:]}")
    return Measured(usage.ru_maxrss * 1024, own, time.perf_counter() - begun)


def anonymous(pid: int) -> int:
    """Give the bytes of a process's memory that are of no file."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=10, help="the smaller text")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for source in args.sources:
            found = []
            for times in (1, TIMES):
                given = folder / f"{times}"
                given.mkdir(exist_ok=True)
                rows = write_text(given / "train.txt", times * args.megabytes)
                found.append(measured(command(source, given, args.steps), folder / f"{source}-{times}"))
                size = (given / "train.txt").stat().st_size
                print(
                    f"{source}: {size / 1e6:,.0f} MB, {rows:,} rows: peak "
                    f"{found[-1].peak / 1e6:,.0f} MB, own {found[-1].own / 1e6:,.0f} MB, {found[-1].seconds:.0f} s",
                    flush=True,
                )
            ratio, own = found[1].peak / found[0].peak, found[1].own / found[0].own
            bar = f"; at most {BAR}" if source != "in memory" else ""
            print(
                f"  {TIMES} times the data: {own:.3f} times its own memory{bar}; {ratio:.3f} with mapped files",
                flush=True,
            )


if __name__ == "__main__":
    main()
