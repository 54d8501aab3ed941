"""Stages that end once a held-out loss no longer falls: when, with what, alone, in a cohort and after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from myosotis.errors import ConfigurationError, TrialsFailed
from myosotis.ledger import StudyRecord, read_scores
from myosotis.trial import TrialRun
from tests.core.commands import run_at, toy
from tests.toy import Points

MODULES = "tests.toy,tests.core.extras,tests.core.hazards"
STEPS = 12
HELD_OUT = (
    "dataset.right.held_out=true",
    "dataset.up.held_out=true",
    "trainer.log_every_n_steps=1",
    "hydra.launcher.workers=1",
)
ONE_STAGE = ("curriculum=stages", "curriculum.stages=[{right: 1}]")
NORMED = """
from torch import nn
from myosotis import hookimpl
from myosotis.interfaces import Model
from tests.toy import ToyModel
import torch

MYOSOTIS_API = 1

class Normed(ToyModel):
    def load(self, objectives):
        torch.manual_seed(0)
        return Model(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)))

    def outline(self, objectives):
        with torch.device("meta"):
            return self.load(objectives)

@hookimpl
def myosotis_models():
    return {"normed": Normed}
"""
"""A model with buffers that training changes."""


def early(patience: int | None, **settings: Any) -> list[str]:
    """Write the settings of early stopping; it looks every two steps where nothing else is said."""
    given = {"patience": "null" if patience is None else patience, "every_n_steps": 2, **settings}
    return [f"trainer.early_stopping.{key}={value}" for key, value in given.items()]


def run(folder: Path, *overrides: str, modules: str = MODULES) -> StudyRecord:
    keys = {override.split("=")[0] for override in overrides}
    usual = (*HELD_OUT, f"trainer.max_steps={STEPS}")
    kept = [each for each in usual if each.split("=")[0] not in keys]
    return run_at(folder, *toy(*kept, *overrides), modules=modules)


def only_trial(record: StudyRecord) -> Path:
    [trial] = record.trials.trial
    return record.folder / str(trial)


def weights(folder: Path) -> dict[str, bytes]:
    saved = load_file(folder / "adapter" / "model.safetensors")
    return {name: value.numpy().tobytes() for name, value in saved.items()}


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def looks(folder: Path) -> list[tuple[int, int]]:
    """Give the stage and step of each look at the held-out rows."""
    return [(entry["stage"], entry["step"]) for entry in logged(folder) if "held_out_loss" in entry]


def ends(folder: Path) -> dict[int, int]:
    """Give each stage's last step."""
    return {score.stage: score.step for score in read_scores(folder / "scores.jsonl")}


