"""A SLURM of two nodes on this machine, of Debian's own daemons: started and stopped by a test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
"""Debian's packages that have the programs."""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
SECONDS = 120.0
"""How long daemons may take to come up or to end."""

CONFIGURATION = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=30
MpiDefault=none
JobRequeue=1
KillWait=10
MinJobAge=3600
MaxArraySize=2
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=1 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=1 RealMemory=8000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""
"""Two partitions: what is submitted to `urgent` takes the place of what runs in `debug`.

An array has two jobs at most. Node n1 says that it has two GPUs. A requeued job waits for as long as credentials
live, here 5 s.
"""


@dataclass(frozen=True)
class Cluster:
    """A SLURM that runs.

    Attributes:
        folder: its configuration, state and logs.
        environment: what a program needs in its environment to use it.
    """

    folder: Path
    environment: Mapping[str, str]

    def ask(self, *command: str) -> str:
        """Give what one of SLURM's programs prints."""
        return _run(command, self.environment)

    def log(self) -> str:
        """Give the end of every daemon's log, for a failed test."""
        return "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in self.folder.glob("*.log"))


def require() -> None:
    """Skip where SLURM's programs are not installed; in CI that is a failure."""
    missing = [each for each in PROGRAMS if _program(each) is None]
    if missing:
        reason = (
            f"{', '.join(missing)} not found: apt-get install --no-install-recommends {' '.join(PACKAGES)}"
        )
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@contextmanager
def slurm_cluster() -> Iterator[Cluster]:
    """Start munged, slurmctld and two slurmd in a folder of their own; end them by their pid files."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # munge's socket must have a short path
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    cluster = Cluster(folder, environment)
    try:
        _write_configuration(folder)
        _start(cluster)
        yield cluster
    finally:
        _clear(cluster)
        _stop(list(folder.glob("*.pid")))
        shutil.rmtree(folder, ignore_errors=True)


def _write_configuration(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    controller, n1, n2 = _free_ports(3)
    text = CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0],
        user=_run(["id", "-un"], os.environ).strip(),
        folder=folder,
        controller=controller,
        n1=n1,
        n2=n2,
    )
    (folder / "slurm.conf").write_text(text)
    for each, device in (("gpu0", "/dev/null"), ("gpu1", "/dev/zero")):
        (folder / each).symlink_to(device)  # a GPU is what has a device file
    (folder / "gres.conf").write_text(f"NodeName=n1 Name=gpu File={folder}/gpu[0-1]\n")


def _start(cluster: Cluster) -> None:
    folder = cluster.folder
    _daemon(
        cluster,
        "munged",
        "--force",
        f"--key-file={folder}/munge.key",
        f"--socket={folder}/munge.socket",
        f"--pid-file={folder}/munged.pid",
        f"--seed-file={folder}/munge.seed",
        f"--log-file={folder}/munged.log",
    )
    _daemon(cluster, "slurmctld", "-i", "-c")
    for node in ("n1", "n2"):
        _daemon(cluster, "slurmd", "-N", node)
    _wait_until_idle(cluster)


def _wait_until_idle(cluster: Cluster) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with suppress(AssertionError):
            states = cluster.ask("sinfo", "--noheader", "--Node", "--format=%N %t").split("\n")
            if {"n1 idle", "n2 idle"} <= {" ".join(each.split()) for each in states}:
                return
        time.sleep(0.2)
    raise AssertionError(f"SLURM did not come up in {SECONDS:.0f} s\n{cluster.log()}")


def _clear(cluster: Cluster) -> None:
    """End all jobs: without daemons their processes would go on."""
    end = time.monotonic() + SECONDS
    with suppress(AssertionError, subprocess.TimeoutExpired):  # it may not even have come up
        cluster.ask("scancel", "--me", "--full", "--signal=KILL")
        cluster.ask("scancel", "--me")
        while cluster.ask("squeue", "--noheader") and time.monotonic() < end:
            time.sleep(0.2)


def _daemon(cluster: Cluster, name: str, *arguments: str) -> None:
    program = _program(name)
    assert program is not None
    _run([program, *arguments], cluster.environment)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


def _stop(pid_files: Sequence[Path]) -> None:
    """End daemons, and wait until they have."""
    pids = [int(each.read_text()) for each in pid_files]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        end = time.monotonic() + SECONDS / 4
        while pids and time.monotonic() < end:
            pids = [pid for pid in pids if psutil.pid_exists(pid)]
            time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
