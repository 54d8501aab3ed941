"""Methods together run, or are refused with the reason; whatever else befalls them is told."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from myosotis.interfaces import (
    Batch,
    Context,
    Loss,
    Method,
    Model,
    Stage,
)
from myosotis.testing import (
    refusal,
)
from tests import toy
from tests.core.hazards import Side


class OwnLoss(Method):
    """Replaces the loss."""

    def loss(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        return nn.functional.cross_entropy(outputs, batch["labels"])


class Crashes(Method):
    """Takes for granted that the base is as it was."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        model.module.get_submodule("0").weight.requires_grad_(True)  # type: ignore[union-attr]
        return model.module


class FreezesNothingKnown(Method):
    """Breaks the contract, which is no refusal."""

    def frozen(self, model: Model) -> Collection[str]:
        return ["elsewhere"]


class CrashesLater(Method):
    """Fails on values, which an outline does not have."""

    def begin_stage(self, stage: Stage, context: Context) -> None:
        raise ArithmeticError("no")


def test_methods_that_compose_are_not_refused(tmp_path: Path) -> None:
    assert refusal(lambda: {"pull": toy.Pull(), "loss": OwnLoss()}, tmp_path / "trial") is None
    assert (tmp_path / "trial" / "result.json").is_file()


def test_methods_that_refuse_each_other_say_why(tmp_path: Path) -> None:
    reason = refusal(lambda: {"one": OwnLoss(), "other": OwnLoss()}, tmp_path / "trial")
    assert reason == "methods one and other both replace the loss; a trial may have one that does"


def test_a_refusal_comes_before_anything_is_loaded(tmp_path: Path) -> None:
    frozen = toy.Still(["0", "3"])
    reason = refusal(lambda: {"still": frozen, "pull": toy.Pull()}, tmp_path / "trial")
    assert reason is not None
    assert "leaves 0 of" in reason
    assert not (tmp_path / "trial").exists()


@pytest.mark.parametrize("broken", [Crashes, CrashesLater, FreezesNothingKnown])
def test_what_neither_runs_nor_is_refused_is_told(broken: type[Method], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="must run, or be refused by a ConfigurationError that says why"):
        refusal(lambda: {"side": Side(), "broken": broken()}, tmp_path / "trial")
