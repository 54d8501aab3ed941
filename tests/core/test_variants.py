"""Further models of a trained one: scored once, written down, read back, and gone again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from myosotis import hookimpl
from myosotis.cli import main
from myosotis.errors import StorageError, TrialsFailed
from myosotis.interfaces import Context, Method, Task
from myosotis.ledger import VARIANT_COLUMNS, StudyRecord, read_scores, read_variants
from tests.core import extras
from tests.core.commands import run_at, toy
from tests.core.test_trial import evaluate, weights

MYOSOTIS_API = 1
MODULES = "tests.toy,tests.core.extras,tests.core.hazards,tests.core.test_variants"
FACTORS = {"none": 0.0, "half": 0.5, "all": 1.0}


class Shrink(Method):
    """Make models of a part of the trained one's parameters.

    Args:
        fails: a file without which the second model cannot be made.
    """

    cohort_fields = frozenset({"fails"})

    def __init__(self, fails: str | None = None) -> None:
        self.fails = fails

    def variants(self, module: nn.Module, context: Context) -> Mapping[str, Callable[[], Any]]:
        return {name: partial(self._shrunk, module, factor) for name, factor in FACTORS.items()}

    @contextmanager
    def _shrunk(self, module: nn.Module, factor: float) -> Iterator[None]:
        if self.fails is not None and factor == 0.5 and not Path(self.fails).exists():
            raise RuntimeError("not yet")
        trained = [(each, each.detach().clone()) for each in module.parameters() if each.requires_grad]
        with torch.no_grad():
            for parameter, value in trained:
                parameter.copy_(factor * value)
            yield
            for parameter, value in trained:
                parameter.copy_(value)


class Lift(Method):
    """Add to the last bias while a task is evaluated whose name begins with an s."""

    def before_evaluation(self, task: Task, context: Context) -> None:
        with torch.no_grad():
            context.model.module[3].bias.copy_(torch.tensor([5.0, 0] if task.name[0] == "s" else [0.0, 0]))  # type: ignore[index]


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    return {"shrink": Shrink, "lift": Lift}


def run(folder: Path, *overrides: str) -> StudyRecord:
    return run_at(folder, *toy("hydra.launcher.workers=1", *overrides), modules=MODULES)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "variants.jsonl").read_text().splitlines()]


def only_trial(record: StudyRecord) -> Path:
    [trial] = record.trials.trial
    return record.folder / str(trial)


@pytest.fixture(scope="module")
def shrunk(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    """One trial with three variants."""
    return run(tmp_path_factory.mktemp("shrunk"), "method=[plain,shrink]", "study=shrunk")


def test_each_variant_is_scored_on_every_task_and_probe(shrunk: StudyRecord) -> None:
    folder = only_trial(shrunk)
    found = lines(folder)
    assert [(row["variant"], row["task"], row["metric"]) for row in found] == [
        (f"shrink {name}", task, metric)
        for name in FACTORS
        for task in ("right", "up", "side")
        for metric in ("hits", "surprise")
    ]
    for row in found:
        factor = FACTORS[row["variant"].removeprefix("shrink ")]
        model = {name: factor * value for name, value in weights(folder).items()}
        assert row["value"] == pytest.approx(evaluate(model, row["task"])[row["metric"]], abs=1e-6)
        assert (row["stage"], row["step"], row["split"], row["n"]) == (2, 12, "test", 64)
        assert row["low"] <= row["value"] <= row["high"]


def test_the_whole_model_scores_as_the_last_row(shrunk: StudyRecord) -> None:
    folder = only_trial(shrunk)
    last = [score for score in read_scores(folder / "scores.jsonl") if score.stage == 2]
    assert [score for name, score in read_variants(folder / "variants.jsonl") if name == "shrink all"] == last


def test_the_trained_model_is_as_it_was(shrunk: StudyRecord, tmp_path: Path) -> None:
    ours, plain = only_trial(shrunk), only_trial(run(tmp_path, "method=[plain]"))
    for name in ("adapter/model.safetensors", "metrics.jsonl", "scores.jsonl"):
        assert (ours / name).read_bytes() == (plain / name).read_bytes()
    assert not (plain / "variants.jsonl").exists()


def test_a_study_reads_them_back(shrunk: StudyRecord) -> None:
    table = shrunk.variants
    assert list(table.columns) == list(VARIANT_COLUMNS)
    assert len(table) == 3 * 3 * 2
    assert list(table.trial.unique()) == list(shrunk.trials.trial)
    rows = [
        {key: row[key] for key in ("variant", "task", "metric", "value")} for row in lines(only_trial(shrunk))
    ]
    assert table[["variant", "task", "metric", "value"]].to_dict("records") == rows


def test_a_study_without_any_has_an_empty_table(tmp_path: Path) -> None:
    table = run(tmp_path, "method=[plain]", "trainer.max_steps=2").variants
    assert list(table.columns) == list(VARIANT_COLUMNS)
    assert table.empty


def test_the_command_line_prints_them(
    shrunk: StudyRecord, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv",
        ["myosotis", "results", "shrunk", "--variants", "--format=json", f"--studies={shrunk.folder.parent}"],
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    printed = json.loads(capsys.readouterr().out)
    assert [row["variant"] for row in printed] == list(shrunk.variants.variant)
    assert [row["value"] for row in printed] == pytest.approx(list(shrunk.variants.value))


def test_methods_make_ready_for_each_task_of_a_variant(tmp_path: Path) -> None:
    record = run(tmp_path, "method=[still,shrink,lift]", "trainer.max_steps=2")
    rows = {(row["variant"], row["task"], row["metric"]): row["value"] for row in lines(only_trial(record))}
    # Without weights the bias alone decides: the side's rows are all taken for the first class.
    first = evaluate({**_zeros(only_trial(record)), "3.bias": torch.tensor([5.0, 0])}, "side")
    assert rows["shrink none", "side", "surprise"] == pytest.approx(first["surprise"], abs=1e-6)
    assert rows["shrink none", "right", "surprise"] == pytest.approx(math.log(2), abs=1e-6)


def _zeros(folder: Path) -> dict[str, torch.Tensor]:
    saved = load_file(folder / "adapter" / "model.safetensors")
    return {name: torch.zeros_like(value) if name.startswith("3") else value for name, value in saved.items()}


def test_a_trial_that_is_killed_among_its_variants_scores_them_all(tmp_path: Path) -> None:
    once = tmp_path / "once"
    command = ("method=[pull,shrink]", f"method.shrink.fails={once}")
    once.touch()
    whole = only_trial(run(tmp_path, *command, "studies=whole"))
    once.unlink()
    with pytest.raises(TrialsFailed, match="not yet"):
        run(tmp_path, *command)
    [failed] = tmp_path.glob("studies/*/*/error.txt")
    assert not (failed.parent / "variants.jsonl").exists()
    assert not (failed.parent / "result.json").exists()
    once.touch()
    extras.CALLS.clear()
    ours = only_trial(run(tmp_path, *command))
    # Nothing but the base's row was told of: no stage is trained or scored again.
    assert [call[3] for call in extras.CALLS if call[0] == "stage_finished"] == [0]
    for name in ("variants.jsonl", "adapter/model.safetensors", "metrics.jsonl", "scores.jsonl"):
        assert (ours / name).read_bytes() == (whole / name).read_bytes()


def test_trials_of_a_cohort_have_their_own(tmp_path: Path) -> None:
    command = ("method=[side,shrink]", "method.side.width=1,3")
    alone = run(tmp_path, *command, "studies=alone")
    together = run(tmp_path, *command, "studies=together", "hydra.launcher.cohort=2")
    assert list(together.variants.variant) == list(alone.variants.variant)
    assert list(together.variants.value) == pytest.approx(list(alone.variants.value), abs=1e-6)
    for trial in together.trials.trial:
        manifest = json.loads((together.folder / trial / "manifest.json").read_text())
        assert len(manifest["cohort"]) == 2
    own = [group.value.tolist() for _, group in together.variants.groupby("trial")]
    assert own[0] != own[1]


@pytest.mark.parametrize("text", ["{", '{"variant": "a"}\n', '{"stage": 1}\n', "[]\n"])
def test_a_damaged_file_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "variants.jsonl").write_text(text)
    with pytest.raises(StorageError, match="must hold one score a line"):
        read_variants(tmp_path / "variants.jsonl")
