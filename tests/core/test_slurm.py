"""A study on SLURM, two nodes of Debian's own daemons: the numbers of this machine, whatever befalls the jobs."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from myosotis import load_study, slurm
from myosotis.course import Course, TrialCourse
from myosotis.doctor import diagnoses
from myosotis.errors import Interrupted
from myosotis.events import Event
from myosotis.job import Job
from myosotis.ledger import StudyRecord, read_json
from myosotis.local import Queue, Stopping, Unit
from myosotis.locks import TrialLock
from myosotis.progress import PlainLines
from myosotis.slurm_follow import Running, look
from myosotis.slurm_job import PYTHON, SlurmTask
from myosotis.slurm_options import minutes_of
from myosotis.told import Ended, Listener, Teller
from tests.core.commands import run_at, search_path, toy
from tests.core.slurm_commands import PACED, SLURM, Command, asked, cluster_for_commands, until
from tests.core.test_cohort import tables
from tests.ray_cluster import on_ray, ray_cluster, ray_variables
from tests.slurm_cluster import Cluster

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Start SLURM once for all that need it."""
    with cluster_for_commands() as started:
        yield started


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the plugin, for this process and all that are started."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "paced.py").write_text(PACED, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([search_path(), str(folder)]))
    monkeypatch.setenv("MYOSOTIS_PLUGINS", "tests.toy,tests.core.hazards,paced")


def steps(study: Path) -> dict[str, int]:
    """Count the steps that each trial has logged."""
    return {path.parent.name: len(path.read_text().splitlines()) for path in study.glob("*/metrics.jsonl")}


def locally(folder: Path, *overrides: str) -> StudyRecord:
    """Run the same study in this process."""
    folder.mkdir(exist_ok=True)
    modules = os.environ["MYOSOTIS_PLUGINS"]
    return run_at(folder, *asked("hydra.launcher.workers=1", *overrides), modules=modules)


def restarts(cluster: Cluster, job: str) -> int:
    """Count how often SLURM has begun a job again."""
    shown = cluster.ask("scontrol", "show", "job", job)
    return int(shown.partition("Restarts=")[2].split()[0])


# The same numbers


@pytest.mark.slow
def test_two_cohorts_are_an_array_with_what_was_asked_for_and_the_numbers_of_this_machine(
    cluster: Cluster, tmp_path: Path, plugins: None
) -> None:
    trials = ("method=[side]", "method.side.width=1,3", "seed=0,1")
    told = (
        "hydra.launcher.cohort=2",
        "hydra.launcher.memory_gigabytes=1.5",
        "hydra.launcher.slurm.account=research",
        "hydra.launcher.slurm.time=0-00:50:00",
        "hydra.launcher.slurm.additional={nice: 7}",
    )
    there = tmp_path / "there"
    printed = Command(there, *SLURM, *told, *trials).ends()
    record, here = load_study(there / "studies" / "cluster"), locally(tmp_path / "here", *trials)
    assert list(record.scores.trial) == list(here.scores.trial)
    np.testing.assert_allclose(record.scores.value, here.scores.value, atol=1e-4)

    jobs = slurm.submitted(record.folder)
    assert [len(each.trials) for each in jobs] == [2, 2]
    assert len({each.id.partition("_")[0] for each in jobs}) == 1, "they are one array"
    assert "submitted 2 jobs to SLURM" in printed
    scripts = [path.read_text() for path in record.folder.glob("slurm/*/*.sh")]
    assert all(PYTHON in each for each in scripts)
    for each in jobs:
        for trial in each.trials:
            assert set(read_json(record.folder / trial / "manifest.json")["cohort"]) == set(each.trials)
        shown = cluster.ask("scontrol", "show", "job", each.id)
        for part in (
            "Partition=debug",
            "Account=research",
            "TimeLimit=00:50:00",
            "Nice=7",
            "MinMemoryNode=1.50G",
            "ArrayTaskThrottle=2",
            "Requeue=1",
        ):
            assert part in shown


