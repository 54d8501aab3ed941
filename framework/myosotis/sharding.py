"""Training with the parameters divided among processes: PyTorch's fully sharded data parallelism (FSDP2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from myosotis.adaptation import Adapted
from myosotis.interfaces import Blocks
from myosotis.stacking import shared_copy


@dataclass(frozen=True)
class Shards:
    """A trial's module and a copy of it, of whose parameters each process has a part.

    The copy trains: parameters, gradients and the optimizer's states are divided. All else, such as evaluating,
    saving and what methods do between stages, is done with the whole module, which is given the copy's values
    before. So each process has the whole weights besides.

    Attributes:
        whole: what is evaluated and saved.
        divided: what trains.
    """

    whole: Adapted
    divided: Adapted

    @classmethod
    def of(
        cls, whole: Adapted, blocks: Callable[[nn.Module], Blocks], processes: int, device: torch.device
    ) -> Shards:
        """Divide a module: each block by itself, so that one at a time is whole while it runs, then the rest."""
        module = shared_copy(whole.model.module)
        paths = {id(each): path for path, each in whole.model.module.named_modules()}
        silent = tuple(module.get_submodule(paths[id(each)]) for each in whole.silent if id(each) in paths)
        for each in silent:
            each.training = False
        mesh = init_device_mesh(device.type, (processes,))
        for block in (*blocks(module).chain, module):
            fully_shard(block, mesh=mesh)
        model = replace(whole.model, module=module)
        return cls(whole, replace(whole, model=model, silent=silent, prefix=Blocks()))

    @torch.no_grad()
    def make_whole(self) -> None:
        """Give the whole module the values of the one that trains; all processes must call it."""
        own = dict(self.whole.model.module.named_parameters())
        for name, parameter in self.divided.trainable().items():
            own[name].copy_(whole(parameter))


def whole(value: Any) -> Any:
    """Give a divided tensor whole, and anything else as it is; all processes must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def divided_like(value: Any, parameter: Tensor) -> Any:
    """Divide a tensor as a parameter is, where that is divided and of the same shape."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)
