"""Composition: the same as Hydra's own, and refusals in the user's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from myosotis.config import check_literals, composer
from myosotis.errors import ConfigurationError
from myosotis.explained import explained
from tests.core.commands import resolved, toy

COMMANDS = [
    (),
    ("seed=3", "study=mine", "force=true"),
    ("method=[pull]", "method.pull.strength=0.5"),
    ("method.pull.strength=0.5", "method=[plain,pull]"),
    ("method=[pull,still]", "method.still.layers=[0,3]", "method.pull.strength=2"),
    ("curriculum=joint", "mix.right=0.75"),
    ("curriculum=progressive", "curriculum.start=0.1", "curriculum.end=1"),
    ("curriculum=stages", "curriculum.stages=[{right: 1},{up: 0.5, right: 0.5},{}]"),
    ("curriculum.order=[up,right]",),
    ("optimizer=sgd", "optimizer.learning_rate=1e-2", "optimizer.weight_decay=1"),
    ("schedule=cosine", "schedule.warmup_steps=4", "trainer.max_steps=null", "trainer.max_epochs=2"),
    ("trainer.gradient_clip_val=null", "trainer.devices=2", "evaluation.limit=null"),
    ("logger=wandb", "logger.project=elsewhere", "logger.tags=[a,b]"),
    ("model.width=4", "dataset.right.rows=8", "dataset.up.angle=30.5", "probe.side.rows=9"),
    ("~dataset.right", "+dataset@dataset.third=points", "dataset.third.angle=10"),
    ("+place=elsewhere", "studies=${place}"),
]


def tree(config: DictConfig) -> Any:
    """Give a configuration without Hydra's own node, which records the command."""
    return {key: value for key, value in OmegaConf.to_container(config).items() if key != "hydra"}  # type: ignore[union-attr]


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        resolved(*overrides)
    return str(refused.value)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_composes_as_hydra_does(command: tuple[str, ...]) -> None:
    lines = toy(*command)
    with composer() as compose:
        ours = compose.compose("config", compose.parse(lines))
        alone = compose.loader.load_configuration("config", lines, RunMode.RUN)
        master = compose.loader.load_configuration("config", lines, RunMode.MULTIRUN)
        swept = compose.loader.load_sweep_config(master, lines)
    assert tree(ours) == tree(alone)
    assert tree(ours) == tree(swept)


def test_composing_twice_gives_trees_of_their_own() -> None:
    with composer() as compose:
        first = compose.compose("config", compose.parse(toy("seed=1")))
        second = compose.compose("config", compose.parse(toy("seed=2")))
    assert (first.seed, second.seed) == (1, 2)


def test_typed_values_arrive_as_their_types() -> None:
    [trial] = resolved("method=[pull]", "method.pull.strength=1", "dataset.up.angle=90")
    strength = trial.methods["pull"].strength  # type: ignore[attr-defined]
    assert (type(strength), strength) == (float, 1.0)
    assert trial.resolved["dataset"]["up"]["angle"] == 90.0
    assert trial.resolved["optimizer"]["learning_rate"] == 0.02


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["trainer.max_stps=3"], ["parameter of trainer", "'max_stps'", "Did you mean max_steps"]),
        (["sed=3"], ["'sed'", "Did you mean seed"]),
        (["method=[pull]", "method.pull.strenth=1"], ["method.pull", "Did you mean strength"]),
        (["method=[pull]", "method.pull.strength=much"], ["method.pull.strength", "much", "Float"]),
        (["model.width=broad"], ["model.width", "broad", "Integer"]),
        (["trainer.max_steps=1.5"], ["trainer.max_steps", "1.5"]),
        (["seed=one"], ["seed", "one"]),
        (["method=[pul]"], ["no method named 'pul'", "Did you mean pull", "plain, pull, still"]),
        (["model=toys"], ["no model named 'toys'", "Did you mean toy"]),
        (["+dataset@dataset.x=point"], ["no dataset named 'point'", "Did you mean points"]),
        (["+probe@probe.x=point"], ["no probe named 'point'", "Did you mean points"]),
        (["optimizer=adamv"], ["no optimizer named 'adamv'", "Did you mean adamw", "sgd"]),
        (["schedule=cosin"], ["no schedule named 'cosin'", "Did you mean cosine"]),
        (["curriculum=join"], ["no curriculum named 'join'", "joint"]),
        (["logger=tensorboard"], ["no logger named 'tensorboard'", "csv, none, wandb"]),
        (["seed=[1"], ["seed=[1"]),
        (["curriculum=stages"], ["curriculum.stages"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistake_is_named(overrides: list[str], parts: list[str]) -> None:
    text = refusal(*overrides)
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("trainer.max_steps=0", "trainer.max_steps must be at least 1, but got 0"),
        ("trainer.max_epochs=-1", "trainer.max_epochs must be at least 1, but got -1"),
        ("trainer.max_tokens=0", "trainer.max_tokens must be at least 1, but got 0"),
        ("trainer.batch_size=0", "trainer.batch_size must be at least 1, but got 0"),
        (
            "trainer.accumulate_grad_batches=0",
            "trainer.accumulate_grad_batches must be at least 1, but got 0",
        ),
        ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps must be at least 1, but got 0"),
        ("trainer.gradient_clip_val=0", "trainer.gradient_clip_val must be greater than 0, but got 0.0"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate must be greater than 0, but got 0.0"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate must be greater than 0, but got nan"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay must be at least 0, but got -1.0"),
        ("schedule.warmup_steps=-1", "schedule.warmup_steps must be at least 0, but got -1"),
        ("evaluation.every=-1", "evaluation.every must be at least 0, but got -1"),
        ("evaluation.limit=0", "evaluation.limit must be auto, null or at least 1, but got 0"),
        ("evaluation.rows=last", "evaluation.rows: there is no value named 'last'. Known: first, spread"),
        ("evaluation.limit=some", "evaluation.limit must be auto, null or at least 1, but got some"),
        ("evaluation.batch_size=0", "evaluation.batch_size must be at least 1, but got 0"),
        ("evaluation.resamples=99", "evaluation.resamples must be at least 100, but got 99"),
        ("model.width=0", "model: width must be at least 1, but got 0"),
    ],
)
def test_value_out_of_range_is_refused(override: str, text: str) -> None:
    assert refusal(override) == text


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("optimizer.name=adamm", "adamw"),
        ("schedule.name=liner", "linear"),
        ("trainer.precision=bf16-mixd", "bf16-mixed"),
        ("evaluation.split=tests", "test"),
        ("curriculum.name=joined", "joint"),
    ],
)
def test_unknown_value_gives_the_nearest(override: str, near: str) -> None:
    assert near in refusal(override).split("Did you mean")[1].split("Known")[0]


