"""Predictions beside the untouched base's, in whole trials: against both models loaded anew, by torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from myosotis.cohort import run_trial
from myosotis.interfaces import Columns, Method, Metric, Model, Objective, Share, Stage, Task
from myosotis.ledger import Score
from myosotis.testing import MetricTestSuite, make_task
from myosotis.testing.rehearsal import Rehearsal, registry_without_plugins, rehearse_together
from myosotis.workspace import Workspace
from myosotis_plugins.methods.finetuned import Finetuned
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.full import Full
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.metrics.against_base import Agreement, CrossEntropyAgainstBase, KLAgainstBase
from myosotis_plugins.metrics.labels import Accuracy
from myosotis_plugins.metrics.language import CrossEntropy
from myosotis_plugins.objectives.causal import IGNORED
from myosotis_plugins.objectives.classification import Classification
from myosotis_plugins.objectives.instruction import Instruction
from myosotis_plugins.objectives.language_modeling import LanguageModeling
from myosotis_plugins.objectives.sequence_to_sequence import SequenceToSequence
from myosotis_plugins.objectives.token_classification import TokenClassification
from tests.plugins import tiny
from tests.plugins.encoders import loaded
from tests.plugins.test_classification import LABELS, ROWS, likelihood

COLUMNS: Columns = {
    "predictions": np.array([4, 1, 3, 2]),
    "agreeing": np.array([3, 1, 0, 1]),
    "cross_entropy_against_base": np.array([8.0, 0.5, 9.0, 2.5]),
    "kl_against_base": np.array([2.0, 0.25, 5.0, 0.75]),
}


class TestAgreement(MetricTestSuite):
    def make(self) -> Metric:
        return Agreement()

    def columns(self) -> Columns:
        return COLUMNS


class TestCrossEntropyAgainstBase(TestAgreement):
    def make(self) -> Metric:
        return CrossEntropyAgainstBase()


class TestKLAgainstBase(TestAgreement):
    def make(self) -> Metric:
        return KLAgainstBase()


def test_means_are_over_predictions_not_over_examples() -> None:
    metrics = Agreement(), CrossEntropyAgainstBase(), KLAgainstBase()
    assert [metric.value(COLUMNS) for metric in metrics] == [5 / 10, 20 / 10, 8 / 10]
    assert [metric.count(COLUMNS) for metric in metrics] == [10, 10, 10]
    assert [metric.higher_is_better for metric in metrics] == [True, False, False]


# Whole trials

METRICS: dict[str, Metric] = {
    "agreement": Agreement(),
    "cross_entropy_against_base": CrossEntropyAgainstBase(),
    "kl_against_base": KLAgainstBase(),
}
METHODS: Mapping[str, Callable[[], Method]] = {
    "lora": lambda: LoRA(rank=2),
    "pissa": lambda: LoRA(rank=2, initialization="pissa"),
    "full": Full,
    "freeze": lambda: Freeze(first=1),
}


def compared_tasks() -> dict[str, Task]:
    return {
        name: make_task(name, task.dataset, task.objective, {"cross_entropy": CrossEntropy(), **METRICS})
        for name, task in tiny.text_tasks().items()
    }


def values(scores: list[Score], stage: int, task: str) -> dict[str, float]:
    return {each.metric: each.value for each in scores if (each.stage, each.task) == (stage, task)}


def expected(base: torch.nn.Module, tuned: torch.nn.Module, blocks: torch.Tensor) -> dict[str, float]:
    """Compare two models on the tokens of blocks, by torch's own functions, at double precision."""
    with torch.no_grad():
        wanted, given = (
            module.eval()(blocks).logits[:, :-1].flatten(0, 1).double() for module in (base, tuned)
        )
    probabilities = wanted.softmax(dim=-1)
    return {
        "agreement": float((wanted.argmax(dim=-1) == given.argmax(dim=-1)).double().mean()),
        "cross_entropy_against_base": functional.cross_entropy(given, probabilities).item(),
        "kl_against_base": functional.kl_div(
            given.log_softmax(dim=-1), probabilities, reduction="batchmean"
        ).item(),
    }


def blocks_of(task: Task, model: Model) -> torch.Tensor:
    rows = task.dataset.split("test")
    assert rows is not None
    return torch.tensor(np.stack([each["input_ids"] for each in task.objective.encode(rows, model)]))


