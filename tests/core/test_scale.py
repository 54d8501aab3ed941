"""What a trial more costs in planning: counted, not timed; and that trials share nothing that can change."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from omegaconf import OmegaConf

from myosotis import config, resolve, schema
from myosotis.config import composer
from myosotis.plugins import load_registry
from myosotis.points import expand
from myosotis.resolve import Resolver, TrialConfig
from tests.core.commands import toy


def planned(*overrides: str) -> list[TrialConfig]:
    """Give the trials that a command means, all resolved by one resolver, as a study does."""
    with composer() as compose:
        found = expand(compose, "config", toy(*overrides), {}, {})
        resolver = Resolver(load_registry())
        return [resolver.resolve(compose.compose("config", point.overrides)) for point in found]


@pytest.mark.parametrize("seeds", [2, 40])
def test_hydra_works_once_for_each_choice_and_each_plugin(
    seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def counted(name: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(resolve, "instantiate", counted("instantiated", resolve.instantiate))
    monkeypatch.setattr(config.Composer, "_load", counted("composed", config.Composer._load))
    trials = planned("method=[plain],[pull]", "method.pull.strength=1,2", f"seed=range(0,{seeds})")
    assert len({trial.id for trial in trials}) == 3 * seeds
    # Two choices of methods; a model, three datasets, `plain`, and `pull` at two strengths.
    assert calls == {"composed": 2, "instantiated": 7}


KEEPS_ITS_LIST = """
from myosotis import hookimpl
from myosotis.interfaces import Method

MYOSOTIS_API = 1


class Keeper(Method):
    def __init__(self, names: list[str] | None = None) -> None:
        self.names = names


@hookimpl
def myosotis_methods():
    return {"keeper": Keeper}
"""


def test_every_trial_has_plugins_of_its_own(write_plugin: Any) -> None:
    write_plugin("keeps_its_list", KEEPS_ITS_LIST)
    one, other = planned("method=[plain,keeper]", "method.keeper.names=[a]", "seed=0,1")
    assert one.model is not other.model
    for name, method in one.methods.items():
        assert method is not other.methods[name]
    for name, task in one.tasks.items():
        assert task.dataset is not other.tasks[name].dataset
    one.methods["keeper"].names.append("b")  # type: ignore[attr-defined]
    one.trainer.batch_size = 1
    assert other.methods["keeper"].names == ["a"]  # type: ignore[attr-defined]
    assert other.trainer.batch_size == 8


def test_what_depends_on_the_seed_is_resolved_for_each_trial() -> None:
    trials = planned("model.width=${seed}", "dataset.up.rows=${model.width}", "seed=3,4")
    assert [trial.model.width for trial in trials] == [3, 4]  # type: ignore[attr-defined]
    assert [trial.tasks["up"].dataset.rows for trial in trials] == [3, 4]  # type: ignore[attr-defined]
    assert [trial.resolved["dataset"]["up"]["rows"] for trial in trials] == [3, 4]


def test_planned_trial_keeps_no_more_of_the_configuration_than_its_logger() -> None:
    [trial] = planned("logger=wandb", "logger.tags=[a]")
    assert set(OmegaConf.to_container(trial.logger._get_root())) == {"logger"}  # type: ignore[arg-type]
    assert OmegaConf.to_container(trial.logger)["group"] == "${run.study}"  # type: ignore[index,call-overload]


def test_copies_stay_typed() -> None:
    with composer() as compose:
        made = compose.compose("config", compose.parse(toy("seed=5")))
        alone = compose.chosen("config", compose.parse(toy("seed=5")))
    assert (made.seed, alone.seed) == (5, 0)
    assert OmegaConf.get_type(made, "trainer") is schema.TrainerConfig
    assert OmegaConf.get_type(made.method, "plain") is OmegaConf.get_type(alone.method, "plain")
    with pytest.raises(Exception, match="could not be converted to Integer"):
        made.trainer.batch_size = "many"
