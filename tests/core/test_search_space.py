"""What a search varies: Hydra's sweeps as Optuna's distributions, and plugins' parameters where their plugin is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import optuna
import pytest

from myosotis.config import Composer, composer
from myosotis.errors import ConfigurationError
from myosotis.search_space import Space, dimension
from tests.core.commands import toy


@pytest.fixture
def compose() -> Iterator[Composer]:
    with composer() as opened:
        yield opened


def space(compose: Composer, *overrides: str, params: dict[str, Any] | None = None) -> Space:
    return Space(compose, "config", params or {}, toy(*overrides))


def distribution(compose: Composer, override: str) -> Any:
    """Give what Optuna is told of an override."""
    [parsed] = compose.parse([override])
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    dimension("key", parsed).suggest(trial)
    return trial.distributions["key"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("interval(0,1)", optuna.distributions.FloatDistribution(0, 1)),
        ("tag(log,interval(1e-4,1e-1))", optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)),
        ("int(interval(1,64))", optuna.distributions.IntDistribution(1, 64)),
        ("tag(log,int(interval(1,64)))", optuna.distributions.IntDistribution(1, 64, log=True)),
        # Hydra's ranges end before their stop, as Python's do; Optuna's have it in them.
        ("range(1,9,2)", optuna.distributions.IntDistribution(1, 7, step=2)),
        ("range(9,1,-4)", optuna.distributions.IntDistribution(5, 9, step=4)),
        ("range(0,1,0.25)", optuna.distributions.FloatDistribution(0, 0.75, step=0.25)),
        ("tag(log,range(1,9))", optuna.distributions.IntDistribution(1, 8, log=True)),
        ("4,8", optuna.distributions.CategoricalDistribution([4, 8])),
        ("choice(linear,cosine)", optuna.distributions.CategoricalDistribution(["linear", "cosine"])),
        ("[plain],[pull,still]", optuna.distributions.CategoricalDistribution(["[plain]", "[pull,still]"])),
    ],
)
def test_hydras_sweeps_are_optunas_distributions(compose: Composer, value: str, expected: Any) -> None:
    assert distribution(compose, f"key={value}") == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("interval(1,0)", "not above its end"),
        ("interval(0,inf)", "finite"),
        ("tag(log,interval(0,1))", "must begin above 0"),
        ("tag(log,range(1,9,2))", "no steps beside its tag log"),
        ("tag(lgo,interval(1,2))", "Did you mean log?"),
        ("tag(log,choice(1,2))", "choices have no order"),
        ("range(1,1)", "must have a value"),
    ],
)
def test_what_is_no_distribution_is_refused(compose: Composer, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        distribution(compose, f"key={value}")


def test_a_value_is_written_so_that_hydra_reads_it_back(compose: Composer) -> None:
    for override, value in [
        ("key=interval(0,1)", 1.2345678901234567e-05),
        ("key=int(interval(1,9))", 7),
        ("key=4,8", 8),
        ("key=[a],[a,b]", "[a,b]"),
    ]:
        [parsed] = compose.parse([override])
        [read] = compose.parse([dimension("key", parsed).line(value)])
        assert read.value() == (["a", "b"] if value == "[a,b]" else value)


def test_a_parameter_is_suggested_where_its_plugin_is(compose: Composer) -> None:
    found = space(compose, "method=[plain],[pull]", "method.pull.strength=interval(0,1)", "seed=0,1")
    asked: list[list[str]] = []

    def suggested(method: str) -> Any:
        asked.append([])

        def choose(each: Any) -> Any:
            asked[-1].append(each.key)
            return method if each.key == "method" else 0.25

        return found.suggested(choose)

    without, having = suggested("[plain]"), suggested("[pull]")
    assert asked == [["method"], ["method", "method.pull.strength"]]
    assert [dict(point.swept) for point in without] == [{}, {}]
    assert [dict(point.swept) for point in having] == [{"method.pull.strength": 0.25}] * 2
    assert [[line for line in point.lines if "seed" in line] for point in having] == [["seed=0"], ["seed=1"]]


def test_corners_are_every_choice_and_every_end(compose: Composer) -> None:
    found = space(
        compose,
        "method=[plain],[pull]",
        "method.pull.strength=interval(0,1)",
        "optimizer.learning_rate=tag(log,interval(0.001,0.1))",
    )
    swept = [(point.lines[-2], dict(point.swept)) for corner in found.corners() for point in corner]
    rates = [(dict(own)["optimizer.learning_rate"], own.get("method.pull.strength")) for _, own in swept]
    assert rates == [(0.001, None), (0.1, None), (0.001, 0.0), (0.001, 1.0), (0.1, 0.0)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=0,1"], "must have a parameter to vary"),
        (["optimizer.learning_rate=0.1,0.2", "seed=interval(0,1)"], "must be a list of values"),
        (
            ["optimizer.learning_rate=0.1,0.2", "method.pull.strength=interval(0,1)"],
            "no trial of this study has",
        ),
        (["method=[plain],[still]", "method.pull.strength=0.5"], "no trial of this study has"),
        (["method.pul.strength=interval(0,1)"], "Did you mean pull?"),
    ],
)
def test_a_space_that_is_none_is_refused(compose: Composer, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        space(compose, *overrides)


def test_a_grid_has_what_can_be_listed(compose: Composer) -> None:
    found = space(
        compose,
        "model.width=int(interval(2,4))",
        "optimizer.learning_rate=range(0.25,1,0.25)",
        "method=[plain],[still]",
    )
    grid = {key: list(values) for key, values in found.grid().items()}
    assert grid["model.width"] == [2, 3, 4]
    assert grid["optimizer.learning_rate"] == [0.25, 0.5, 0.75]
    assert grid["method"] == ["[plain]", "[still]"]
    with pytest.raises(ConfigurationError, match=r"interval\(0,1\) has every one in between"):
        space(compose, "method=[pull]", "method.pull.strength=interval(0,1)").grid()


def test_a_study_files_sweep_is_searched_too(compose: Composer) -> None:
    found = space(compose, params={"model.width": "range(2,9)"})
    assert list(found.dimensions) == ["model.width"]


def test_what_changes_no_number_is_not_part_of_a_search(compose: Composer) -> None:
    common = ["optimizer.learning_rate=0.1,0.2", "trainer.max_steps=9"]
    more = ["study=x", "hydra/sweeper=search", "hydra.sweeper.n_trials=3", "trainer.save=false", "logger=csv"]
    record = space(compose, *common, *more).record()
    assert record["optimizer.learning_rate"] == "0.1,0.2"
    assert record["trainer.max_steps"] == "9"
    assert not [key for key in record if key.startswith(("study", "hydra", "trainer.save", "logger"))]