def everything(folder: Path) -> dict[str, bytes]:
    names = ("scores.jsonl", "metrics.jsonl", "adapter/model.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[TrialRun, int, int], float]], None]:
    """Give a function that says what every look at the held-out rows sees, by trial, stage and step."""

    def play(loss: Callable[[TrialRun, int, int], float]) -> None:
        monkeypatch.setattr(
            TrialRun,
            "held_out_loss",
            lambda trial, member: loss(trial, member.context.stage.index, member.step),
        )

    return play


Script = Callable[[Callable[[TrialRun, int, int], float]], None]
SCRIPTED: list[tuple[Sequence[float], Mapping[str, Any], int, int]] = [
    ([3, 2, 1, 1.5, 1.2, 0], {"patience": 2}, 10, 6),
    ([1, 2, 0, 0, 0, 0], {"patience": 1}, 4, 2),
    ([2, 2, 2, 0, 0, 0], {"patience": 2}, 6, 2),
    ([2, np.nan, np.inf, 0, 0, 0], {"patience": 2}, 6, 2),
    ([3, 2.9, 2.8, 2.7, 2.66, 0], {"patience": 2, "min_delta": 0.15}, 10, 6),
    ([6, 5, 4, 3, 2, 1], {"patience": 1}, 12, 12),
    ([3, 2, 2.5], {"patience": 3, "every_n_steps": 5}, 12, 10),
]
"""What each look sees, the settings, the step after which the stage ends, and the step with the lowest loss."""


@pytest.mark.parametrize(("losses", "settings", "end", "best"), SCRIPTED)
def test_a_stage_ends_after_the_scripted_step_with_the_best_parameters(
    script: Script,
    tmp_path: Path,
    losses: Sequence[float],
    settings: Mapping[str, Any],
    end: int,
    best: int,
) -> None:
    every = settings.get("every_n_steps", 2)
    steps = [*range(every, STEPS, every), STEPS]
    script(lambda trial, stage, step: losses[steps.index(step)])
    stopped = only_trial(run(tmp_path, *ONE_STAGE, *early(**settings)))
    assert ends(stopped) == {0: 0, 1: end}
    assert looks(stopped) == [(1, step) for step in steps if step <= end]
    assert [entry["step"] for entry in logged(stopped) if "loss" in entry] == [*range(1, end + 1)]
    # A trial that takes only as many steps as the best one had is at the same place.
    short = only_trial(run(tmp_path, *ONE_STAGE, f"trainer.max_steps={best}"))
    assert weights(stopped) == weights(short)
    values = [[score.value for score in read_scores(folder / "scores.jsonl")] for folder in (stopped, short)]
    assert values[0] == values[1]


def test_without_restoring_the_stage_ends_with_what_it_has(script: Script, tmp_path: Path) -> None:
    script(lambda trial, stage, step: step)
    stopped = only_trial(run(tmp_path, *ONE_STAGE, *early(2, restore_best="false")))
    assert ends(stopped) == {0: 0, 1: 6}
    short = only_trial(run(tmp_path, *ONE_STAGE, "trainer.max_steps=6"))
    assert weights(stopped) == weights(short)


def test_buffers_come_back_too(
    script: Script, write_plugin: Callable[[str, str], Path], tmp_path: Path
) -> None:
    write_plugin("normed", NORMED)
    script(lambda trial, stage, step: abs(step - 4))
    command = (*ONE_STAGE, "model=normed")
    stopped = only_trial(run(tmp_path, *command, *early(1), modules="tests.toy,normed"))
    short = only_trial(run(tmp_path, *command, "trainer.max_steps=4", modules="tests.toy,normed"))
    assert "0.running_mean" in weights(stopped)
    assert weights(stopped) == weights(short)


def test_every_stage_is_watched_anew(script: Script, tmp_path: Path) -> None:
    script(lambda trial, stage, step: abs(step - 2 * stage) - 10 * (2 - stage))
    stopped = only_trial(run(tmp_path, *early(1)))
    # The second stage's losses are all higher than the first one's.
    assert ends(stopped) == {0: 0, 1: 4, 2: 6}


@pytest.mark.parametrize("limit", [None, 10])
def test_the_loss_is_the_mean_over_rows_and_then_over_the_stages_tasks(
    tmp_path: Path, limit: int | None
) -> None:
    record = run(
        tmp_path,
        "curriculum=joint",
        "mix.up=0.2",
        "dataset.up.rows=40",
        f"evaluation.limit={'null' if limit is None else limit}",
        *early(1, every_n_steps=STEPS),
    )
    [entry] = [entry for entry in logged(only_trial(record)) if "held_out_loss" in entry]
    saved = load_file(only_trial(record) / "adapter" / "model.safetensors")
    means = [surprise(saved, angle, rows, limit) for angle, rows in ((0, 64), (90, 40))]
    assert entry["held_out_loss"] == pytest.approx(np.mean(means), abs=1e-6)


def surprise(values: Mapping[str, torch.Tensor], angle: float, rows: int, limit: int | None) -> float:
    """Compute the mean loss of the first rows of a validation split, in NumPy."""
    split = Points(angle, rows, held_out=True).split("validation")
    assert split is not None
    chosen = [split[index] for index in range(rows)][:limit]
    points = np.array([row["point"] for row in chosen])
    labels = np.array([row["label"] for row in chosen])
    numbers = {name: value.double().numpy() for name, value in values.items()}
    hidden = np.tanh(points @ numbers["0.weight"].T + numbers["0.bias"])
    logits = hidden @ numbers["3.weight"].T + numbers["3.bias"]
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]))


def test_a_patience_of_none_and_a_look_change_no_bit(tmp_path: Path) -> None:
    plain = only_trial(run(tmp_path, "studies=plain"))
    none = only_trial(run(tmp_path, "studies=none", *early(None, every_n_steps=1)))
    assert everything(none) == everything(plain)
    looking = only_trial(
        run(tmp_path, "studies=looking", *early(1000, every_n_steps=1, restore_best="false"))
    )
    assert len(looks(looking)) == 2 * STEPS
    assert weights(looking) == weights(plain)
    assert (looking / "scores.jsonl").read_bytes() == (plain / "scores.jsonl").read_bytes()
    own = [entry for entry in logged(looking) if "held_out_loss" not in entry]
    assert own == logged(plain)


# In a cohort


def together(
    folder: Path, script: Script, narrow_steps: int, narrow_loss: Callable[[int], float]
) -> dict[str, Path]:
    """Train a narrow trial beside a wide one whose loss keeps falling; give their folders."""

    def loss(trial: TrialRun, stage: int, step: int) -> float:
        return narrow_loss(step) if trial.config.resolved["method"]["side"]["width"] == 1 else -step

    script(loss)
    # A token is a row here; the command's own max_steps would stand for an arm's.
    narrow = f"narrow:{{method.side.width:1,trainer.max_tokens:{8 * narrow_steps}}}"
    arms = f"arms={{{narrow},wide:{{method.side.width:3}}}}"
    record = run(folder, "method=[side]", arms, "hydra.launcher.cohort=2", *early(1, restore_best="false"))
    assert (
        len(json.loads((record.folder / record.trials.trial[0] / "manifest.json").read_text())["cohort"]) == 2
    )
    return {
        arm: record.folder / trial for arm, trial in zip(record.trials.arm, record.trials.trial, strict=True)
    }