def check(scores: list[Score], folder: Path, saved: Path) -> None:
    factory = tiny.factory(folder)
    base, tuned = factory.load([]), factory.restore(saved, [])
    for name, task in compared_tasks().items():
        blocks = blocks_of(task, base)
        assert {each.n for each in scores if each.task == name} == {blocks.shape[0] * 15}
        for stage, other in ((0, base), (2, tuned)):
            found = values(scores, stage, name)
            for metric, value in expected(base.module, other.module, blocks).items():
                assert found[metric] == pytest.approx(value, rel=1e-4, abs=1e-6), (name, stage, metric)
        untouched, last = values(scores, 0, name), values(scores, 2, name)
        assert (untouched["agreement"], untouched["kl_against_base"]) == (1, 0)
        assert last["agreement"] < 1
        assert last["kl_against_base"] > 0.01
        entropy = last["cross_entropy_against_base"] - last["kl_against_base"]
        assert untouched["cross_entropy_against_base"] == pytest.approx(entropy, rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_scores_are_those_of_both_models_loaded_anew(name: str, llama_folder: Path, tmp_path: Path) -> None:
    """PiSSA rewrites the base's weights, and full fine-tuning trains them: the base is none of both."""
    trial = Rehearsal(tmp_path / "trial", tiny.factory(llama_folder), compared_tasks(), METHODS[name]()).run()
    check(trial.scores, llama_folder, tmp_path / "trial" / "adapter")


def test_a_cohort_has_the_scores_of_each_trial(llama_folder: Path, tmp_path: Path) -> None:
    trials = [
        Rehearsal(
            tmp_path / str(seed),
            tiny.factory(llama_folder),
            compared_tasks(),
            LoRA(rank=seed + 2),
            seed=seed,
        )
        for seed in range(2)
    ]
    rehearse_together(trials)
    for seed, trial in enumerate(trials):
        check(trial.scores, llama_folder, tmp_path / str(seed) / "adapter")


def test_weights_that_take_the_bases_place_are_compared_with_it(llama_folder: Path, tmp_path: Path) -> None:
    """They are written into the base's memory before anything trains."""
    other = tiny.save(tiny.llama(seed=7), tmp_path / "whole")
    stages = [Stage(1, {})]
    trial = Rehearsal(
        tmp_path / "trial",
        tiny.factory(llama_folder),
        compared_tasks(),
        Finetuned(str(other)),
        stages=stages,
    ).run()
    base, tuned = (tiny.factory(each).load([]) for each in (llama_folder, other))
    for name, task in compared_tasks().items():
        found = values(trial.scores, 1, name)
        for metric, value in expected(base.module, tuned.module, blocks_of(task, base)).items():
            assert found[metric] == pytest.approx(value, rel=1e-4), (name, metric)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_scores_do_not_depend_on_the_batch_size(method: str, llama_folder: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 5):
        folder = tmp_path / str(size) / "trial"
        rehearsal = Rehearsal(folder, tiny.factory(llama_folder), compared_tasks(), METHODS[method]())
        config = rehearsal.config()
        config = replace(config, evaluation=replace(config.evaluation, batch_size=size, every=2))
        workspace = Workspace(folder.parent, registry_without_plugins())
        run_trial(config, folder, "study", "trial", workspace)
        found.append(np.array([[each.value, each.low, each.high, each.n] for each in rehearsal.scores]))
    assert len(found[0]) == 8 + 2 * 3 * 8  # the base's row; after 2, 4 and 5 steps in two stages
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_looking_at_the_base_changes_nothing(llama_folder: Path, tmp_path: Path) -> None:
    """Where the base is loaded a second time in the middle of a stage, too."""
    scores = []
    for name, tasks in (("with", compared_tasks()), ("without", tiny.text_tasks())):
        folder = tmp_path / name / "trial"
        rehearsal = Rehearsal(folder, tiny.factory(llama_folder), tasks, Full())
        config = rehearsal.config()
        config = replace(config, evaluation=replace(config.evaluation, every=2))
        run_trial(config, folder, "study", "trial", Workspace(folder.parent, registry_without_plugins()))
        scores.append([each for each in rehearsal.scores if each.metric == "cross_entropy"])
    assert scores[0] == scores[1]


def test_labels_are_compared_by_rows(tmp_path: Path) -> None:
    objective = Classification(LABELS, length=80)
    dataset = tiny.Texts(())
    dataset.split = lambda name: ROWS  # type: ignore[method-assign]
    task = make_task("labels", dataset, objective, {"accuracy": Accuracy(), **METRICS})
    folder = tiny.save(tiny.llama(), tmp_path / "base")
    stages = [Stage(1, {"labels": Share(1, 1)})]
    trial = Rehearsal(
        tmp_path / "trial", tiny.factory(folder), {"labels": task}, LoRA(rank=2), stages=stages
    ).run()
    tuned = tiny.factory(folder).restore(tmp_path / "trial" / "adapter", [objective])
    wanted, given = (
        torch.tensor(
            [[likelihood(model, f"{row['text']}\nLabel:", f" {label}") for label in LABELS] for row in ROWS]
        )
        .double()
        .log_softmax(dim=-1)
        for model in (tiny.model(), tuned)
    )
    found = values(trial.scores, 1, "labels")
    assert found["agreement"] == float((wanted.argmax(dim=1) == given.argmax(dim=1)).double().mean())
    cross = functional.cross_entropy(given, wanted.exp()).item()
    assert found["cross_entropy_against_base"] == pytest.approx(cross, rel=1e-4)
    apart = functional.kl_div(given, wanted.exp(), reduction="batchmean").item()
    assert found["kl_against_base"] == pytest.approx(apart, rel=1e-4)
    assert {each.n for each in trial.scores} == {len(ROWS)}


# Objectives

TEXTS = [{"text": text} for text in tiny.POEM]
PAIRS = [{"source": f"say {text}", "target": text[:6]} for text in tiny.POEM]
TURNS = [{"prompt": pair["source"], "response": pair["target"]} for pair in PAIRS]
TAGS = [{"tokens": ["go", "to", name], "tags": ["O", "O", "B-place"]} for name in ("rome", "oslo")]


@pytest.mark.parametrize(
    ("kind", "objective", "rows"),
    [
        ("llama", LanguageModeling(length=12), TEXTS),
        ("llama", LanguageModeling(length=24, packing="isolated"), TEXTS),
        ("distilbert", LanguageModeling(length=24), TEXTS),
        ("distilbert", LanguageModeling(length=24, packing="isolated"), TEXTS),
        ("llama", Instruction(length=96), TURNS),
        ("llama", SequenceToSequence(), PAIRS),
        ("t5", SequenceToSequence(), PAIRS),
        ("bert", TokenClassification(("O", "B-place", "I-place")), TAGS),
    ],
)
@torch.no_grad()
def test_what_is_compared_is_what_the_loss_is_of(
    kind: str, objective: Objective, rows: Any, tmp_path: Path
) -> None:
    model = loaded(kind, tmp_path, objective)
    model.module.eval()
    examples = objective.encode(rows, model)
    columns = objective.predict(model.module, examples, model)
    batch = objective.collate(examples, model)
    labels = batch["targets"] if "targets" in batch else batch["labels"][:, 1:]
    logits = objective.predicted_logits(model.module, examples, model)
    assert [len(each) for each in logits] == columns["tokens"].tolist()
    for each, own, loss in zip(logits, labels, columns["loss"], strict=True):
        found = functional.cross_entropy(each, own[own != IGNORED], reduction="sum")
        assert found.item() == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("by", ["likelihood", "head"])
@torch.no_grad()
def test_labels_that_are_compared_are_those_that_are_chosen(by: Any, tmp_path: Path) -> None:
    objective = Classification(LABELS, length=80, by=by)
    model = loaded("llama", tmp_path, objective)
    model.module.eval()
    examples = objective.encode(ROWS, model)
    columns = objective.predict(model.module, examples, model)
    logits = torch.cat(list(objective.predicted_logits(model.module, examples, model)))
    assert logits.shape == (len(ROWS), len(LABELS))
    losses = functional.cross_entropy(logits, torch.tensor(columns["label"]), reduction="none")
    np.testing.assert_allclose(losses, columns["loss"], rtol=1e-5)
    assert logits.argmax(dim=1).tolist() == columns["prediction"].tolist()
