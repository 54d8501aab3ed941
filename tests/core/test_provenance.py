"""Where values come from: held against the files that are named, and against what was given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from myosotis.config import composer, conf_folder, plain
from myosotis.plugins import load_registry
from myosotis.points import expand, whole_study
from myosotis.provenance import Provenance, Setting, compared, leaves
from myosotis.resolve import Resolver
from tests.core.commands import toy

STUDY_FILE = """
# @package _global_
defaults:
  - override /method: [plain]
evaluation:
  limit: 5
arms:
  bare: {}
  pulled:
    method: [pull]
    method.pull.strength: 1,2
  still:
    method: [still]
hydra:
  sweeper:
    params:
      seed: 0,1
      optimizer.weight_decay: 0.5
"""


def settings(*overrides: str) -> list[dict[str, Setting]]:
    """Give the settings of the trials that a command means, on the toy setting."""
    return settings_of(toy(*overrides))


def settings_of(arguments: Sequence[str]) -> list[dict[str, Setting]]:
    """Give the settings of the trials that a command means."""
    with composer() as compose:
        master = compose.master("config", list(whole_study(compose.parse(arguments))))
        params, arms = plain(master.hydra.sweeper.params), plain(master.arms) or {}
        registry = load_registry()
        provenance = Provenance(compose, "config", registry, arguments, params, arms)
        resolver = Resolver(registry)
        found = []
        for point in expand(compose, "config", arguments, arms, params):
            trial = resolver.resolve(compose.compose("config", point.overrides))
            arm = point.arm or " + ".join(trial.methods)
            found.append(provenance.settings(arm, point.lines, trial.resolved))
            assert values(found[-1]) == expected(trial.resolved)
        return found


def values(found: dict[str, Setting]) -> dict[str, Any]:
    return {path: setting.value for path, setting in found.items()}


def expected(resolved: Any) -> dict[str, Any]:
    """Give what must be told of a configuration: all values, each plugin's class under its own key."""
    return {
        path.removesuffix("._target_"): value
        for path, value in leaves(resolved)
        if not path.rpartition(".")[2].startswith("_") or path.endswith("_target_")
    }


def sources(found: dict[str, Setting], *paths: str) -> list[str]:
    return [found[path].source for path in paths]


def test_every_kind_of_source_is_named() -> None:
    (found,) = settings("method=[pull]", "++trainer.batch_size=4", "curriculum=joint", "mix.up=0.3")
    assert sources(found, "trainer.max_steps", "trainer.batch_size", "mix.up") == [
        "command line (trainer.max_steps=12)",
        "command line (++trainer.batch_size=4)",
        "command line (mix.up=0.3)",
    ]
    assert sources(found, "seed", "trainer.precision", "evaluation.limit", "curriculum.name") == [
        "default",
        "default",
        "conf/evaluation/default.yaml (myosotis)",
        "conf/curriculum/joint.yaml (myosotis)",
    ]
    assert found["method.pull.strength"].source.startswith("default of Pull (")
    assert sources(found, "method.pull", "dataset.up", "dataset.up.angle") == [
        "command line (method=[pull])",
        "command line (+dataset@dataset.up=points)",
        "command line (dataset.up.angle=90)",
    ]
    assert found["dataset.up.rows"].source.startswith("default of Points (")


def test_files_that_are_named_hold_the_values() -> None:
    (found,) = settings()
    named = {path: each for path, each in found.items() if each.source.endswith(".yaml (myosotis)")}
    assert len(named) > 3
    for path, (value, source) in named.items():
        file = Path(source.removesuffix(" (myosotis)")).relative_to("conf")
        group, _, key = path.partition(".")
        content = yaml.safe_load((conf_folder() / file).read_text(encoding="utf-8"))
        assert file.parts[0] == group
        assert content[key] == pytest.approx(value) if isinstance(value, float) else content[key] == value


def test_study_file_gives_its_values_and_its_arms(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(STUDY_FILE, encoding="utf-8")
    command = toy("+experiments=mine", "optimizer.weight_decay=0.1")
    found = settings_of([each for each in command if not each.startswith("method=")])
    for each in found:
        assert sources(each, "evaluation.limit", "seed", "optimizer.weight_decay") == [
            "study file mine.yaml",
            "study file mine.yaml",
            "command line (optimizer.weight_decay=0.1)",
        ]
    assert sorted(each["seed"].value for each in found) == [0] * 4 + [1] * 4
    chosen = [(path, each[path].source) for each in found for path in each if path.count(".") == 1]
    methods = sorted(each for each in chosen if each[0].startswith("method."))
    assert methods == [
        *[("method.plain", "study file mine.yaml")] * 2,
        *[("method.pull", "arm pulled")] * 4,
        *[("method.still", "arm still")] * 2,
    ]
    strengths = [each["method.pull.strength"] for each in found if "method.pull" in each]
    assert sorted(strengths) == [Setting(strength, "arm pulled") for strength in (1, 1, 2, 2)]


def test_own_files_are_told_from_the_projects(tmp_path: Path) -> None:
    (tmp_path / "conf" / "trainer").mkdir(parents=True)
    (tmp_path / "conf" / "trainer" / "short.yaml").write_text("max_epochs: 7\n", encoding="utf-8")
    (found,) = settings("trainer=short")
    assert found["trainer.max_epochs"] == Setting(7, "conf/trainer/short.yaml (working folder)")
    assert found["trainer.batch_size"] == Setting(8, "default")


PRESETS = """
from myosotis import hookimpl

MYOSOTIS_API = 1


@hookimpl
def myosotis_config_paths():
    return ["pkg://their_conf"]
"""


def test_plugins_files_are_told_by_their_package(write_plugin: Any) -> None:
    path = write_plugin("their_presets", PRESETS)
    (path.parent / "their_conf" / "trainer").mkdir(parents=True)
    (path.parent / "their_conf" / "__init__.py").touch()
    (path.parent / "their_conf" / "trainer" / "theirs.yaml").write_text("max_epochs: 3\n", encoding="utf-8")
    (found,) = settings("trainer=theirs")
    assert found["trainer.max_epochs"] == Setting(3, "trainer/theirs.yaml (their_conf)")


def test_an_interpolated_value_comes_from_where_it_is_written() -> None:
    one, other = settings("model.width=${seed}", "seed=3,4")
    assert one["model.width"] == Setting(3, "command line (model.width=${seed})")
    assert other["model.width"] == Setting(4, "command line (model.width=${seed})")


def test_comparison_tells_everything_once_and_loses_nothing() -> None:
    trials = settings("method=[plain],[pull],[still]", "method.pull.strength=1,2", "seed=0,1")
    found = compared(trials)
    for trial, own in zip(trials, found.own, strict=True):
        for path, setting in trial.items():
            if path in found.common:
                assert found.common[path] == setting
                assert path not in own
            elif path in found.sources:
                assert found.sources[path].source == setting.source
                assert setting.value in found.sources[path].value
                assert own.get(path, setting).value == setting.value
            else:
                assert own[path] == setting
    assert "trainer.max_steps" in found.common
    assert found.sources["seed"] == Setting([0, 1], "command line (seed=0,1)")
    assert found.sources["method.pull.strength"].value == [1, 2]
