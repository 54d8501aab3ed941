"""The conformance suite, and that the weights are drawn: no test needs a network."""

from __future__ import annotations

import pytest
import torch
from myosotis_from_scratch import FromScratch, drawn
from myosotis_from_scratch_suite import FromScratchSuite

from myosotis_plugins.models.nano import FOLDER, Nano
from myosotis_plugins.objectives.language_modeling import LanguageModeling


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYOSOTIS_CACHE", str(tmp_path_factory.mktemp("cache")))
    drawn.cache_clear()


class TestFromScratch(FromScratchSuite):
    pass


def test_a_seed_gives_its_weights_and_none_are_the_pretrained_ones() -> None:
    def weights(seed: int) -> torch.Tensor:
        drawn.cache_clear()
        model = FromScratch(str(FOLDER), seed).load([LanguageModeling(length=8)])
        return next(model.module.parameters()).detach()

    pretrained = next(Nano().load([LanguageModeling(length=8)]).module.parameters()).detach()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert not torch.equal(weights(1), pretrained)
    assert weights(1).shape == pretrained.shape
