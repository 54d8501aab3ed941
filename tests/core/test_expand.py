"""Which trials a command means: arms, sweeps, seeds, and parameters only where their plugin is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from myosotis.config import composer
from myosotis.errors import ConfigurationError
from myosotis.points import Point, default_name, expand
from tests.core.commands import points, resolved, run_at, toy


def expanded(arms: dict[str, dict[str, Any]], params: dict[str, Any], *overrides: str) -> list[Point]:
    setting = [each for each in toy() if not each.startswith("method=")]
    with composer() as compose:
        return expand(compose, "config", [*setting, *overrides], arms, params)


def settings(*overrides: str) -> list[tuple[tuple[str, ...], Any, int]]:
    """Give each trial's methods, the strength of `pull` where there is one, and the seed."""
    return [
        (tuple(trial.methods), getattr(trial.methods.get("pull"), "strength", None), trial.seed)
        for trial in resolved(*overrides)
    ]


def test_one_command_is_one_trial() -> None:
    [point] = points("method=[plain]")
    assert (point.arm, dict(point.swept)) == (None, {})


def test_parameter_goes_to_the_trials_that_have_its_plugin() -> None:
    found = settings("method=[plain],[pull],[pull,still]", "method.pull.strength=4,8")
    assert found == [
        (("plain",), None, 0),
        (("pull",), 4.0, 0),
        (("pull",), 8.0, 0),
        (("pull", "still"), 4.0, 0),
        (("pull", "still"), 8.0, 0),
    ]


def test_seeds_multiply() -> None:
    found = settings("method=[plain],[pull]", "method.pull.strength=1,2", "seed=0,1,2")
    assert len(found) == len(set(found)) == 9
    assert {seed for _, _, seed in found} == {0, 1, 2}


def test_three_sweeps_at_once() -> None:
    command = (
        "curriculum=joint",
        "method=[pull,still]",
        "method.pull.strength=4,8",
        "method.still.layers=[0],[3]",
    )
    trials = resolved(*command, "mix.right=0.9,0.1")
    assert len({trial.id for trial in trials}) == 8
    assert {round(trial.stages[0].shares["up"].start, 9) for trial in trials} == {0.1, 0.9}


def test_dataset_parameter_goes_only_where_the_dataset_is() -> None:
    lines = ["method=[plain]", "dataset.right.rows=8,16"]
    assert len(points(*lines)) == 2
    with composer() as compose:
        command = [
            "model=toy",
            "dataset=[points],[]",
            "probe=[points]",
            "method=[]",
            "dataset.points.rows=8,16",
        ]
        found = expand(compose, "config", command, {}, {})
    assert [dict(point.swept).get("dataset.points.rows") for point in found] == [8, 16, None]


def test_swept_values_leave_out_replicates_and_methods() -> None:
    found = points(
        "method=[pull]", "method.pull.strength=1,2", "seed=0,1", "curriculum.order=[right,up],[up,right]"
    )
    assert len(found) == 8
    assert [dict(point.swept) for point in found[::4]] == [
        {"method.pull.strength": 1},
        {"method.pull.strength": 2},
    ]


def test_duplicates_are_one() -> None:
    assert len(points("method=[plain],[plain]", "seed=1,1")) == 1


