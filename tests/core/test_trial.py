"""A trial's numbers, against what is computed here without the framework, and after every kind of end."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from myosotis.curriculum import MixtureSampler, Part
from myosotis.errors import TrialsFailed
from myosotis.interfaces import Share
from myosotis.ledger import StudyRecord, read_json, read_scores
from myosotis.seeds import derive_seed
from tests.core import extras
from tests.core.commands import run_at, toy
from tests.toy import MLP, Points

MODULES = "tests.toy,tests.core.extras"
ANGLES = {"right": 0.0, "up": 90.0, "side": 45.0}


def base() -> dict[str, torch.Tensor]:
    """Make the toy model's weights as its factory does."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MLP(16).state_dict()


def points(task: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    rows = Points(ANGLES[task]).split(split)  # type: ignore[arg-type]
    assert rows is not None
    chosen = [rows[index] for index in range(len(rows))]
    return np.array([row["point"] for row in chosen]), np.array([row["label"] for row in chosen])


def evaluate(weights: Mapping[str, torch.Tensor], task: str) -> dict[str, float]:
    """Score weights on a task's test split, in NumPy."""
    values = {name: value.double().numpy() for name, value in weights.items()}
    inputs, labels = points(task, "test")
    hidden = np.tanh(inputs @ values["0.weight"].T + values["0.bias"])
    logits = hidden @ values["3.weight"].T + values["3.bias"]
    likelihoods = logits[np.arange(len(labels)), labels] - np.log(np.exp(logits).sum(axis=1))
    return {"hits": float((logits.argmax(axis=1) == labels).mean()), "surprise": float(-likelihoods.mean())}


def run_folder(record: StudyRecord, **where: Any) -> Path:
    chosen = record.trials
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    [trial] = chosen.trial
    return record.folder / str(trial)


def scored(folder: Path) -> dict[tuple[int, str, str], float]:
    """Give the last score of each stage, task and metric."""
    return {(each.stage, each.task, each.metric): each.value for each in read_scores(folder / "scores.jsonl")}


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "model.safetensors")


# The toy study


def test_row_0_is_the_untouched_model(study: StudyRecord) -> None:
    rows = study.scores[study.scores.stage == 0]
    assert len(rows) == 6 * 3 * 2
    for row in rows.itertuples():
        assert row.value == pytest.approx(evaluate(base(), row.task)[row.metric], abs=1e-6)
        assert (row.n, row.split, row.step) == (64, "test", 0)
        assert row.low < row.value < row.high


def test_last_row_is_the_saved_model(study: StudyRecord) -> None:
    rows = study.scores[study.scores.stage == 2]
    assert len(rows) == 6 * 3 * 2
    for row in rows.itertuples():
        saved = weights(study.folder / row.trial)
        assert row.value == pytest.approx(evaluate(saved, row.task)[row.metric], abs=1e-6)
        assert row.step == 12


def test_interval_of_a_share_is_that_of_the_binomial(study: StudyRecord) -> None:
    rows = study.scores[study.scores.metric == "hits"]
    for row in rows.itertuples():
        deviation = math.sqrt(row.value * (1 - row.value) / 64)
        assert row.high - row.low == pytest.approx(2 * 1.96 * deviation, rel=0.4, abs=0.02)


def test_headline_is_forgetting_by_hand(study: StudyRecord) -> None:
    for row in study.trials.itertuples():
        scores = scored(study.folder / row.trial)
        right, up, side = (
            [scores[stage, task, "hits"] for stage in range(3)] for task in ("right", "up", "side")
        )
        assert row.learned == pytest.approx(((right[1] - right[0]) + (up[2] - up[0])) / 2, abs=1e-12)
        assert row.forgotten == pytest.approx(right[1] - right[2], abs=1e-12)
        assert row.forgotten_base == pytest.approx(side[0] - side[2], abs=1e-12)
        assert (row.metric, row.status, row.order) == ("hits", "finished", "right up")
    assert study.trials.learned.min() > 0.02  # it does train


def test_result_says_what_trained_and_what_it_took(study: StudyRecord) -> None:
    still = read_json(run_folder(study, arm="still", seed=0) / "result.json")
    plain = read_json(run_folder(study, arm="plain", seed=0) / "result.json")
    assert (plain["trainable_parameters"], plain["total_parameters"]) == (2 * 16 + 16 + 2 * 16 + 2, 82)
    assert (still["trainable_parameters"], still["total_parameters"]) == (2 * 16 + 2, 82)
    assert plain["tokens"] == 2 * 12 * 8
    assert plain["seconds"] > 0
    assert plain["peak_memory_bytes"] > 1 << 20


