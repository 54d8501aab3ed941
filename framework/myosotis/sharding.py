"""Computing with the parameters divided among processes: PyTorch's fully sharded data parallelism (FSDP2).

A trial's own module stays whole, in main memory: methods adapt it, and it is saved. What trains and what predicts
are copies, of which each process has a part on its device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from myosotis.adaptation import Adapted
from myosotis.interfaces import Blocks
from myosotis.stacking import shared_copy


@functools.cache
def _mesh(kind: str, processes: int) -> DeviceMesh:
    return init_device_mesh(kind, (processes,))


def divided(
    module: nn.Module, blocks: Callable[[nn.Module], Blocks], processes: int, device: torch.device
) -> nn.Module:
    """Copy a module, of which this process gets its part on its device; all processes must call it.

    Each block is divided by itself, so that one at a time is whole while it runs, then the rest.
    """
    copy = shared_copy(module)
    mesh = _mesh(device.type, processes)
    for each in (*blocks(copy).chain, copy):
        fully_shard(each, mesh=mesh)
    if hasattr(copy, "generate"):  # it calls what is within, and not the module
        register_fsdp_forward_method(copy, "generate")
    return copy


def divided_to_train(adapted: Adapted, divide: Callable[[nn.Module], nn.Module]) -> Adapted:
    """Copy what trains, divided."""
    module = divide(adapted.model.module)
    paths = {id(each): path for path, each in adapted.model.module.named_modules()}
    silent = tuple(module.get_submodule(paths[id(each)]) for each in adapted.silent if id(each) in paths)
    return replace(adapted, model=replace(adapted.model, module=module), silent=silent, prefix=Blocks())


@torch.no_grad()
def gather(trained: Adapted, adapted: Adapted) -> None:
    """Give a whole module its divided copy's values, and the first process's buffers; all must call it together."""
    own = dict(adapted.model.module.named_parameters())
    for name, parameter in trained.trainable().items():
        own[name].copy_(whole(parameter))
    buffers = dict(adapted.model.module.named_buffers())
    for name, buffer in trained.model.module.named_buffers():
        distributed.broadcast(buffer, src=0)
        buffers[name].copy_(buffer)


def whole(value: Any) -> Any:
    """Give a divided tensor whole, and anything else as it is; all processes must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def divided_like(value: Any, parameter: Tensor) -> Any:
    """Divide a tensor as a parameter is, where that is divided and of the same shape."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)