def test_trials_that_come_out_the_same_have_one_id() -> None:
    # The default written out, and what only says where to log, are the same trial.
    ids = {
        resolved("method=[pull]", *more)[0].id for more in ([], ["method.pull.strength=0.1"], ["study=other"])
    }
    assert len(ids) == 1
    assert resolved("method=[pull]", "trainer.log_every_n_steps=3", "trainer.save=false")[0].id in ids


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "method.pull.strength=0.2",
        "trainer.max_steps=13",
        "trainer.batch_size=4",
        "optimizer.learning_rate=0.03",
        "schedule=cosine",
        "model.width=8",
        "dataset.right.angle=1",
        "probe.side.angle=46",
        "curriculum.order=[up,right]",
        "curriculum=joint",
        "evaluation.limit=10",
        "evaluation.every=5",
    ],
)
def test_what_can_change_a_number_changes_the_id(override: str) -> None:
    assert resolved("method=[pull]")[0].id != resolved("method=[pull]", override)[0].id


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("method.pul.strength=1", ["'pul'", "Did you mean pull"]),
        (
            "method.pull.strength=1,2",
            ["method.pull.strength", "no trial of this study has the method 'pull'"],
        ),
        ("dataset.left.rows=4", ["dataset.left.rows", "'left'"]),
        ("probe.sid.rows=4", ["probe.sid.rows", "'sid'"]),
    ],
)
def test_parameter_that_no_trial_has_is_refused(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        points("method=[plain]", override)
    for part in parts:
        assert part in str(refused.value)


def test_interval_is_no_sweep() -> None:
    with pytest.raises(ConfigurationError, match="must be a list of values"):
        points("method=[pull]", "method.pull.strength=interval(0,1)")


def test_range_is_a_sweep() -> None:
    assert [dict(point.swept) for point in points("method=[plain]", "model.width=range(2,5)")] == [
        {"model.width": 2},
        {"model.width": 3},
        {"model.width": 4},
    ]


def test_arms_are_a_union_times_the_common_sweeps() -> None:
    arms = {
        "nothing": {"method": ["plain"]},
        "tied": {"method": ["pull"], "method.pull.strength": "1,2"},
        "still": {"method": ["still"], "trainer.max_steps": 3},
    }
    found = expanded(arms, {"seed": "0,1"})
    assert [(point.arm, dict(point.swept), "seed=1" in point.lines) for point in found] == [
        ("nothing", {}, False),
        ("nothing", {}, True),
        ("tied", {"method.pull.strength": 1}, False),
        ("tied", {"method.pull.strength": 2}, False),
        ("tied", {"method.pull.strength": 1}, True),
        ("tied", {"method.pull.strength": 2}, True),
        ("still", {}, False),
        ("still", {}, True),
    ]


REFERRING = "arms={tied: {method.pull.strength: ${trainer.max_steps}}}"


def test_arms_may_refer_to_what_the_command_sets(tmp_path: Path) -> None:
    study = run_at(tmp_path, *toy(REFERRING, "method=[pull]", "trainer.max_steps=3", "seed=0,1"))
    configs = [OmegaConf.load(path) for path in study.folder.glob("*/config.yaml")]
    assert [config.method.pull.strength for config in configs] == [3, 3]


def test_what_arms_refer_to_is_not_swept(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"trainer.max_steps must have one value.*max_steps=3,4"):
        run_at(tmp_path, *toy(REFERRING, "method=[pull]", "trainer.max_steps=3,4"))
    assert not (tmp_path / "studies").exists()


@pytest.mark.timeout(60)
def test_sweeps_of_other_arms_do_not_multiply() -> None:
    layers = ",".join(f"[{layer}]" for layer in range(500))
    found = expanded(
        {"tied": {"method": ["pull"]}, "still": {"method": ["still"]}},
        {},
        "method.pull.strength=range(0,2000)",
        f"method.still.layers={layers}",
    )
    assert [point.arm for point in found] == ["tied"] * 2000 + ["still"] * 500


def test_command_stands_for_what_the_study_file_says() -> None:
    found = expanded(
        {"tied": {"method": ["pull"], "method.pull.strength": "1,2"}}, {"seed": "0,1,2"}, "seed=7"
    )
    assert len(found) == 2
    assert all("seed=7" in point.lines for point in found)


def test_study_is_named_by_its_command() -> None:
    def name(*overrides: str) -> str:
        with composer() as compose:
            return default_name(compose, overrides)

    first = name("method=[pull]", "seed=0,1")
    assert first == name("seed=0,1", "method=[pull]")
    assert first == name("seed=0,1", "method=[pull]", "logger=csv", "force=true", "studies=elsewhere")
    assert first != name("seed=0,2", "method=[pull]")
    assert first != name("seed=0,1")
    assert first.startswith("study-")