def test_manifest(study: StudyRecord) -> None:
    manifest = read_json(run_folder(study, arm="still", seed=0) / "manifest.json")
    assert manifest["trainable"] == {"3": 34}
    assert manifest["realised_mixture"] == {"stage 1": {"right": 1.0}, "stage 2": {"up": 1.0}}
    cost = manifest["cost"]
    assert 0 < cost["evaluation_seconds"] < cost["seconds"] - cost["training_seconds"]
    assert manifest["hardware"]["threads"] == torch.get_num_threads()
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["plugins"]["method.still"]["class"] == "tests.toy.Still"
    assert set(manifest["plugins"]) == {"model", "method.still", "task.right", "task.up", "probe.side"}


def test_frozen_parameters_stay_to_the_bit(study: StudyRecord) -> None:
    for seed in (0, 1):
        saved = weights(run_folder(study, arm="still", seed=seed))
        same = {name: torch.equal(saved[name], value) for name, value in base().items()}
        assert same == {"0.weight": True, "0.bias": True, "3.weight": False, "3.bias": False}
        free = weights(run_folder(study, arm="plain", seed=seed))
        assert not any(torch.equal(free[name], value) for name, value in base().items())


def test_penalty_is_logged_on_its_own(study: StudyRecord) -> None:
    entries = logged(run_folder(study, arm="pull", seed=0))
    assert [(entry["stage"], entry["step"], entry["total_step"]) for entry in entries] == [
        (1, 10, 10),
        (1, 12, 12),
        (2, 10, 22),
        (2, 12, 24),
    ]
    assert all(0 < entry["penalty/pull"] < entry["loss"] for entry in entries)
    assert "penalty/pull" not in logged(run_folder(study, arm="plain", seed=0))[0]


def test_another_seed_gives_other_numbers(study: StudyRecord) -> None:
    first, second = (weights(run_folder(study, arm="plain", seed=seed)) for seed in (0, 1))
    assert not torch.equal(first["0.weight"], second["0.weight"])


def test_run_folder_has_nothing_half_written(study: StudyRecord) -> None:
    for trial in study.trials.trial:
        assert sorted(path.name for path in (study.folder / trial).iterdir()) == [
            "adapter",
            "config.yaml",
            "log.txt",
            "manifest.json",
            "metrics.jsonl",
            "result.json",
            "scores.jsonl",
        ]


def test_rerun_trains_nothing(study: StudyRecord, home: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in study.folder.glob("[!.]*/**/*")}
    again = run_at(
        home, *toy("method=[plain],[pull],[still]", "method.pull.strength=0.1", "seed=0,1", "study=toy")
    )
    assert again.scores.equals(study.scores)
    assert {
        path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in study.folder.glob("[!.]*/**/*")
    } == before


def test_another_study_takes_finished_trials_by_reference(study: StudyRecord, home: Path) -> None:
    record = run_at(home, *toy("method=[still]", "seed=0,1", "study=second"))
    own = study.trials[study.trials.arm == "still"]
    assert sorted(record.trials.trial) == sorted(own.trial)
    assert sorted(record.trials.learned) == sorted(own.learned)
    assert not [path for path in record.folder.iterdir() if path.is_dir() and path.name != ".locks"]


def test_force_runs_it_beside_the_old_one(home: Path, study: StudyRecord, tmp_path: Path) -> None:
    folder = run_folder(study, arm="plain", seed=0)
    # In a copy: its trials would be taken for another study's in other tests.
    shutil.copytree(home, tmp_path / "home", symlinks=True)
    record = run_at(tmp_path / "home", *toy("study=forced", "force=true"))
    again = run_at(tmp_path / "home", *toy("study=forced", "force=true"))
    assert [path.name for path in sorted(record.folder.glob(f"{folder.name}*"))] == [
        folder.name,
        f"{folder.name}.2",
    ]
    first = (folder / "scores.jsonl").read_bytes()
    assert (again.folder / f"{folder.name}.2" / "scores.jsonl").read_bytes() == first
    assert len(again.trials) == 1


# Against a loop written here


def test_training_is_that_of_a_plain_loop(tmp_path: Path) -> None:
    record = run_at(
        tmp_path,
        *toy(
            "model=calm",
            "method=[plain]",
            "schedule=linear",
            "schedule.warmup_steps=3",
            "optimizer.weight_decay=0.1",
            "trainer.gradient_clip_val=0.5",
            "trainer.log_every_n_steps=1",
        ),
        modules=MODULES,
    )
    [trial] = record.trials.trial
    module, losses = loop(seed=0)
    saved = weights(record.folder / trial)
    assert [entry["loss"] for entry in logged(record.folder / trial)] == pytest.approx(losses, abs=1e-6)
    for name, value in module.state_dict().items():
        assert torch.allclose(saved[name], value, rtol=0, atol=1e-6)


