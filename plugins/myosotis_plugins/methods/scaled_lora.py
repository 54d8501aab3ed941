"""PEFT's low-rank additions: the layers that have some, and each at a part of its scale for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from myosotis_plugins.quiet import quiet_libraries


def lora_layers(module: nn.Module) -> list[Any]:
    """Find the layers with low-rank additions."""
    with quiet_libraries():
        from peft.tuners.lora import LoraLayer

    return [each for each in module.modules() if isinstance(each, LoraLayer)]


def begins_at_zero(module: nn.Module) -> bool:
    """Tell whether no low-rank addition has begun to add something."""
    return not any(
        layer.get_delta_weight(name).any() for layer in lora_layers(module) for name in layer.scaling
    )


def has_one_for_each_stage(module: nn.Module) -> bool:
    """Tell whether layers have several low-rank additions."""
    return any(len(layer.scaling) > 1 for layer in lora_layers(module))


@contextmanager
def scaled(module: nn.Module, factor: float) -> Iterator[None]:
    """Multiply the scale of every low-rank addition; by 0 they are off, for adding 0 can change a bit."""
    layers = lora_layers(module)
    if not layers or factor == 1:
        yield
    elif factor == 0:
        with _off(layers):
            yield
    else:
        from peft.helpers import rescale_adapter_scale

        with rescale_adapter_scale(module, factor):
            yield


@contextmanager
def _off(layers: Sequence[Any]) -> Iterator[None]:
    # PEFT sets what trains anew when it switches adapters on again.
    training = [(each, each.requires_grad) for layer in layers for each in layer.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, trains in training:
            parameter.requires_grad = trains