def test_range_of_a_parameter_names_its_place() -> None:
    assert refusal("method=[pull]", "method.pull.strength=-1") == (
        "method.pull: strength must be at least 0, but got -1.0"
    )


class Choosing:
    def __init__(self, way: Any = "a", other: int = 0) -> None: ...


def test_optional_parameter_is_checked(write_plugin: Any) -> None:
    source = """
from typing import Optional

from myosotis import hookimpl
from myosotis.interfaces import Method

MYOSOTIS_API = 1


class Maybe(Method):
    def __init__(
        self, scale: float | None = None, count: Optional[int] = None, names: list[str] | None = None
    ) -> None:
        self.given = (scale, count, names)


@hookimpl
def myosotis_methods():
    return {"maybe": Maybe}
"""
    write_plugin("with_optional", source)
    [trial] = resolved("method=[maybe]", "method.maybe.scale=2", "method.maybe.names=[0,a]")
    assert trial.methods["maybe"].given == (2.0, None, ["0", "a"])  # type: ignore[attr-defined]
    for parameter, value in {"scale": "big", "count": "1.5", "names": "a"}.items():
        text = refusal("method=[maybe]", f"method.maybe.{parameter}={value}")
        assert text.startswith(f"method.maybe.{parameter}: ")
        assert value in text


def test_literal_is_checked(write_plugin: Any) -> None:
    source = """
from typing import Literal

from myosotis import hookimpl
from myosotis.interfaces import Method

MYOSOTIS_API = 1


class Way(Method):
    def __init__(self, side: Literal["left", "right"] = "left", size: Literal[1, 2] | None = None) -> None:
        self.side = side


@hookimpl
def myosotis_methods():
    return {"way": Way}
"""
    write_plugin("with_literal", source)
    assert [each.methods["way"].side for each in resolved("method=[way]", "method.way.side=right")] == [
        "right"
    ]  # type: ignore[attr-defined]
    assert len(resolved("method=[way]", "method.way.size=2")) == 1
    assert len(resolved("method=[way]", "method.way.size=null")) == 1
    assert "method.way.side: there is no value named 'lef'. Did you mean left?" in refusal(
        "method=[way]", "method.way.side=lef"
    )
    assert "method.way.size" in refusal("method=[way]", "method.way.size=3")


def test_parameter_of_another_model_is_told_with_the_models_that_have_it(write_plugin: Any) -> None:
    source = """
from myosotis import hookimpl
from tests.toy import ToyModel

MYOSOTIS_API = 1


class Saved(ToyModel):
    def __init__(self, path: str = "") -> None:
        super().__init__()


@hookimpl
def myosotis_models():
    return {"saved": Saved}
"""
    write_plugin("another_model", source)
    text = "there is no parameter of model named 'path'. Known: width. For it, add model=saved"
    assert refusal("model.path=folder") == text
    assert refusal("model.pth=folder") == "there is no parameter of model named 'pth'. Known: width"


