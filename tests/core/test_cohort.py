"""Trials together: the numbers of each alone, whatever befalls the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from myosotis.errors import Interrupted, TrialsFailed
from myosotis.ledger import StudyRecord, read_json, read_scores
from tests.core.commands import run_at, search_path, toy
from tests.core.test_processes import offline

MODULES = "tests.toy,tests.core.hazards"
LIMITED = """
import resource, sys
import lightning.pytorch, myosotis.cohort, myosotis.report
resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, resource.RLIM_INFINITY))
sys.argv = ["myosotis", "run", *sys.argv[1:]]
from myosotis.cli import main
main()
"""
"""The command on a disk that takes no file of more than 6 kB, such as a checkpoint."""
SWEEP = (
    "method=[side,hazard]",
    "method.side.width=1,3",
    "optimizer.learning_rate=0.01,0.05",
    "study=cohort",
    "trainer.log_every_n_steps=1",
    "trainer.checkpoint_every_n_steps=5",
)


def command(*overrides: str, cohort: int = 1, workers: int = 1) -> list[str]:
    keys = {override.split("=")[0] for override in overrides}
    kept = [each for each in toy(*SWEEP) if each.split("=")[0] not in keys]
    return [*kept, *overrides, f"hydra.launcher.cohort={cohort}", f"hydra.launcher.workers={workers}"]


def run(folder: Path, *overrides: str, cohort: int = 1, workers: int = 1) -> StudyRecord:
    return run_at(folder, *command(*overrides, cohort=cohort, workers=workers), modules=MODULES)


def started(folder: Path, *overrides: str, cohort: int = 1, workers: int = 1) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "myosotis", "run", *command(*overrides, cohort=cohort, workers=workers)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search_path(), "MYOSOTIS_PLUGINS": MODULES},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(record: StudyRecord) -> dict[str, list[float]]:
    return {
        trial: [json.loads(line)["loss"] for line in (record.folder / trial / "metrics.jsonl").open()]
        for trial in record.trials.trial
    }


def tables(record: StudyRecord) -> dict[str, Any]:
    """Give all that must be the same to the bit."""
    found: dict[str, Any] = {}
    for trial in record.trials.trial:
        folder = record.folder / trial
        found[f"{trial} scores"] = read_scores(folder / "scores.jsonl")
        found[f"{trial} log"] = (folder / "metrics.jsonl").read_bytes()
        found[f"{trial} tokens"] = read_json(folder / "result.json")["tokens"]
        found[f"{trial} mixture"] = read_json(folder / "manifest.json")["realised_mixture"]
        for name, value in load_file(folder / "adapter" / "model.safetensors").items():
            found[f"{trial} {name}"] = value.numpy().tobytes()
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    """Four trials, one after another."""
    return run(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    """The same four in one cohort."""
    return run(tmp_path_factory.mktemp("together"), cohort=4)


# The same numbers


def test_each_trial_of_a_cohort_has_the_losses_and_scores_of_the_trial_alone(
    alone: StudyRecord, together: StudyRecord
) -> None:
    for trial, expected in losses(alone).items():
        assert len(expected) == 24
        np.testing.assert_allclose(losses(together)[trial], expected, rtol=1e-5)
    np.testing.assert_allclose(together.scores.value, alone.scores.value, atol=1e-4)
    assert list(together.scores.trial) == list(alone.scores.trial)


def test_they_did_train_together(together: StudyRecord) -> None:
    for trial in together.trials.trial:
        assert sorted(read_json(together.folder / trial / "manifest.json")["cohort"]) == sorted(
            together.trials.trial
        )


def test_each_trial_has_its_own_numbers(together: StudyRecord) -> None:
    assert len({tuple(each) for each in losses(together).values()}) == 4


def test_seeds_and_mixtures_train_together(tmp_path: Path) -> None:
    setting = ("curriculum=joint", "mix.up=0.25,0.75", "seed=0,1", "method.side.width=2")
    one = run(tmp_path, *setting, "studies=one", "optimizer.learning_rate=0.02")
    four = run(tmp_path, *setting, "studies=four", "optimizer.learning_rate=0.02", cohort=4)
    for trial, expected in losses(one).items():
        np.testing.assert_allclose(losses(four)[trial], expected, rtol=1e-5)
        manifest = read_json(four.folder / trial / "manifest.json")
        assert len(manifest["cohort"]) == 4
        realised = read_json(one.folder / trial / "manifest.json")["realised_mixture"]
        assert manifest["realised_mixture"] == realised


def test_another_trials_data_changes_no_bit(tmp_path: Path) -> None:
    setting = ("curriculum=joint", "method.side.width=2", "optimizer.learning_rate=0.02")
    first = run(tmp_path, *setting, "mix.up=0.25,0.5", "studies=first", cohort=2)
    second = run(tmp_path, *setting, "mix.up=0.25,0.75", "studies=second", cohort=2)
    shared = set(first.trials.trial) & set(second.trials.trial)
    assert len(shared) == 1
    for trial in shared:
        assert losses(first)[trial] == losses(second)[trial]


def test_trials_of_different_lengths_train_together(tmp_path: Path) -> None:
    setting = ("trainer.max_steps=5,12", "method.side.width=2", "optimizer.learning_rate=0.02")
    one = run(tmp_path, *setting, "studies=one")
    two = run(tmp_path, *setting, "studies=two", cohort=2)
    assert sorted(len(each) for each in losses(two).values()) == [10, 24]
    for trial, expected in losses(one).items():
        np.testing.assert_allclose(losses(two)[trial], expected, rtol=1e-5)


def test_evaluations_within_a_stage_are_those_of_the_trial_alone(tmp_path: Path) -> None:
    setting = ("evaluation.every=5", "method.side.width=2")
    one = run(tmp_path, *setting, "studies=one")
    two = run(tmp_path, *setting, "studies=two", cohort=2)
    assert set(two.scores.step) == {0, 5, 10, 12}
    assert list(two.scores.step) == list(one.scores.step)
    np.testing.assert_allclose(two.scores.value, one.scores.value, atol=1e-4)


def test_each_clips_its_own_gradient(tmp_path: Path) -> None:
    setting = ("trainer.gradient_clip_val=0.05,1", "method.side.width=2", "optimizer.name=sgd")
    one = run(tmp_path, *setting, "optimizer.learning_rate=0.5", "studies=one")
    two = run(tmp_path, *setting, "optimizer.learning_rate=0.5", "studies=two", cohort=2)
    for trial, expected in losses(one).items():
        np.testing.assert_allclose(losses(two)[trial], expected, rtol=1e-5)


def test_each_has_its_own_schedule_and_weight_decay(tmp_path: Path) -> None:
    setting = (
        "method.side.width=2",
        "optimizer.learning_rate=0.05",
        "optimizer.weight_decay=0,0.5",
        "schedule.name=constant,cosine",
        "schedule.warmup_steps=0,3",
    )
    one = run(tmp_path, *setting, "studies=one")
    together = run(tmp_path, *setting, "studies=two", cohort=8)
    assert {len(cohort(together, trial)) for trial in together.trials.trial} == {8}
    found = losses(together)
    assert len({tuple(each) for each in found.values()}) == 8
    for trial, expected in losses(one).items():
        np.testing.assert_allclose(found[trial], expected, rtol=1e-5)


def cohort(record: StudyRecord, trial: str) -> list[str]:
    members: list[str] = read_json(record.folder / trial / "manifest.json")["cohort"]
    return members


def test_each_of_a_cohort_has_a_wandb_run_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    record = run(tmp_path, "method.side.width=1,3", "optimizer.learning_rate=0.01", "logger=wandb", cohort=2)
    for trial, expected in losses(record).items():
        assert sorted(cohort(record, trial)) == sorted(record.trials.trial)
        logged = offline(record.folder / trial)
        assert logged.run.run_id == trial
        assert [entry["loss"] for entry in logged.history if "loss" in entry] == expected


def test_what_trains_the_base_trains_alone(tmp_path: Path) -> None:
    record = run_at(
        tmp_path,
        *toy("method=[plain]", "seed=0,1", "hydra.launcher.cohort=4", "hydra.launcher.workers=1"),
    )
    for trial in record.trials.trial:
        assert read_json(record.folder / trial / "manifest.json")["cohort"] == [trial]


# Failures


def test_a_loss_that_is_not_finite_ends_its_trial_alone(together: StudyRecord, tmp_path: Path) -> None:
    with pytest.raises(TrialsFailed, match="2 of 6 trials failed"):
        run(tmp_path, "optimizer.learning_rate=0.01,0.05,1e38", "optimizer.name=adamw", cohort=6)
    from myosotis import load_study

    record = load_study(tmp_path / "studies" / "cohort")
    finished = record.trials[record.trials.status == "finished"]
    assert sorted(finished.trial) == sorted(together.trials.trial)
    for trial in finished.trial:
        np.testing.assert_allclose(
            [each.value for each in read_scores(record.folder / trial / "scores.jsonl")],
            [each.value for each in read_scores(together.folder / trial / "scores.jsonl")],
            atol=1e-6,
        )


def test_an_evaluation_that_fails_ends_its_trial_alone(tmp_path: Path) -> None:
    setting = (
        "method=[side,unscored]",
        "method.side.width=2",
        "optimizer.learning_rate=0.02",
        "evaluation.every=5",
    )
    with pytest.raises(TrialsFailed, match="1 of 2 trials failed"):
        run(tmp_path, *setting, "method.unscored.fails=true,false", cohort=2)
    from myosotis import load_study

    failed, finished = losses(load_study(tmp_path / "studies" / "cohort")).values()
    assert len(failed) == 5
    [alone] = losses(run(tmp_path, *setting, "method.unscored.fails=false", "studies=alone")).values()
    np.testing.assert_allclose(finished, alone, rtol=1e-5)


@pytest.mark.slow
def test_a_step_that_fails_together_is_taken_by_halves(tmp_path: Path) -> None:
    setting = ("method=[side,together]", "method.side.width=1,2,3", "optimizer.learning_rate=0.02")
    with pytest.raises(TrialsFailed, match="3 of 6 trials failed"):
        run(tmp_path, *setting, "method.together.fails=true,false", cohort=6)
    from myosotis import load_study

    record = load_study(tmp_path / "studies" / "cohort")
    assert dict(zip(record.trials.overrides, record.trials.status, strict=True)) == {
        f"method.side.width={width} method.together.fails={fails}": "failed" if fails else "finished"
        for width in (1, 2, 3)
        for fails in (True, False)
    }
    assert all("no penalty" in error for error in record.trials.error.dropna())


def test_memory_that_runs_out_is_tried_again(alone: StudyRecord, tmp_path: Path) -> None:
    harm = ("method.hazard.harm=memory", f"method.hazard.once={tmp_path / 'once'}")
    record = run(tmp_path, *harm, cohort=4)
    assert set(record.trials.status) == {"finished"}
    np.testing.assert_allclose(record.scores.value, alone.scores.value, atol=1e-4)


# Kills


@pytest.mark.slow
def test_stopped_command_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    harm = ("method.hazard.harm=interrupt", f"method.hazard.once={tmp_path / 'once'}", "method.hazard.step=7")
    (tmp_path / "once").touch()
    whole = run(tmp_path, *harm, "studies=whole", cohort=4)
    (tmp_path / "once").unlink()
    with pytest.raises(Interrupted, match="the same command goes on"):
        run(tmp_path, *harm, cohort=4)
    for trial in whole.trials.trial:
        assert [
            path.name[:12] for path in (tmp_path / "studies/cohort" / trial / "checkpoints").glob("*step7*")
        ]
    record = run(tmp_path, *harm, cohort=4)
    assert tables(record) == tables(whole)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_command_goes_on_to_the_same_bits(tmp_path: Path, workers: int) -> None:
    harm = ("method.hazard.harm=kill", f"method.hazard.once={tmp_path / 'once'}", "method.hazard.step=8")
    (tmp_path / "once").touch()
    whole = run(tmp_path, *harm, "studies=whole", cohort=2)
    (tmp_path / "once").unlink()
    process = started(tmp_path, *harm, cohort=2, workers=workers)
    _, printed = process.communicate(timeout=300)
    if workers == 1:
        assert process.returncode == -9
        _, printed = started(tmp_path, *harm, cohort=2).communicate(timeout=300)
    else:
        assert process.returncode == 0, printed
        assert "was ended by SIGKILL" in printed
        assert "2 trials are begun again from the last checkpoint" in printed
    from myosotis import load_study

    record = load_study(tmp_path / "studies" / "cohort")
    assert set(record.trials.status) == {"finished"}, printed
    assert tables(record) == tables(whole)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_terminated_command_saves_and_goes_on_to_the_same_bits(tmp_path: Path, workers: int) -> None:
    long = ("trainer.max_steps=600", "trainer.log_every_n_steps=50")
    whole = run(tmp_path, *long, "studies=whole", cohort=2)
    process = started(tmp_path, *long, cohort=2, workers=workers)
    assert process.stderr is not None
    for line in process.stderr:
        if "begins" in line:
            break
    time.sleep(1)
    process.terminate()
    _, printed = process.communicate(timeout=300)
    assert process.returncode == 130, printed
    assert "every trial is saved where it was, and the same command goes on from there" in printed
    stopped = list((tmp_path / "studies" / "cohort").glob("*/checkpoints/*.pt"))
    assert stopped
    record = run(tmp_path, *long, cohort=2, workers=1)
    assert tables(record) == tables(whole)


@pytest.mark.slow
def test_full_disk_ends_trials_with_a_reason_and_the_rerun_finishes(
    alone: StudyRecord, tmp_path: Path
) -> None:
    limited = [sys.executable, "-c", LIMITED, *command()]
    variables = {**os.environ, "PYTHONPATH": search_path(), "MYOSOTIS_PLUGINS": MODULES}
    done = subprocess.run(limited, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "must be written, but File too large" in done.stderr
    assert "run the same command again: nothing finished is lost" in done.stderr
    partial = [path.name for path in (tmp_path / "studies").glob("**/*.partial")]
    assert partial == []
    record = run(tmp_path)
    assert tables(record) == tables(alone)


@pytest.mark.slow
def test_torn_checkpoint_is_known_and_the_one_before_it_is_used(
    together: StudyRecord, tmp_path: Path
) -> None:
    harm = (
        "method.hazard.harm=interrupt",
        f"method.hazard.once={tmp_path / 'once'}",
        "method.hazard.step=11",
    )
    (tmp_path / "once").touch()
    whole = run(tmp_path, *harm, "studies=whole", cohort=4)
    (tmp_path / "once").unlink()
    with pytest.raises(Interrupted):
        run(tmp_path, *harm, cohort=4)
    newest = list((tmp_path / "studies/cohort").glob("*/checkpoints/stage2-step11-*.pt"))
    assert len(newest) == 4
    content = newest[0].read_bytes()
    newest[0].write_bytes(content[:-100] + bytes(100))
    record = run(tmp_path, *harm, cohort=4)
    assert tables(record) == tables(whole)


@pytest.mark.slow
def test_two_commands_share_a_study(alone: StudyRecord, tmp_path: Path) -> None:
    processes = [started(tmp_path, cohort=2) for _ in range(2)]
    printed = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    text = "\n".join(printed)
    begun = [line for line in text.splitlines() if ": begins," in line]
    assert len(begun) == 4, text
    from myosotis import load_study

    record = load_study(tmp_path / "studies" / "cohort")
    np.testing.assert_allclose(record.scores.value, alone.scores.value, atol=1e-4)


def test_fail_fast_saves_the_others(tmp_path: Path) -> None:
    setting = ("method.hazard.harm=raise,none", "method.side.width=2", "optimizer.learning_rate=0.02,0.03")
    with pytest.raises(TrialsFailed):
        run(tmp_path, *setting, "hydra.launcher.fail_fast=true")
    from myosotis import load_study

    record = load_study(tmp_path / "studies" / "cohort")
    assert sorted(record.trials.status) == ["failed", "unfinished", "unfinished", "unfinished"]