def test_a_trial_that_ends_early_changes_no_bit_of_the_others(script: Script, tmp_path: Path) -> None:
    for name in ("early", "short", "whole"):
        (tmp_path / name).mkdir()
    early_end = together(tmp_path / "early", script, STEPS, lambda step: step)
    assert ends(early_end["narrow"]) == {0: 0, 1: 4, 2: 4}
    assert ends(early_end["wide"]) == {0: 0, 1: 12, 2: 12}
    # The rows of each step are those of a cohort in which the narrow trial is over by then.
    short = together(tmp_path / "short", script, 4, lambda step: -step)
    assert everything(early_end["wide"]) == everything(short["wide"])
    assert weights(early_end["narrow"]) == weights(short["narrow"])
    whole = together(tmp_path / "whole", script, STEPS, lambda step: -step)
    losses = [
        [entry["loss"] for entry in logged(folders["wide"]) if "loss" in entry]
        for folders in (early_end, whole)
    ]
    assert losses[0][:4] == losses[1][:4]
    # A matrix product of fewer rows rounds otherwise, as in trials of different lengths.
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


# After a kill


def waits(trial: TrialRun, stage: int, step: int) -> float:
    """Be lowest at the second step; a trial that forgot what it saw before would end later."""
    return -step if stage == 1 else abs(step - 2)


@pytest.mark.parametrize("cut", ["in the stage", "after its early end"])
def test_a_killed_trial_ends_early_at_the_same_place(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    script(waits)
    once = tmp_path / "once"
    command = (
        "method=[pull,hazard]",
        f"method.hazard.harm={'raise' if cut == 'in the stage' else 'none'}",
        "method.hazard.step=7",
        f"method.hazard.once={once}",
        "trainer.checkpoint_every_n_steps=5",
        *early(3),
    )
    once.touch()
    whole = only_trial(run(tmp_path, *command, "studies=whole"))
    assert ends(whole) == {0: 0, 1: 12, 2: 8}
    once.unlink()
    if cut == "after its early end":
        monkeypatch.setenv("TESTS_STOP_AFTER_STAGE", "2")
    with pytest.raises(TrialsFailed):
        run(tmp_path, *command)
    monkeypatch.delenv("TESTS_STOP_AFTER_STAGE", raising=False)
    [checkpoint] = tmp_path.glob("studies/*/*/checkpoints/stage2-step5-*.pt")
    assert not list(checkpoint.parent.glob("stage2-end-*.pt"))
    assert everything(only_trial(run(tmp_path, *command))) == everything(whole)


# Losses and mistakes


def test_the_losses_up_to_an_early_end_are_in_the_log(script: Script, tmp_path: Path) -> None:
    script(lambda trial, stage, step: step)
    fine = only_trial(run(tmp_path, *ONE_STAGE, *early(3), "studies=fine"))
    coarse = only_trial(
        run(tmp_path, *ONE_STAGE, *early(3), "studies=coarse", "trainer.log_every_n_steps=100")
    )
    losses = [entry["loss"] for entry in logged(fine) if "loss" in entry]
    assert len(losses) == 8
    [entry] = [entry for entry in logged(coarse) if "loss" in entry]
    assert entry["step"] == 8
    assert entry["loss"] == pytest.approx(np.mean(losses), abs=1e-6)


def test_a_loss_that_is_not_finite_is_told_where_the_stage_ends_early(script: Script, tmp_path: Path) -> None:
    script(lambda trial, stage, step: 1.0)
    with pytest.raises(TrialsFailed, match="the loss must be finite, but is nan at step"):
        run(
            tmp_path,
            *ONE_STAGE,
            "dataset.right.broken=true",
            "trainer.log_every_n_steps=100",
            *early(3),
        )


def test_a_task_without_the_split_is_refused_before_any_work(tmp_path: Path) -> None:
    message = (
        "dataset.up: task up must have a validation split, but it has none; give it one, or name another in "
        "evaluation.split, or for early stopping in trainer.early_stopping.split"
    )
    with pytest.raises(ConfigurationError, match=message):
        run(tmp_path, "dataset.up.held_out=false", *early(1))
    assert not list(tmp_path.glob("studies/*/*/config.yaml"))
    assert not list(tmp_path.glob("studies/.base/*"))


def test_another_split_can_be_watched(tmp_path: Path) -> None:
    command = ("dataset.right.held_out=false", "dataset.up.held_out=false", *early(1000, split="train"))
    assert len(looks(only_trial(run(tmp_path, *command)))) == STEPS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 0}, "trainer.early_stopping.patience must be at least 1, but got 0"),
        ({"patience": 1, "every_n_steps": 0}, "trainer.early_stopping.every_n_steps must be at least 1"),
        ({"patience": 1, "min_delta": -1}, "trainer.early_stopping.min_delta must be at least 0"),
        ({"patience": 1, "split": "tests"}, "trainer.early_stopping.split: .*Did you mean test"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    tmp_path: Path, settings: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        run(tmp_path, *early(**settings))
