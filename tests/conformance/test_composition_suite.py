"""The suite that puts a method beside those that are installed: sound ones pass, a broken one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from myosotis.interfaces import Batch, Context, Loss, Method
from myosotis.testing import CompositionTestSuite
from tests import toy
from tests.core.hazards import Side


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYOSOTIS_PLUGINS", "tests.toy,tests.core.hazards")


class TestPullBesideOthers(CompositionTestSuite):
    def make(self) -> Method:
        return toy.Pull()


class TestSideBesideOthers(CompositionTestSuite):
    def make(self) -> Method:
        return Side()


class NeedsAllGradients(Method):
    """Takes for granted that nothing else is frozen."""

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        if not all(each.requires_grad for each in module.parameters()):
            raise ArithmeticError("something is frozen")
        return None


def test_a_broken_method_is_refused_with_the_others_name(tmp_path: Path) -> None:
    class Refusing(CompositionTestSuite):
        def make(self) -> Method:
            return NeedsAllGradients()

    with pytest.raises(
        AssertionError, match=r"(before|behind) the method (side|still): .*something is frozen"
    ):
        Refusing().test_composes_or_is_refused(tmp_path)
