"""The digits benchmark: its scenarios are what they claim, and its note says what its results say."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import myosotis
from myosotis.config import composer
from myosotis.interfaces import Model, Objective, Rows, TaskDataset
from myosotis.ledger import StudyRecord
from myosotis.points import expand
from myosotis.testing import (
    ModelFactoryTestSuite,
    ObjectiveTestSuite,
    TaskDatasetTestSuite,
    make_task,
)
from myosotis_plugins.metrics.labels import Accuracy

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "digits_validation"
SCENARIOS = ("task", "domain", "class")
PROTOCOLS = ("split", "permuted")
IMAGES = load_digits()


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # where the plugin is looked for by its name
    specification.loader.exec_module(module)
    return module


digits: Any = load("digits")


@pytest.fixture(autouse=True)
def _digits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYOSOTIS_PLUGINS", "digits")
    monkeypatch.syspath_prepend(FOLDER)  # workers take it over


@pytest.fixture(scope="module")
def render() -> ModuleType:
    return load("render")


# Conformance


class TestDigits(TaskDatasetTestSuite):
    def make(self) -> TaskDataset:
        return digits.Digits(task=3, scenario="task")


class TestPermutedDigits(TaskDatasetTestSuite):
    def make(self) -> TaskDataset:
        return digits.Digits(task=3, protocol="permuted", scenario="class")


class TestHeads(ObjectiveTestSuite):
    def make(self) -> Objective:
        return digits.HeadClassification(heads=5, classes=2)

    def model(self) -> Model:
        return digits.MLP(width=8).load([self.make()])

    def rows(self) -> Rows:
        return [digits.Digits(task, scenario="task").split("test")[0] for task in range(1, 6)]


class TestMLP(ModelFactoryTestSuite):
    def make(self) -> Any:
        return digits.MLP(width=8, seed=3)

    def task(self) -> Any:
        objective = digits.HeadClassification(1, 10)
        return make_task("task1", digits.Digits(), objective, {"accuracy": Accuracy()})


def test_seeds_begin_with_other_weights() -> None:
    one, other = (
        digits.MLP(seed=seed).load([digits.HeadClassification(1, 2)]).module.state_dict() for seed in (0, 1)
    )
    assert not any(torch.equal(one[name], other[name]) for name in one)


# Data


def test_splits_hold_every_image_once_in_the_same_shares_of_each_digit() -> None:
    taken = {name: digits.places(name) for name in ("train", "validation", "test")}
    assert sorted(np.concatenate(list(taken.values()))) == list(range(1797))
    for digit in range(10):
        shares = [np.mean(np.isin(np.flatnonzero(IMAGES.target == digit), each)) for each in taken.values()]
        assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.005)


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_split_tasks_share_no_image_and_have_two_digits_each(name: str) -> None:
    tasks = [digits.Digits(task).split(name) for task in range(1, 6)]
    assert sum(map(len, tasks)) == len(digits.places(name))
    for task, rows in enumerate(tasks, 1):
        own = np.isin(IMAGES.target, (2 * task - 2, 2 * task - 1))
        expected = IMAGES.data[own & np.isin(np.arange(1797), digits.places(name))] / 16
        np.testing.assert_allclose(np.stack([row["image"] for row in rows]), expected, atol=1e-7)


def test_permutations_are_five_different_orders_of_the_pixels() -> None:
    orders = [digits.permutation(task) for task in range(1, 6)]
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    assert orders[0].tolist() == list(range(64))


@pytest.mark.parametrize("task", range(1, 6))
def test_a_permuted_task_has_all_images_with_their_pixels_in_its_order(task: int) -> None:
    rows = digits.Digits(task, "permuted").split("test")
    plain = IMAGES.data[digits.places("test")] / 16
    np.testing.assert_allclose(
        np.stack([row["image"] for row in rows]), plain[:, digits.permutation(task)], atol=1e-7
    )


# Scenarios


def outputs(task: int, protocol: str, scenario: str) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Give the objective, test examples, the digits that they show, and the flat index of each one's output."""
    dataset = digits.Digits(task, protocol, scenario)
    name, parameters = dataset.objective()
    assert name == "heads"
    rows = dataset.split("test")
    shown = IMAGES.target[digits.places("test")]
    shown = shown[shown // 2 == task - 1] if protocol == "split" else shown
    places = np.array([row["head"] * parameters["classes"] + row["label"] for row in rows])
    return digits.HeadClassification(**parameters), rows, shown, places


@pytest.mark.parametrize("task", [1, 4])
@pytest.mark.parametrize(
    ("protocol", "scenario", "count"),
    [
        ("split", "task", 10),
        ("split", "domain", 2),
        ("split", "class", 10),
        ("permuted", "task", 50),
        ("permuted", "domain", 10),
        ("permuted", "class", 50),
    ],
)
def test_each_class_has_the_output_of_its_scenario(
    protocol: str, scenario: str, count: int, task: int
) -> None:
    objective, _, shown, places = outputs(task, protocol, scenario)
    model = digits.MLP(width=4).load([objective])
    assert model.module[-1].out_features == count
    if protocol == "split":
        expected = shown % 2 if scenario == "domain" else shown
    else:
        expected = shown if scenario == "domain" else 10 * (task - 1) + shown
    assert places.tolist() == expected.tolist()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_compares_the_outputs_that_it_says(protocol: str, scenario: str) -> None:
    # The loss has a gradient just at the outputs that it compares.
    objective, rows, _, _ = outputs(4, protocol, scenario)
    batch = objective.collate(rows[:1], Model(torch.nn.Identity()))
    logits = torch.randn(1, objective.heads, objective.classes, requires_grad=True)
    objective.loss(logits, batch).backward()
    compared = np.flatnonzero(logits.grad)
    own = {"split": range(6, 8), "permuted": range(30, 40)}[protocol]
    everything = range(objective.heads * objective.classes)
    assert compared.tolist() == list(own if scenario == "task" else everything)
    expected = torch.nn.functional.cross_entropy(
        logits.detach().flatten()[list(compared)][None],
        torch.tensor([list(compared).index(rows[0]["head"] * objective.classes + rows[0]["label"])]),
    )
    assert objective.loss(logits, batch).item() == pytest.approx(expected.item(), rel=1e-6)


class Constant(torch.nn.Module):
    """Gives the same logits for every image."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), -1)


def test_only_where_the_task_is_known_an_older_class_cannot_win() -> None:
    model = Constant([0, 0, 0, 9.0, 0, 0, 0, 5.0, 0, 0])  # the largest output is digit 3's, then digit 7's
    chosen = {}
    for scenario in ("task", "class"):
        objective, rows, shown, _ = outputs(4, "split", scenario)
        columns = objective.predict(model, rows, Model(model))
        chosen[scenario] = set(columns["prediction"])
        right = columns["prediction"] == columns["label"]
        assert right.tolist() == (shown == (7 if scenario == "task" else 3)).tolist()
    assert chosen == {"task": {1}, "class": {3}}


# Studies


def configurations(study: str, *overrides: str) -> list[Any]:
    """Compose the trials of a study."""
    arguments = [f"+experiments/digits_validation={study}", *overrides]
    with composer() as compose:
        master = compose.master("config", arguments)
        points = expand(compose, "config", arguments, master.arms or {}, master.hydra.sweeper.params)
        return [compose.compose("config", point.overrides) for point in points]


@pytest.mark.parametrize(("study", "trials"), [("split", 27), ("permuted", 27), ("ewc", 21)])
def test_a_study_has_its_arms_with_the_strengths_of_their_scenario(
    study: str, trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    configs = configurations(study, "seed=7")
    assert len(configs) == trials
    for config in configs:
        assert config.model.seed == 7
        assert {each.scenario for each in config.dataset.values()} == {config.digits.scenario}
        assert [each.task for each in config.dataset.values()] == [1, 2, 3, 4, 5]
        protocol = "permuted" if study == "permuted" else "split"
        assert {each.protocol for each in config.dataset.values()} == {protocol}
        if "lwf" in config.method:
            assert config.method.lwf.strength == config.strengths[config.digits.scenario].lwf


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> StudyRecord:
    monkeypatch.chdir(ROOT)
    return myosotis.run([f"studies={folder}", *overrides])


def accuracy(record: StudyRecord, trial: str) -> float:
    """Give a trial's mean over the tasks after the last stage."""
    lines = (record.folder / trial / "scores.jsonl").read_text().splitlines()
    scores = [json.loads(line) for line in lines]
    last = [each["value"] for each in scores if each["stage"] == scores[-1]["stage"]]
    assert len(last) == 5
    return sum(last) / 5


def test_training_on_all_tasks_together_is_as_good_as_scikit_learns_own_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = (digits.places(name) for name in ("train", "test"))
    peer = MLPClassifier((100, 100), batch_size=16, max_iter=10, alpha=0, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        peer.fit(IMAGES.data[train] / 16, IMAGES.target[train])
    theirs = peer.score(IMAGES.data[test] / 16, IMAGES.target[test])
    assert theirs > 0.93
    record = run(
        tmp_path,
        monkeypatch,
        "+experiments/digits_validation=setting",
        "curriculum=joint",
        "digits.scenario=class",
        "seed=0",
        "hydra.launcher.workers=1",
    )
    assert accuracy(record, record.trials["trial"][0]) == pytest.approx(theirs, abs=0.03)


# The note


def test_the_tables_are_what_the_accuracies_give(render: ModuleType) -> None:
    text = render.NOTE.read_text(encoding="utf-8")
    assert {match["name"] for match in render.MARKED.finditer(text)} == set(render.TABLES)
    assert render.rendered(text, pd.read_csv(render.ACCURACIES)) == text


def test_the_note_shows_pictures_that_are_there(render: ModuleType) -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", render.NOTE.read_text(encoding="utf-8"))
    assert len(pictures) == 2
    assert all((render.NOTE.parent / name).read_text().startswith("<svg") for name in pictures)


def test_a_bar_holds_where_the_whole_interval_of_the_paired_difference_does(render: ModuleType) -> None:
    naive = pd.DataFrame({"arm": "naive", "seed": range(4), "accuracy": [20.0, 21, 22, 23]})
    replay = pd.DataFrame({"arm": "replay", "seed": [3, 2, 1, 0], "accuracy": [58.0, 54, 56, 53]})
    trials = pd.concat([naive, replay])
    difference = render.by_seed(trials, arm="replay") - render.by_seed(trials, arm="naive")
    low, high = stats.ttest_1samp([53 - 20, 56 - 21, 54 - 22, 58 - 23], 0).confidence_interval()
    assert 31 < low < 32
    assert 36 < high < 37
    row = f"| far above | +33.8 [{low:+.1f}, {high:+.1f}] |"
    for least, most, holds in [(31, 37, "holds"), (32, 37, "does not hold"), (31, 36, "does not hold")]:
        assert render.verdict("far above", difference, least, most) == f"{row} {holds} |"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_strengths_are_those_that_were_best_on_the_development_seeds(
    render: ModuleType, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    trials = pd.read_csv(render.ACCURACIES)
    development = trials[trials["study"] == f"digits_{protocol}_strengths"]
    assert not set(development["seed"]) & set(trials[trials["study"] == f"digits_{protocol}"]["seed"])
    written = configurations(protocol, "seed=0")[0].strengths
    for scenario in SCENARIOS:
        for arm, chosen in written[scenario].items():
            tried = development[(development["scenario"] == scenario) & (development["arm"] == arm)]
            means = {strength: each["accuracy"].mean() for strength, each in tried.groupby("strength")}
            assert len(means) >= 4
            assert means[chosen] == pytest.approx(max(means.values()), abs=1e-3)


# The pattern


@pytest.mark.slow
def test_the_methods_order_as_in_the_literature(
    render: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["digits.scenario=task,class", "seed=0,1,2"]
    record = run(tmp_path, monkeypatch, "+experiments/digits_validation=split", *overrides)
    assert (record.trials["status"] == "finished").all()
    trials = render.collected(tmp_path, ["digits_split"])
    expected = [100 * accuracy(record, trial) for trial in record.trials["trial"]]
    np.testing.assert_allclose(trials["accuracy"], expected, atol=1e-4)

    def mean(scenario: str, arm: str) -> float:
        return float(render.by_seed(trials, scenario=scenario, arm=arm).mean())

    naive = mean("class", "naive")
    assert mean("class", "ewc") == pytest.approx(naive, abs=10)
    assert mean("class", "l2") == pytest.approx(naive, abs=10)
    assert mean("class", "replay") > naive + 30
    assert mean("task", "ewc") > mean("task", "naive")
    assert mean("task", "lwf") > mean("task", "naive")
    for scenario in ("task", "class"):
        assert mean(scenario, "joint") > mean(scenario, "naive")