@pytest.mark.slow
def test_this_machine_ray_and_slurm_give_the_same_tables(
    cluster: Cluster, tmp_path: Path, plugins: None
) -> None:
    trials = ("method=[side]", "method.side.width=1,3", "trainer.max_steps=12")
    here = locally(tmp_path / "here", *trials)
    with ray_variables(), ray_cluster() as ray:
        for name, place in (("ray", on_ray(ray)), ("slurm", SLURM)):
            alone = locally(tmp_path / f"{name} 1", *trials, *place, "hydra.launcher.workers=2")
            assert tables(alone) == tables(here)
            together = locally(tmp_path / f"{name} 2", *trials, *place, "hydra.launcher.cohort=2")
            assert list(together.scores.trial) == list(here.scores.trial)
            np.testing.assert_allclose(together.scores.value, here.scores.value, atol=1e-4)
            for record, size in ((alone, 1), (together, 2)):
                cohorts = [read_json(path)["cohort"] for path in record.folder.glob("*/manifest.json")]
                assert [len(each) for each in cohorts] == [size, size]


@pytest.mark.slow
def test_a_job_that_makes_room_and_one_that_is_killed_go_on_with_the_same_numbers(
    cluster: Cluster, tmp_path: Path, plugins: None
) -> None:
    there = tmp_path / "there"
    command = Command(there, *SLURM, "seed=0,1")
    study = there / "studies" / "cluster"
    until(lambda: sorted(steps(study).values())[-2:] > [25, 25], command)
    moved, killed = slurm.submitted(study)
    node = cluster.ask("squeue", "--noheader", "--format=%N", f"--jobs={moved.id}").strip()
    urgent = ("--partition=urgent", f"--nodelist={node}", "--output=/dev/null", "--wrap=sleep 1")
    cluster.ask("sbatch", *urgent)
    holder = TrialLock(study, killed.trials[0]).holder()
    assert holder is not None
    os.kill(holder.pid, signal.SIGKILL)
    printed = command.ends()
    assert restarts(cluster, moved.id) == 1, "SLURM has begun the job again"
    assert f"SLURM job {killed.id} failed (NonZeroExitCode)" in printed
    assert "1 trial is begun again from the last checkpoint" in printed
    assert [each.trials for each in slurm.submitted(study)] == [moved.trials, killed.trials, killed.trials]
    assert begun(moved) == 2
    assert "stopped and saved" in printed
    assert tables(load_study(study)) == tables(locally(tmp_path / "here", "seed=0,1"))


def begun(job: slurm.Submitted) -> int:
    """Count how often a job's trials have begun."""
    return sum(getattr(each, "kind", "") == "begins" for each in Listener(job.told).heard())


@pytest.mark.slow
def test_a_trial_that_takes_longer_than_its_job_may_goes_on_in_the_next_turn(
    cluster: Cluster, tmp_path: Path, plugins: None
) -> None:
    there = tmp_path / "there"
    # SLURM looks at the time twice a minute: it warns 15 to 45 s after the beginning, of 60 s that the steps take.
    short = ("hydra.launcher.slurm.time=1", "hydra.launcher.slurm.save_seconds=15")
    printed = Command(there, *SLURM, *short, "trainer.max_steps=200", pace="0.3").ends()
    study = there / "studies" / "cluster"
    [job] = slurm.submitted(study)
    assert 2 <= begun(job) <= 1 + restarts(cluster, job.id), printed
    assert tables(load_study(study)) == tables(locally(tmp_path / "here", "trainer.max_steps=200"))


# From one backend to another


