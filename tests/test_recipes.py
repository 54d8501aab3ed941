"""The recipes: each composes, and its note's tables are what its scores give."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from myosotis.config import composer
from myosotis.points import expand

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "recipes"
TRIALS = {
    "base_model": 18,
    "domain_then_instructions": 6,
    "few_data": 24,
    "frozen_layers": 21,
    "multitask": 21,
    "quotes_8bit": 3,
    "sentiment_encoder": 3,
    "sentiment_instruction": 6,
}
"""How many trials each recipe has."""


@pytest.fixture(scope="module")
def render() -> ModuleType:
    specification = importlib.util.spec_from_file_location("recipes_render", FOLDER / "render.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_every_recipe_has_its_note_scores_and_picture() -> None:
    for ending in ("md", "csv", "svg"):
        assert {path.stem for path in FOLDER.glob(f"*.{ending}")} == TRIALS.keys()


@pytest.mark.parametrize("name", TRIALS)
def test_a_recipe_has_its_trials(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    arguments = [f"+experiments/recipes={name}"]
    with composer() as compose:
        master = compose.master("config", arguments)
        points = expand(compose, "config", arguments, master.arms or {}, master.hydra.sweeper.params)
        assert len(points) == TRIALS[name]
        for point in points:
            assert compose.compose("config", point.overrides).study == name


@pytest.mark.parametrize("name", TRIALS)
def test_the_table_is_what_the_scores_give(name: str, render: ModuleType) -> None:
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert render.MARKED.search(text)
    assert render.rendered(text, pd.read_csv(FOLDER / f"{name}.csv")) == text


def scores(*ends: float) -> pd.DataFrame:
    """Give a base of 0.5 and trials that end so, after something between."""
    rows = [
        {"trial": str(number), "seed": number, "stage": stage, "step": 5 * stage, "value": value}
        for number, end in enumerate(ends)
        for stage, value in enumerate((0.5, 0.1, end))
    ]
    same = {"arm": "a", "overrides": "x.y.rank=4", "task": "t", "metric": "accuracy", "n": 1_000}
    return pd.DataFrame(rows).assign(low=0.47, high=0.53, **same)


def test_a_row_is_the_base_and_a_t_interval_over_the_seeds(render: ModuleType) -> None:
    ends = (0.8, 0.82, 0.87)
    low, high = stats.ttest_1samp(ends, 0).confidence_interval()
    text = render.rendered("<!-- scores: accuracy 0.51 -->\n<!-- end of table -->\n", scores(*ends))
    tuned = f"{np.mean(ends):.3f} [{low:.3f}, {high:.3f}]"
    assert f"| a · rank=4 | t | 1,000 | 0.500 [0.470, 0.530] | {tuned} | 3 | higher |" in text


def test_a_row_over_tasks_is_of_each_trials_mean(render: ModuleType) -> None:
    ends, others = np.array([0.8, 0.82, 0.87]), np.array([0.5, 0.7, 0.6])
    both = pd.concat([scores(*ends), scores(*others).assign(task="u")])
    low, high = stats.ttest_1samp((ends + others) / 2, 0).confidence_interval()
    text = render.rendered("<!-- scores: accuracy over tasks -->\n<!-- end of table -->\n", both)
    tuned = f"{np.mean([ends, others]):.3f} [{low:.3f}, {high:.3f}]"
    assert f"| a · rank=4 | mean over tasks | 2,000 | 0.500 [0.470, 0.530] | {tuned} | 3 |" in text


def test_several_orders_of_an_arm_have_a_row_each(render: ModuleType) -> None:
    orders = scores(0.8, 0.82, 0.4, 0.42).assign(order=lambda all: np.where(all.seed < 2, "t u", "u t"))
    alone = scores(0.9, 0.9).assign(arm="b", order="t u", trial=lambda all: all.trial + "b")
    both = pd.concat([orders, alone])
    text = render.rendered("<!-- scores: accuracy -->\n<!-- end of table -->\n", both)
    tuned = [line.split("|")[1:6:4] for line in text.splitlines()[3:6]]
    assert [(name.strip(), value.split()[0]) for name, value in tuned] == [
        ("a · rank=4 · t first", "0.810"),
        ("a · rank=4 · u first", "0.410"),
        ("b · rank=4", "0.900"),
    ]


@pytest.mark.parametrize(
    ("ends", "rule", "told"),
    [
        ((0.54, 0.541), "", "higher"),
        ((0.54, 0.541), " 0.6", "not apart"),  # a rule without a model does better
        ((0.5, 0.6), "", "not apart"),
        ((0.3, 0.301), "", "lower"),
    ],
)
def test_scores_are_apart_where_their_intervals_are(
    ends: tuple[float, ...], rule: str, told: str, render: ModuleType
) -> None:
    text = render.rendered(f"<!-- scores: accuracy{rule} -->\n<!-- end of table -->\n", scores(*ends))
    assert f"| {told} |" in text
