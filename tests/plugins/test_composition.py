"""Every built-in method beside every other: a trial of two stages runs, or is refused with a reason."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from peft import LoraConfig, get_peft_model

from myosotis.interfaces import Method
from myosotis.plugins import PluginOrigin, load_registry
from myosotis.testing import refusal
from tests.plugins import tiny

REGISTRY = load_registry()
METHODS: Mapping[str, PluginOrigin] = {
    name: origin
    for name, origin in REGISTRY.plugins["method"].items()
    if origin.cls.__module__.startswith("myosotis_plugins.")
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "freeze": {"first": 1},
    "replay": {"share": 0.5},
    "wise_ft": {"alphas": [0, 0.5]},
}
"""Where the defaults do nothing, or take long."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama, and a fine-tune of it."""
    folder = tmp_path_factory.mktemp("composition")
    tiny.save(tiny.llama(blocks=2), folder / "llama")
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(tiny.llama(blocks=2), config).save_pretrained(str(folder / "adapter"))
    return folder


def refused(names: tuple[str, ...], base: Path, quantization: Literal["none", "8bit"] = "none") -> str | None:
    """Run a trial of methods; give the reason where it is refused."""
    settings = {"finetuned": {"path": str(base / "adapter")}, **SETTINGS}

    def make() -> dict[str, Any]:
        return {name: METHODS[name].cls(**settings.get(name, {})) for name in names}

    folder = base / quantization / " and ".join(names)
    factory = tiny.factory(base / "llama", quantization)
    # What looks answers up has no part in a trial without questions.
    tasks = tiny.question_tasks() if "retrieval" in names else tiny.text_tasks()
    return refusal(make, folder, factory, tasks, trainer={"max_steps": 2})


def test_every_built_in_method_is_found() -> None:
    broken = [each for each in REGISTRY.broken if each.module.startswith("myosotis_plugins.")]
    assert broken == []
    assert {"full", "lora", "freeze", "replay", "wise_ft", "merge"} <= METHODS.keys()
    assert all(issubclass(origin.cls, Method) for origin in METHODS.values())


@pytest.mark.parametrize("name", METHODS)
def test_each_runs_alone(name: str, base: Path) -> None:
    assert refused((name,), base) is None


@pytest.mark.parametrize("name", METHODS)
def test_each_runs_on_a_base_in_8_bits_or_says_why(name: str, base: Path) -> None:
    reason = refused((name,), base, "8bit")
    if reason is not None and "leaves 0 of" in reason:  # of such a base nothing trains
        reason = refused(("lora", name), base, "8bit")
    assert reason is None or "8 bits" in reason


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(METHODS, 2)))
def test_two_run_together_or_are_refused_in_either_order(one: str, other: str, base: Path) -> None:
    reasons = refused((one, other), base), refused((other, one), base)
    assert (reasons[0] is None) == (reasons[1] is None), reasons
