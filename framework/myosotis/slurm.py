"""SLURM through its own programs: what a cluster has, and how a study's jobs stand in its queue."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from myosotis.errors import MyosotisError
from myosotis.ledger import read_json, write_json

FOLDER = "slurm"
"""Where a study keeps what it submitted: a folder a submission, with the jobs' logs."""
RECORD = "jobs.json"
SECONDS = 60.0
"""How long SLURM's programs may take to answer."""
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
"""The states of a job that runs no more; every other one is still to run, runs or is about to end."""


class SlurmError(MyosotisError):
    """SLURM cannot be asked, or refuses."""


@dataclass(frozen=True)
class Node:
    """What a partition has in one node.

    Attributes:
        default: whether jobs that name no partition go there.
        gpus: how many it has.
        minutes: how long a job may take there, as SLURM writes it.
    """

    partition: str
    default: bool
    name: str
    cpus: int
    megabytes: int
    gpus: int
    minutes: str


@dataclass(frozen=True)
class Submitted:
    """A job that a study has submitted.

    Attributes:
        id: the job's, in an array with its place: `12_3`.
        trials: those that it runs.
        told: the file that it writes what befalls them to.
        log: the file with what it prints.
    """

    id: str
    trials: tuple[str, ...]
    told: Path
    log: Path


@dataclass(frozen=True)
class Queued:
    """How a job stands in the queue.

    Attributes:
        state: in SLURM's words, such as PENDING.
        reason: why it waits, or how it ended.
        node: where it runs; empty where it does not.
        elapsed: for how long, as SLURM writes it.
    """

    state: str
    reason: str
    node: str
    elapsed: str

    @property
    def runs(self) -> bool:
        """Whether it has a node."""
        return bool(self.node) and not self.ended

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self.state in ENDED

    def __str__(self) -> str:
        words = self.state.lower().replace("_", " ")
        return words if self.reason in {"", "None"} else f"{words} ({self.reason})"


# The cluster


def ask(*command: str) -> str:
    """Give what one of SLURM's programs prints.

    Raises:
        SlurmError: it is not there, failed, or did not answer.
    """
    if shutil.which(command[0]) is None:
        raise SlurmError(f"there is no {command[0]} on PATH")
    try:
        # A session of its own: what is typed at the terminal is not for it.
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False, start_new_session=True
        )
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} did not answer in {SECONDS:.0f} s") from error
    if done.returncode:
        raise SlurmError(" ".join((done.stderr or done.stdout).split()))
    return done.stdout


def nodes() -> list[Node]:
    """List the nodes of each partition.

    Raises:
        SlurmError: SLURM cannot be asked.
    """
    lines = ask("sinfo", "--noheader", "--Node", "--format=%P|%N|%c|%m|%G|%l").splitlines()
    return [_node(line) for line in lines if line]


def _node(line: str) -> Node:
    partition, name, cpus, megabytes, resources, minutes = (each.strip() for each in line.split("|"))
    default = partition.endswith("*")
    return Node(
        partition.removesuffix("*"), default, name, int(cpus), int(megabytes), _gpus(resources), minutes
    )


def _gpus(resources: str) -> int:
    """Count the GPUs in what a node has: `gpu:a100:4(S:0-1),gpu:2,shard:8`."""
    count = 0
    for each in resources.split(","):
        name, *rest = each.partition("(")[0].split(":")
        if name == "gpu" and rest and rest[-1].isdecimal():
            count += int(rest[-1])
    return count


def largest_array() -> int:
    """Give how many jobs an array may have.

    Raises:
        SlurmError: SLURM cannot be asked.
    """
    for line in ask("scontrol", "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return max(1, int(value))
    return 1


# The queue


def job_name(study: Path) -> str:
    """Name the jobs of a study."""
    return f"myosotis-{study.name}"


def submitted(study: Path) -> list[Submitted]:
    """List the jobs that a study has ever submitted, the latest last."""
    records = sorted((study / FOLDER).glob(f"*/{RECORD}"))
    return [
        Submitted(each["id"], tuple(each["trials"]), path.parent / each["told"], path.parent / each["log"])
        for path in records
        for each in read_json(path)
    ]


def record(folder: Path, jobs: Sequence[Submitted]) -> None:
    """Keep what was submitted in the folder of its submission."""
    rows = [{**asdict(each), "told": each.told.name, "log": each.log.name} for each in jobs]
    write_json(folder / RECORD, rows)


def queue(study: Path, jobs: Iterable[Submitted]) -> Mapping[str, Queued]:
    """Tell how a study's jobs stand, by their ids; SLURM forgets those that ended some minutes ago.

    Raises:
        SlurmError: SLURM cannot be asked.
    """
    ids = sorted({each.id.partition("_")[0] for each in jobs})
    if not ids:
        return {}
    try:
        told = ask(
            "squeue",
            "--noheader",
            "--array",
            "--states=all",
            "--format=%i|%j|%T|%N|%M|%r",
            f"--jobs={','.join(ids)}",
        )
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return {}
        raise
    found = {}
    for line in told.splitlines():
        job, name, state, node, elapsed, reason = (each.strip() for each in line.split("|", 5))
        if name == job_name(study):  # a cluster that was set up anew counts from 1 again
            found[job] = Queued(state, reason, node, elapsed)
    return found


def active(study: Path) -> dict[str, tuple[Submitted, Queued]]:
    """Give a study's jobs that wait or run, by their ids.

    Raises:
        SlurmError: SLURM cannot be asked.
    """
    jobs = submitted(study)
    stand = queue(study, jobs)
    return {each.id: (each, stand[each.id]) for each in jobs if each.id in stand and not stand[each.id].ended}
