"""Trials on tasks of long and of short rows: shares of tokens, passes, buckets; alone, together, after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from myosotis.errors import ConfigurationError, TrialsFailed
from myosotis.ledger import StudyRecord, read_json
from tests.core.commands import resolved, run_at, toy
from tests.core.walks import Walks

MODULES = "tests.toy,tests.core.walks,tests.core.hazards"
TASKS = {"long": Walks(rows=24, shortest=15, longest=30), "short": Walks(rows=64, longest=6)}
SETTING = (
    *(each for each in toy() if not each.startswith(("+", "dataset.", "probe.", "trainer.max_steps"))),
    "method=[side,hazard]",
    "+dataset@dataset.long=walks",
    "dataset.long={rows:24,shortest:15,longest:30}",
    "+dataset@dataset.short=walks",
    "dataset.short.longest=6",
    "trainer.log_every_n_steps=1",
    "hydra.launcher.workers=1",
)


def command(*overrides: str) -> list[str]:
    keys = {override.split("=")[0] for override in overrides}
    return [*(each for each in SETTING if each.split("=")[0] not in keys), *overrides]


def run(folder: Path, *overrides: str) -> StudyRecord:
    return run_at(folder, *command(*overrides), modules=MODULES)


def manifest(record: StudyRecord, trial: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = read_json(record.folder / record.trials.trial[trial] / "manifest.json")
    return found


def tokens(task: str) -> int:
    """Count the tokens of a task's training rows."""
    rows = TASKS[task].split("train")
    assert rows is not None
    return sum(len(rows[index]["walk"]) for index in range(len(rows)))


def losses(record: StudyRecord) -> dict[str, list[float]]:
    return {
        trial: [json.loads(line)["loss"] for line in (record.folder / trial / "metrics.jsonl").open()]
        for trial in record.trials.trial
    }


def test_equal_shares_of_tokens_are_realised(tmp_path: Path) -> None:
    record = run(
        tmp_path,
        "curriculum=joint",
        "curriculum.by=tokens",
        "curriculum.stopping_strategy=all_exhausted",
        "trainer.max_epochs=4",
    )
    found = manifest(record)
    assert found["realised_tokens"]["stage 1"] == pytest.approx({"long": 0.5, "short": 0.5}, abs=0.02)
    means = {task: tokens(task) / each.rows for task, each in TASKS.items()}
    expected = means["short"] / (means["long"] + means["short"])
    rows = found["realised_mixture"]["stage 1"]
    assert rows["long"] == pytest.approx(expected, abs=0.02)
    assert sum(rows.values()) == pytest.approx(1)
    # Every row of each was trained on four times, and of what was short more often.
    assert record.trials.tokens[0] * found["realised_tokens"]["stage 1"]["long"] >= 4 * tokens("long")
    assert found["cost"]["steps"] * 8 * rows["long"] < 4 * 24 + 8


def test_one_pass_over_the_first_or_over_all(tmp_path: Path) -> None:
    strategies = "first_exhausted,all_exhausted,total"
    record = run(
        tmp_path, "curriculum=joint", f"curriculum.stopping_strategy={strategies}", "trainer.max_epochs=1"
    )
    # Equal shares, 24 and 64 rows: 4 of each in every batch of 8.
    assert [manifest(record, trial)["cost"]["steps"] for trial in range(3)] == [6, 16, 11]


def test_shares_by_temperature_are_realised(tmp_path: Path) -> None:
    record = run(
        tmp_path,
        "curriculum=joint",
        "curriculum.temperature=1,2",
        "dataset.short.rows=96",
        "trainer.max_steps=15",
    )
    shares = [manifest(record, trial)["realised_mixture"]["stage 1"] for trial in range(2)]
    assert shares[0] == pytest.approx({"long": 1 / 5, "short": 4 / 5})
    assert shares[1] == pytest.approx({"long": 1 / 3, "short": 2 / 3})


def test_temperature_counts_what_the_shares_are_of(tmp_path: Path) -> None:
    record = run(
        tmp_path,
        "curriculum=joint",
        "curriculum.temperature=2",
        "curriculum.by=tokens",
        "trainer.max_steps=90",
    )
    sizes = {task: np.sqrt(tokens(task)) for task in TASKS}
    expected = {task: float(size / sum(sizes.values())) for task, size in sizes.items()}
    assert manifest(record)["realised_tokens"]["stage 1"] == pytest.approx(expected, abs=0.02)


def test_rows_of_like_length_train_the_same_rows(tmp_path: Path) -> None:
    record = run(
        tmp_path, "curriculum=joint", "trainer.bucket_by_length=false,true", "trainer.max_steps=24", "seed=1"
    )
    first, second = losses(record).values()
    assert first != second
    assert record.trials.tokens[0] == record.trials.tokens[1]
    for key in ("realised_mixture", "realised_tokens"):
        assert manifest(record, 0)[key] == manifest(record, 1)[key]


MIXED = (
    "curriculum=stages",
    "curriculum.stages=[{short: 1},{long: 0.5, short: 0.5}]",
    "curriculum.by=tokens",
    "curriculum.stopping_strategy=all_exhausted",
    "trainer.max_epochs=1",
    "trainer.bucket_by_length=true",
    "trainer.batch_size=4",
    "trainer.accumulate_grad_batches=2",
    "trainer.checkpoint_every_n_steps=5",
)


def test_trials_of_a_cohort_have_the_losses_of_each_alone(tmp_path: Path) -> None:
    sweep = (*MIXED, "seed=0,1", "curriculum.by=rows,tokens")
    alone = run(tmp_path, *sweep, "hydra.launcher.cohort=1", "studies=alone")
    together = run(tmp_path, *sweep, "hydra.launcher.cohort=4", "studies=together")
    assert len(losses(alone)) == 4
    for trial, expected in losses(alone).items():
        np.testing.assert_allclose(losses(together)[trial], expected, rtol=1e-5)
    for trial in range(4):
        assert len(manifest(together, trial)["cohort"]) == 4
        for key in ("realised_mixture", "realised_tokens"):
            assert manifest(together, trial)[key] == manifest(alone, trial)[key]


def test_a_trial_killed_within_a_stage_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    harm = ("method.hazard.harm=raise", "method.hazard.step=7", f"method.hazard.once={tmp_path / 'once'}")
    with pytest.raises(TrialsFailed):
        run(tmp_path, *MIXED, *harm)
    assert list(tmp_path.glob("studies/*/*/checkpoints/stage2-step5-*.pt"))
    cut = run(tmp_path, *MIXED, *harm)
    whole = run(tmp_path, *MIXED, *harm, "studies=whole")
    ours, theirs = (record.folder / record.trials.trial[0] for record in (cut, whole))
    assert ours.name == theirs.name
    assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
    for key in ("realised_mixture", "realised_tokens"):
        assert manifest(cut)[key] == manifest(whole)[key]
    model = "adapter/model.safetensors"
    for name, value in load_file(theirs / model).items():
        assert value.equal(load_file(ours / model)[name])


def test_passes_without_their_number_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"all_exhausted counts passes .* add trainer.max_epochs=1"):
        resolved("curriculum=joint", "curriculum.stopping_strategy=all_exhausted")
