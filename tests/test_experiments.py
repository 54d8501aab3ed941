"""The experiments' notes say what their results say."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf
from scipy import stats

import myosotis
from myosotis.config import composer
from myosotis.describe import describe
from myosotis.plugins import PluginOrigin, load_registry
from myosotis.points import expand
from tests.plugins import tiny
from tests.test_stories import SHARED, needs_shared

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def render() -> ModuleType:
    specification = importlib.util.spec_from_file_location("render", EXPERIMENTS / "render.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("note", sorted(path.stem for path in EXPERIMENTS.glob("*.csv")))
def test_the_table_is_what_the_results_give(render: ModuleType, note: str) -> None:
    text = (EXPERIMENTS / f"{note}.md").read_text(encoding="utf-8")
    assert render.MARKED.search(text)
    assert render.rendered(text, pd.read_csv(EXPERIMENTS / f"{note}.csv")) == text


def test_paired_differences_are_those_of_a_paired_t_interval(render: ModuleType) -> None:
    trials = pd.DataFrame(
        {
            "arm": ["a"] * 4 + ["b"] * 4,
            # The seeds stand in another order: pairs are by seed, not by row.
            "seed": [0, 1, 2, 3, 3, 2, 1, 0],
            "learned": [1.0] * 8,
            "forgotten": [0.9, 1.1, 1.4, 1.2, 0.7, 0.8, 0.2, 0.3],
            "forgotten_base": [0.0] * 8,
            "trainable_parameters": [10.0] * 8,
        }
    )
    differences = np.array([0.9 - 0.3, 1.1 - 0.2, 1.4 - 0.8, 1.2 - 0.7])
    low, high = stats.ttest_1samp(differences, 0).confidence_interval()
    text = render.rendered("<!-- table: a/b -->\n<!-- end of table -->\n", trials)
    assert (
        f"| a − b | +0.000 [+0.000, +0.000] | {differences.mean():+.3f} [{low:+.3f}, {high:+.3f}] |" in text
    )


@pytest.mark.parametrize(
    ("name", "orders"),
    [
        (
            "cl4",  # O-LoRA's Table 1
            ["dbpedia amazon yahoo agnews", "dbpedia amazon agnews yahoo", "yahoo amazon agnews dbpedia"],
        ),
        (
            "cl5",  # MbPA++'s Section 4
            [
                "yelp agnews dbpedia amazon yahoo",
                "dbpedia yahoo agnews amazon yelp",
                "yelp yahoo amazon dbpedia agnews",
                "agnews yelp amazon yahoo dbpedia",
            ],
        ),
    ],
)
def test_text_classifications_come_in_the_published_orders(name: str, orders: list[str]) -> None:
    arguments = [f"+experiments={name}"]
    with composer() as compose:
        master = compose.master("config", arguments)
        points = expand(compose, "config", arguments, {}, master.hydra.sweeper.params)
        found = [compose.compose("config", point.overrides).curriculum.order for point in points]
    assert [" ".join(order) for order in found] == orders


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "order"),
    [("cl4", "dbpedia amazon yahoo agnews"), ("cl5", "agnews yelp amazon yahoo dbpedia")],
)
def test_text_classifications_are_learned_one_after_another(
    name: str, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From folders: one order, a step each, on a tiny model."""
    monkeypatch.chdir(tmp_path)
    tasks = order.split()
    folders = SHARED / "data" / "cl5_text_classification"
    record = myosotis.run(
        [
            f"+experiments={name}",
            f"curriculum.order=[{','.join(tasks)}]",
            *(f"dataset.{task}.path='{folders / task}'" for task in tasks),
            "model=huggingface",
            f"model.path={tiny.save(tiny.llama(), tmp_path / 'model')}",
            *("trainer.max_steps=1", "evaluation.limit=8", "evaluation.resamples=100", "logger=none"),
            "hydra.launcher.workers=1",
        ]
    )
    assert record.trials.status.tolist() == ["finished"]
    scores = record.scores[record.scores.metric == "accuracy"]
    cells = {(stage, task) for stage in range(len(tasks) + 1) for task in tasks}
    assert set(zip(scores.stage, scores.task, strict=True)) == cells
    assert len(scores) == len(cells)
    config = yaml.safe_load((record.folder / record.trials.trial[0] / "config.yaml").read_text())
    assert config["curriculum"]["order"] == tasks
    assert scores.value.between(0, 1).all()


@pytest.mark.parametrize(
    "found",
    [each for each in load_registry() if each.kind in {"method", "dataset", "model"}],
    ids=lambda each: f"{each.kind} {each.name}",
)
def test_the_example_that_a_plugin_shows_composes(found: PluginOrigin) -> None:
    shown = describe(found).splitlines()[-1].removeprefix("example: myosotis run ")
    overrides = shlex.split(shown)
    with composer() as compose:
        [point] = expand(compose, "config", overrides, {}, {})
        config = OmegaConf.to_container(compose.compose("config", point.overrides), resolve=False)
    assert overrides[0] in {f"{found.kind}=[{found.name}]", f"{found.kind}={found.name}"}
    for override in overrides[1:]:
        key, _, value = override.partition("=")
        inner: Any = config
        for part in key.split("."):
            inner = inner[part]
        assert str(inner).lower() == value.lower()


def test_parameters_that_must_be_told_are_in_the_example() -> None:
    [found] = [each for each in load_registry() if (each.kind, each.name) == ("model", "huggingface")]
    assert describe(found).endswith("example: myosotis run model=huggingface model.path=PATH")