def loop(seed: int) -> tuple[nn.Module, list[float]]:
    """Train on one task after the other, as anyone would write it."""
    module = MLP(16)
    module.load_state_dict(base())
    module.eval()  # no dropout
    losses = []
    for stage, task in enumerate(("right", "up"), 1):
        inputs, labels = (torch.tensor(each) for each in points(task, "train"))
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.02, weight_decay=0.1)
        order = MixtureSampler([Part(task, 64, Share(1, 1))], 8, 12, derive_seed(seed, "order", stage))
        for step, batch in enumerate(order):
            optimizer.param_groups[0]["lr"] = 0.02 * (step / 3 if step < 3 else 1 - (step - 3) / 9)
            rows = [index for _, index in batch]
            loss = nn.functional.cross_entropy(module(inputs[rows].float()), labels[rows])
            losses.append(float(loss.detach()))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 0.5)
            optimizer.step()
    return module, losses


def test_accumulated_small_batches_equal_a_large_one(tmp_path: Path) -> None:
    whole, parts = (
        run_at(
            tmp_path,
            *toy("model=calm", "trainer.log_every_n_steps=1", *sizes, f"study={name}"),
            modules=MODULES,
        )
        for name, sizes in {
            "whole": ["trainer.batch_size=8"],
            "parts": ["trainer.batch_size=4", "trainer.accumulate_grad_batches=2"],
        }.items()
    )
    first, second = (record.folder / record.trials.trial[0] for record in (whole, parts))
    assert [entry["loss"] for entry in logged(second)] == pytest.approx(
        [entry["loss"] for entry in logged(first)], abs=1e-6
    )
    assert [entry["step"] for entry in logged(second)] == [*range(1, 13)] * 2
    for name, value in weights(first).items():
        assert torch.allclose(weights(second)[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tasks", ["[{walk: 1}]", "[{walk: 0.6, right: 0.4}]"], ids=["one", "mixed"])
def test_accumulated_batches_of_unequal_lengths_equal_a_large_one(tmp_path: Path, tasks: str) -> None:
    whole, parts = (
        run_at(
            tmp_path,
            *toy("model=calm", "method=[pull]", "trainer.log_every_n_steps=1", "+dataset@dataset.walk=walks"),
            *("curriculum=stages", f"curriculum.stages={tasks}", *sizes, f"study={name}"),
            modules=f"{MODULES},tests.core.walks",
        )
        for name, sizes in {
            "whole": ["trainer.batch_size=12"],
            "parts": ["trainer.batch_size=3", "trainer.accumulate_grad_batches=4"],
        }.items()
    )
    first, second = (record.folder / record.trials.trial[0] for record in (whole, parts))
    losses, expected = ([entry["loss"] for entry in logged(each)] for each in (second, first))
    assert losses == pytest.approx(expected, abs=1e-6)
    for name, value in weights(first).items():
        assert torch.allclose(weights(second)[name], value, rtol=0, atol=1e-6)


def test_what_methods_keep_is_measured(tmp_path: Path) -> None:
    record = run_at(
        tmp_path,
        *toy("method=[remember,plain]", "trainer.max_steps=2"),
        modules="tests.toy,tests.core.extras",
    )
    [trial] = record.trials.trial
    kept = read_json(record.folder / trial / "manifest.json")["kept_bytes"]
    parameters = record.trials.total_parameters[0]
    assert kept["plain"] == 0
    assert (
        4 * parameters < kept["remember"] < 4 * parameters + 5_000
    )  # a number each, and the file around them


def test_joint_stage_realises_its_shares(tmp_path: Path) -> None:
    record = run_at(tmp_path, *toy("curriculum=joint", "mix.up=0.25", "trainer.max_steps=10"))
    [trial] = record.trials.trial
    manifest = read_json(record.folder / trial / "manifest.json")
    assert manifest["realised_mixture"] == {"stage 1": {"right": 0.75, "up": 0.25}}
    assert math.isnan(record.trials.forgotten[0])  # with one stage there is nothing to forget
    scores = scored(record.folder / trial)
    gains = [scores[1, task, "hits"] - scores[0, task, "hits"] for task in ("right", "up")]
    assert record.trials.learned[0] == pytest.approx(sum(gains) / 2, abs=1e-12)


def test_stage_that_trains_nothing_changes_nothing(tmp_path: Path) -> None:
    record = run_at(
        tmp_path, *toy("curriculum=stages", "curriculum.stages=[{right: 1},{}]", "trainer.max_steps=4")
    )
    scores = scored(record.folder / record.trials.trial[0])
    assert {key[1:]: value for key, value in scores.items() if key[0] == 1} == {
        key[1:]: value for key, value in scores.items() if key[0] == 2
    }
    assert record.trials.forgotten[0] == 0


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        (["trainer.max_epochs=1"], 8),
        (["trainer.max_epochs=1", "trainer.accumulate_grad_batches=3"], 3),
        (["trainer.max_tokens=33"], 5),
        (["trainer.max_epochs=1", "trainer.max_tokens=16"], 2),
    ],
)
def test_length_of_a_stage(tmp_path: Path, length: list[str], steps: int) -> None:
    record = run_at(tmp_path, *toy("dataset.up.rows=64", "trainer.max_steps=null", *length))
    assert set(record.scores[record.scores.stage > 0].step) == {steps}
    assert [entry["step"] for entry in logged(record.folder / record.trials.trial[0])][-1] == steps