@pytest.mark.slow
def test_a_trial_goes_from_this_machine_to_slurm_and_back(
    cluster: Cluster, tmp_path: Path, plugins: None
) -> None:
    there = tmp_path / "there"
    study = there / "studies" / "cluster"
    done = 0
    for where in ((), SLURM):
        command = Command(there, *where)
        until(lambda least=done + 25: sum(steps(study).values()) > least, command)
        command.process.send_signal(signal.SIGINT)
        assert "every trial is saved where it was" in command.ends(130)
        [done] = steps(study).values()
        assert done < 160
    until(lambda: slurm.active(study) == {})
    [job] = slurm.submitted(study)
    assert begun(job) == 1
    assert restarts(cluster, job.id) == 0
    last = Command(there, pace="0").ends()
    assert "none left" in last
    assert tables(load_study(study)) == tables(locally(tmp_path / "here"))


# Without the command


@pytest.mark.slow
def test_what_is_left_to_slurm_is_seen_and_followed_and_never_submitted_twice(
    cluster: Cluster, tmp_path: Path, plugins: None, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = tmp_path / "hold"  # the first trial stays at its first step as long as it is looked at
    hold.touch()
    monkeypatch.setenv("HOLD", str(hold))
    there = tmp_path / "there"
    setup = "'export FIRST=$CUDA_VISIBLE_DEVICES','echo device $FIRST'"
    gpu = ("hydra.launcher.gpus=1", f"hydra.launcher.slurm.setup=[{setup}]")
    asked = (*SLURM, *gpu, "seed=0,1,2", "hydra.launcher.workers=1")
    printed = Command(there, *asked, "hydra.launcher.detach=true").ends()
    study = there / "studies" / "cluster"
    assert "myosotis status cluster" in printed
    assert not (study / "report.html").exists(), "it does not take its time for that"
    jobs = slurm.submitted(study)
    assert len(jobs) == 3
    assert len(slurm.active(study)) == 3, "the command has ended before them"

    monkeypatch.chdir(there)

    def status() -> str:
        code, printed, _ = call("status", "cluster")
        assert code == 0
        return printed

    until(lambda: "1 running" in status())
    assert "3 trials, " in status()
    for reason in ("JobArrayTaskLimit", "Dependency"):  # the second array begins after the first
        assert f"1 job in SLURM's queue: pending ({reason})" in status()
    assert "2 in the queue" in status()
    assert call("report", "cluster")[0] == 0

    again = Command(there, *asked, "hydra.launcher.detach=true").ends()
    assert "of an earlier command in SLURM's queue: not submitted again" in again
    assert "submitted 1 job" not in again
    followed = Command(there, *asked)
    until(lambda: ": begins," in followed.printed.read_text(), followed)
    assert re.search(r"\d_\d +running +n1 +\d:\d\d +side \+ paced seed=\d", status()), status()
    hold.unlink()
    until(lambda: steps(study), followed)
    followed.process.kill()
    followed.process.wait()
    Command(there, *asked).ends()
    assert slurm.submitted(study) == jobs, "none was submitted twice"
    assert [begun(each) for each in jobs] == [1, 1, 1]
    for each in jobs:
        assert "device 0\n" in each.log.read_text()
        assert "NodeList=n1\n" in cluster.ask("scontrol", "show", "job", each.id), "where the GPUs are"
    assert call("report", "cluster")[0] == 0
    assert tables(load_study(study)) == tables(locally(tmp_path / "here", "seed=0,1,2"))


# What is refused


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            ["hydra.launcher.slurm.partition=debg"],
            "slurm.partition: there is no partition named 'debg'. Did you mean debug? Known: debug, urgent",
        ),
        (
            ["hydra.launcher.gpus=3"],
            "a node of SLURM's partition debug must have what a worker asks for, hydra.launcher.cpus=1, "
            "hydra.launcher.gpus=3, but its nodes have 1 cores, 0 GPUs, 7.8 GB of memory; 1 cores, 2 GPUs, 7.8 GB",
        ),
        (["hydra.launcher.gpus=0.5"], "hydra.launcher.gpus must be whole on SLURM, but got 0.5"),
        (["hydra.launcher.memory_gigabytes=9"], "hydra.launcher.memory_gigabytes=9, but its nodes have"),
        (
            ["hydra.launcher.slurm.time='1:30:00'"],
            "hydra.launcher.slurm.time must be at most what partition debug allows, 1:00:00, but got 1:30:00",
        ),
        (
            ["hydra.launcher.slurm.additional={nodelist: n9}"],
            "but sbatch says: allocation failure: Invalid node name",
        ),
        (
            ["hydra.launcher.slurm.time=soon"],
            "hydra.launcher.slurm.time must be minutes, or as SLURM writes it",
        ),
        (
            ["hydra.launcher.slurm.save_seconds=3600"],
            "must be at least 1 and less than the time of a job, 3600 s",
        ),
        (["hydra.launcher.slurm.setup=module load cuda"], "setup must be a list of lines of shell"),
    ],
)
def test_what_the_cluster_cannot_run_is_refused_before_anything_starts(
    cluster: Cluster, call: Call, asked: list[str], told: str
) -> None:
    code, _, printed = call("run", *toy("study=refused", "hydra.launcher.backend=slurm", *asked))
    assert code == 2
    assert told in " ".join(printed.split())
    assert not Path("studies/refused").exists()


