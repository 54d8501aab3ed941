"""What running a trial costs beside it: thousands of fake ones of 50 ms, through a backend; and many writers.

- backends: `myosotis run` of a study of toy models in which a trial sleeps 50 ms and writes the files of a finished
  one. Overhead is what a worker is kept busy for a trial, beyond the 50 ms: the launch's seconds times the workers,
  by the trials. The command's memory is looked at as trials end.
- writers: processes that each list trials in one study and finish them, all at once; then all must be there.

    python experiments/benchmarks/fake_trials.py backends --backend local --trials 5000
    python experiments/benchmarks/fake_trials.py backends --backend ray --trials 5000
    python experiments/benchmarks/fake_trials.py writers --writers 50
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

SLEEP_SECONDS = 0.05
WORKERS = 2
RATES = 50
SEEDS = 5
TRIALS_A_WRITER = 20
MYOSOTIS_API = 1


# A fake trial: this module is a plugin of the study, so that every process that runs trials imports it.


def fake_cohort(jobs: Sequence[Any], resolver: Any, workspace: Any, control: Any) -> None:
    """Stand for training: sleep, tell of a step, and write the files of a finished trial."""
    from scale import finish

    from myosotis.events import Event
    from myosotis.ledger import TrialEntry

    for job in jobs:
        control.tell(Event(job.id, "begins"))
        time.sleep(SLEEP_SECONDS)
        control.tell(Event(job.id, "step", 1, 1, 1, {"loss": 1.0}))
        swept = {"method.lora.rank": 4, "optimizer.learning_rate": 0.003}
        finish(job.folder, TrialEntry(job.id, job.id, "lora", swept, 0, "right up"))
        control.tell(Event(job.id, "finished"))


if os.environ.get("MYOSOTIS_PLUGINS", "").endswith("fake_trials"):
    import myosotis.local

    myosotis.local.run_cohort = fake_cohort


def overrides(trials: int, backend: str) -> list[str]:
    """Write the command of a study of so many trials."""
    from tests.core.commands import toy

    rates = ",".join(f"{0.001 * (1 + each):g}" for each in range(RATES))
    widths = trials // (RATES * SEEDS)
    return toy(
        f"model.width=range(1,{widths + 1})",
        f"optimizer.learning_rate={rates}",
        f"seed=range(0,{SEEDS})",
        "study=fake",
        "data_check=false",
        f"hydra.launcher.backend={backend}",
        "hydra.launcher.cohort=1",
        f"hydra.launcher.workers={WORKERS}",
    )


def run(trials: int, backend: str) -> None:
    """Run the study in this process, and print what its parts took as JSON."""
    import myosotis
    from myosotis.launching import Launch
    from myosotis.local import Queue

    begun = time.perf_counter()
    took: dict[str, Any] = {"memory": []}
    launch, take = Launch.run, Queue.take
    process, seen = psutil.Process(), 0

    def timed(self: Launch) -> dict[str, str]:
        since = time.perf_counter()
        took["start"] = since - begun
        failed = launch(self)
        took["launch"] = time.perf_counter() - since
        return failed

    def watched(self: Queue, unit: Any, event: Any) -> None:
        nonlocal seen
        seen += event.kind == "finished"
        if event.kind == "finished" and seen % (trials // 10) == 0:
            took["memory"].append(process.memory_info().rss / 1e6)
        take(self, unit, event)

    Launch.run, Queue.take = timed, watched  # type: ignore[method-assign]
    record = myosotis.run(overrides(trials, backend))
    took["end"] = time.perf_counter() - begun - took["start"] - took["launch"]
    took["finished"] = int((record.trials.status == "finished").sum())
    print(json.dumps(took))


def measure_backend(backend: str, trials: int) -> None:
    """Run a study of fake trials in a process of its own, and say what they cost."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}",
            "MYOSOTIS_PLUGINS": "tests.toy,fake_trials",
            "MYOSOTIS_CACHE": f"{folder}/cache",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, __file__, "run", "--backend", backend, "--trials", str(trials)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    took = json.loads(done.stdout.splitlines()[-1])
    assert took["finished"] == trials
    overhead = 1000 * (took["launch"] * WORKERS / trials - SLEEP_SECONDS)
    memory = ", ".join(f"{each:.0f}" for each in took["memory"])
    print(
        f"{backend}, {trials} trials of 50 ms on {WORKERS} workers: {took['launch']:.1f} s, overhead "
        f"{overhead:.1f} ms a trial; before it {took['start']:.1f} s, after it (the report) {took['end']:.1f} s; "
        f"the command's memory at each tenth {memory} MB",
        flush=True,
    )


# Writers


def write(folder: Path, writer: int) -> None:
    """List trials in the study, one after another, and finish them."""
    from scale import finish

    from myosotis.ledger import TrialEntry, content_hash, write_study
    from myosotis.locks import StudyLock, TrialLock

    for number in range(TRIALS_A_WRITER):
        trial = content_hash([writer, number])
        swept = {"method.lora.rank": number + 1, "optimizer.learning_rate": 0.003}
        entry = TrialEntry(trial, trial, "lora", swept, writer, "pydocs pycode")
        with StudyLock(folder):
            write_study(folder, ["many writers"], [entry])
        with TrialLock(folder, trial):
            finish(folder / trial, entry)


def measure_writers(writers: int) -> None:
    """Let many processes write into one study at once; all that they wrote must be there, whole."""
    from myosotis.ledger import read_study

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        folder.mkdir()
        begun = time.perf_counter()
        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=write, args=(folder, number)) for number in range(writers)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        seconds = time.perf_counter() - begun
        assert all(process.exitcode == 0 for process in processes)
        record = read_study(folder)
        finished = int((record.trials.status == "finished").sum())
        left = [path.name for path in folder.rglob("*") if path.name.endswith(".tmp")]
    print(f"{writers} writers: {finished} of {writers * TRIALS_A_WRITER} trials are there, {seconds:.1f} s")
    if finished != writers * TRIALS_A_WRITER or left:
        sys.exit(f"lost: {finished} finished, half-written {left}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["backends", "writers", "run"])
    parser.add_argument("--backend", default="local")
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--writers", type=int, default=50)
    args = parser.parse_args()
    if args.what == "run":
        run(args.trials, args.backend)
    elif args.what == "backends":
        measure_backend(args.backend, args.trials)
    else:
        measure_writers(args.writers)


if __name__ == "__main__":
    main()