def test_evaluations_within_a_stage_change_no_number(study: StudyRecord, tmp_path: Path) -> None:
    record = run_at(tmp_path, *toy("method=[pull]", "evaluation.every=5"))
    folder, plain = record.folder / record.trials.trial[0], run_folder(study, arm="pull", seed=0)
    steps = record.scores.groupby("stage").step.unique().map(list).to_dict()
    assert steps == {0: [0], 1: [5, 10, 12], 2: [5, 10, 12]}
    assert scored(folder) == scored(plain)
    for name, value in weights(plain).items():
        assert torch.equal(weights(folder)[name], value)
    assert record.trials.learned[0] == read_json(plain / "result.json")["learned"]


# Ends before the end


@pytest.mark.parametrize("method", ["pull", "remember"])
@pytest.mark.parametrize("stage", [1, 2])
def test_interrupted_trial_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, stage: int
) -> None:
    command = toy(f"method=[{method}]", "study=cut")
    whole = run_at(tmp_path, *command, "studies=whole", modules=MODULES)
    monkeypatch.setenv("TESTS_STOP_AFTER_STAGE", str(stage))
    with pytest.raises(TrialsFailed, match=f"stopped after stage {stage}"):
        run_at(tmp_path, *command, modules=MODULES)
    monkeypatch.delenv("TESTS_STOP_AFTER_STAGE")
    extras.CALLS.clear()
    record = run_at(tmp_path, *command, modules=MODULES)

    stages = [call[3] for call in extras.CALLS if call[0] == "stage_finished"]
    assert stages == ([0, 1, 2] if stage == 1 else [0, 2])  # the checkpoint is the last finished stage's
    [trial] = record.trials.trial
    ours, theirs = record.folder / trial, whole.folder / trial
    assert (ours / "scores.jsonl").read_bytes() == (theirs / "scores.jsonl").read_bytes()
    assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
    for name, value in weights(theirs).items():
        assert torch.equal(weights(ours)[name], value)
    result, expected = read_json(ours / "result.json"), read_json(theirs / "result.json")
    assert result["tokens"] == expected["tokens"]
    assert result["learned"] == expected["learned"]
    assert read_json(ours / "manifest.json")["realised_mixture"] == {
        "stage 1": {"right": 1},
        "stage 2": {"up": 1},
    }
    assert not (ours / "error.txt").exists()
    assert not (ours / "checkpoints").exists()


def test_loss_that_is_not_finite_ends_its_trial_alone(tmp_path: Path) -> None:
    command = toy("dataset.right.broken=true,false", "study=torn")
    with pytest.raises(TrialsFailed) as failed:
        run_at(tmp_path, *command, report=True)
    assert failed.value.exit_code == 1
    record_folder = tmp_path / "studies" / "torn"
    errors = list(record_folder.glob("*/error.txt"))
    assert len(errors) == 1
    text = errors[0].read_text()
    order = MixtureSampler([Part("right", 64, Share(1, 1))], 8, 12, derive_seed(0, "order", 1))
    step, batch = next((step, batch) for step, batch in enumerate(order, 1) if (0, 0) in batch)
    rows = ", ".join(f"right[{index}]" for _, index in batch)
    assert f"at step {step} on the batch {rows};" in text.split("\n")[0]
    assert text.startswith("NonFiniteLoss: the loss must be finite, but is nan")
    assert "1 of 2 trials failed" in str(failed.value)
    assert "plain dataset.right.broken=True seed=0: NonFiniteLoss" in str(failed.value)
    assert f"studies/torn/{errors[0].parent.name}/error.txt" in str(failed.value)

    from myosotis import load_study

    record = load_study(record_folder)
    assert dict(zip(record.trials.overrides, record.trials.status, strict=True)) == {
        "dataset.right.broken=True": "failed",
        "dataset.right.broken=False": "finished",
    }
    assert (record_folder / "report.html").is_file()