def test_without_slurm_it_says_so(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, printed = call("run", *toy("study=refused", "hydra.launcher.backend=slurm"))
    assert code == 2
    assert (
        "must find SLURM here, but there is no sinfo on PATH; run the command where sbatch works" in printed
    )


def test_without_the_extra_it_says_what_to_type(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == "submitit"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("slurm_backend", "slurm_follow", "slurm_job"):
        monkeypatch.delitem(sys.modules, f"myosotis.{name}", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoSubmitit(), *sys.meta_path])
    code, _, printed = call("run", *toy("study=refused", "hydra.launcher.backend=slurm"))
    assert code == 2
    assert "must have submitit, but it is not installed; pip install 'myosotis[slurm]'" in printed


class NoSubmitit:
    """Finds everything but submitit."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "submitit":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("backend", ["local", "ray"])
def test_only_slurm_keeps_trials_when_the_command_has_ended(call: Call, backend: str) -> None:
    code, _, printed = call(
        "run", *toy("study=refused", f"hydra.launcher.backend={backend}", "hydra.launcher.detach=true")
    )
    assert code == 2
    assert f"must be with hydra.launcher.backend=slurm, but got {backend}" in printed


# Its parts


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        ("90", 90),
        ("90:30", 91),
        ("1:30:00", 90),
        ("1:30:01", 91),
        ("2-0", 2880),
        ("2-12", 3600),
        ("2-12:30", 3630),
        ("2-12:30:00", 3630),
        ("infinite", None),
        ("soon", None),
        ("-5", None),
    ],
)
def test_times_are_read_as_slurm_writes_them(time: str, minutes: int | None) -> None:
    assert minutes_of(time) == minutes


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [("(null)", 0), ("gpu:2", 2), ("gpu:a100:4(S:0-1),gpu:h100:2,shard:8", 6), ("gpu:a100_80gb:8(S:0,1)", 8)],
)
def test_gpus_are_counted_in_what_a_node_has(resources: str, gpus: int) -> None:
    assert slurm._gpus(resources) == gpus


def test_events_are_heard_once_and_whole(tmp_path: Path) -> None:
    tell, listener = Teller(tmp_path / "told.jsonl"), Listener(tmp_path / "told.jsonl")
    assert listener.heard() == []
    begins = Event("a", "begins")
    steps = [Event("a", "step", number, 9, 1, {"loss": float("inf")}) for number in range(3)]
    for each in (begins, *steps):
        tell(each)
    assert listener.heard() == [begins, steps[0]], "of steps one a second is enough"
    with (tmp_path / "told.jsonl").open("a") as file:
        file.write(json.dumps({"ended": {"reason": "no", "passing": False}})[:20])
    assert listener.heard() == []
    with (tmp_path / "told.jsonl").open("a") as file:
        file.write(json.dumps({"ended": {"reason": "no", "passing": False}})[20:] + "\n")
    assert listener.heard() == [Ended("no", passing=False)]


def test_the_job_of_a_cluster_that_was_set_up_anew_is_not_taken_for_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "mine"
    folder = study / slurm.FOLDER / "first"
    slurm.record(
        folder, [slurm.Submitted(f"7_{n}", (f"t{n}",), folder / "0", folder / "1") for n in range(2)]
    )
    line = "7_0|myosotis-mine|RUNNING|n1|0:10|None\n7_1|myosotis-other|RUNNING|n2|0:10|None\n"
    monkeypatch.setattr(slurm, "ask", lambda *command: line)
    assert list(slurm.active(study)) == ["7_0"]


class Warned:
    """Surroundings in which a job's time is over before its first step is done."""

    def enter(self) -> None:
        os.kill(os.getpid(), signal.SIGUSR2)
        raise Interrupted


STARTS = """
import time
print("starts", flush=True)
time.sleep(0.5)
from myosotis.slurm_job import _Signals
signals = _Signals()
with signals.taken():
    print(signals(), signals.warned, signals.leaves)
"""


def test_a_job_that_is_warned_while_it_still_starts_is_so_once_it_can_take_it() -> None:
    job = subprocess.Popen([*shlex.split(PYTHON), "-uc", STARTS], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    assert job.stdout.readline() == "starts\n"
    for each in (signal.SIGUSR2, signal.SIGTERM):
        job.send_signal(each)
    told, _ = job.communicate()
    assert told == "True True False\n"
    assert job.returncode == 0


def test_a_job_whose_time_is_too_short_for_a_step_does_not_come_back_for_ever(tmp_path: Path) -> None:
    job = Job("a", "a", tmp_path / "a", "study", {})
    task: Any = SlurmTask(cast(Any, Warned()), Unit([job], 1), tmp_path / "told.jsonl")
    requeued: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: requeued.append(number))
    try:
        while task.fruitless < 3 and len(requeued) < 9:
            task()
            task = pickle.loads(pickle.dumps(task.checkpoint())).function
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert len(requeued) == 2
    *waits, last = Listener(tmp_path / "told.jsonl").heard()
    assert [getattr(each, "kind", "") for each in waits] == ["waits", "waits"]
    assert last == Ended(
        "came no further in 3 turns: give a job more time, hydra.launcher.slurm.time", passing=False
    )


@pytest.mark.parametrize(
    ("state", "attempts"),
    [("CANCELLED", 1), ("TIMEOUT", 1), ("NODE_FAIL", 1), ("OUT_OF_MEMORY", 1), (None, 1), ("PREEMPTED", 2)],
)
def test_a_job_that_is_no_more_is_begun_again_unless_somebody_cancelled_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str | None, attempts: int
) -> None:
    job = Job("a", "a", tmp_path / "study" / "a", "study", {})
    folder = tmp_path / "study" / slurm.FOLDER / "first"
    unit = Unit([job], 1, attempts)
    queue = Queue([], PlainLines(Course({"a": TrialCourse("a")})), Stopping(), retries=1, fail_fast=False)
    running = {"7": Running(slurm.Submitted("7", ("a",), folder / "0.jsonl", folder / "7.out"), unit)}
    stand = {} if state is None else {"7": slurm.Queued(state, "None", "", "")}
    monkeypatch.setattr(slurm, "queue", lambda study, jobs: stand)
    look(queue, running)
    assert list(running) == ["7"], "what it told last may come a little later"
    look(queue, running)
    assert not running
    again = [each.jobs for each in queue.waiting]
    if state == "CANCELLED":
        assert again == []
        assert "SLURM job 7 cancelled" in (job.folder / "error.txt").read_text()
        assert list(queue.failed) == ["a"]
    else:
        assert again == [[job]]
        assert queue.failed == {}


def test_the_doctor_knows_the_partitions(cluster: Cluster) -> None:
    *_, last = diagnoses(Path("studies"))
    assert last.found.endswith("SLURM with the partitions debug, urgent")