def test_class_without_literals_passes() -> None:
    check_literals("method.choosing", {"way": "b", "other": 3}, Choosing)


def test_working_folder_has_presets_of_its_own(tmp_path: Path) -> None:
    for group, name, text in [
        ("trainer", "short", "max_steps: 5\nbatch_size: 2\n"),
        ("model", "wide", "defaults:\n  - toy\nwidth: 48\n"),
    ]:
        folder = tmp_path / "conf" / group
        folder.mkdir(parents=True)
        (folder / f"{name}.yaml").write_text(text)
    [trial] = resolved("trainer=short", "model=wide", "trainer.max_steps=6")
    assert (trial.trainer.max_steps, trial.trainer.batch_size) == (6, 2)
    assert vars(trial.model) == {"width": 48}


def test_study_file_of_the_working_folder_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\nseed: 7\ntrainer:\n  max_steps: 4\n")
    [trial] = resolved("+experiments=mine", "seed=7", "trainer.max_steps=4")
    assert (trial.seed, trial.trainer.max_steps) == (7, 4)
    with composer() as compose:
        config = compose.compose(
            "config", compose.parse(["+experiments=mine", "model=toy", "dataset=[]", "probe=[]", "method=[]"])
        )
    assert (config.seed, config.trainer.max_steps) == (7, 4)


GLOBAL = "# @package _global_\n"
STUDY_FILES = {
    "misspelt key": (
        f"{GLOBAL}optimiser:\n  name: sgd\n",
        "there is no key named 'optimiser'. Did you mean optimizer?",
    ),
    "misspelt parameter": (
        f"{GLOBAL}trainer:\n  max_step: 4\n",
        "experiments/mine.yaml: there is no parameter of trainer named 'max_step'. Did you mean max_steps",
    ),
    "misspelt parameter of a plugin": (
        f"{GLOBAL}model:\n  wide: 4\n",
        "experiments/mine.yaml: there is no parameter of model named 'wide'. Did you mean width?",
    ),
    "wrong type": (
        f"{GLOBAL}trainer:\n  max_steps: many\n",
        "experiments/mine.yaml: trainer.max_steps: Value 'many' of type 'str' could not be converted to Integer",
    ),
    "misspelt reference": (
        f"{GLOBAL}place: x\nschedule:\n  warmup_steps: ${{plaec}}\n",
        "schedule.warmup_steps: Interpolation key 'plaec' not found",
    ),
    "no package": ("trainer:\n  max_steps: 4\n", "a file of experiments/ must have '# @package _global_'"),
    "no mapping": (f"{GLOBAL}- seed\n", "experiments/mine.yaml: Cannot merge DictConfig with ListConfig"),
    "no YAML": (
        f"{GLOBAL}seed: 1\n  study: a\n",
        "a file is not YAML: mapping values are not allowed here in",
    ),
}


@pytest.mark.parametrize("mistake", STUDY_FILES)
def test_mistake_in_a_study_file_is_told_in_its_words(tmp_path: Path, mistake: str) -> None:
    text, told = STUDY_FILES[mistake]
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(text)
    assert refusal("+experiments=mine").startswith(told)


@pytest.mark.parametrize("reference", ["${lines}", "${oc.select:lines,4}"])
def test_study_file_may_have_keys_for_its_values_to_refer_to(tmp_path: Path, reference: str) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(
        f"# @package _global_\nlines: 8\nothers: {{a: 1}}\ndataset:\n  right:\n    rows: {reference}\n"
    )
    trials = resolved("+experiments=mine", "lines=8,16")
    assert [each.tasks["right"].dataset.rows for each in trials] == [8, 16]  # type: ignore[attr-defined]


@pytest.mark.parametrize("chosen", ["[lora]", "lora"])
def test_override_lines_before_others_are_refused(tmp_path: Path, chosen: str) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - override /method: {chosen}\n  - /dataset@dataset.more: pydocs\n"
    )
    told = "override lines .* must come after all others|at the end of the defaults list"
    with pytest.raises(ConfigurationError, match=told), composer() as compose, explained():
        compose.compose("config", compose.parse(["+experiments=mine"]))


def test_task_that_is_also_a_probe_is_refused() -> None:
    assert "right must be either a dataset or a probe, not both" in refusal("+probe@probe.right=points")


def test_a_folder_of_the_working_folder_is_no_group(tmp_path: Path) -> None:
    for name in ("studies", "seed", "trainer"):
        (tmp_path / name).mkdir()
    [trial] = resolved(*toy("studies=elsewhere", "seed=3"))
    assert trial.seed == 3
