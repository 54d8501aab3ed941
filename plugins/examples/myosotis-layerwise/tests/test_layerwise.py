"""The conformance suite, and the one number that the method is about."""

from __future__ import annotations

from myosotis_layerwise import Layerwise, block_depths

from myosotis.testing import CompositionTestSuite, MethodTestSuite


class TestLayerwise(MethodTestSuite):
    def make(self) -> Layerwise:
        return Layerwise(decay=0.5)


class TestLayerwiseBesideOthers(CompositionTestSuite):
    def make(self) -> Layerwise:
        return Layerwise(decay=0.5)


def test_depths_are_counted_in_blocks() -> None:
    names = ["embed.weight", "layers.0.up.weight", "layers.1.up.weight", "norm.weight"]
    assert block_depths(names) == {
        "embed.weight": 0,
        "layers.0.up.weight": 1,
        "layers.1.up.weight": 2,
        "norm.weight": 2,
    }
