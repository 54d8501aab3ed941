"""What lies on a device comes back to it, shown with the meta device, which every machine has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from myosotis.checkpoint import Checkpoint, CheckpointFolder, Costs, Position
from myosotis.evaluation import Runtime
from myosotis.interfaces import Context, Method, Model
from myosotis.optimizers import restore_optimizer
from myosotis.trial import TrialRun
from tests.core.test_measure import trials

META = torch.device("meta")


def devices(values: dict[str, Tensor]) -> dict[str, str]:
    return {name: value.device.type for name, value in values.items()}


def test_a_checkpoint_gives_tensors_back_where_they_were(tmp_path: Path) -> None:
    state = {"there": torch.ones(2, device=META), "here": torch.ones(2)}
    at = Position(1, 4)
    CheckpointFolder(tmp_path).write(Checkpoint(at, {}, {"method": state}, Costs()))
    found = CheckpointFolder(tmp_path, META).read(at).methods["method"]
    assert devices(found) == {"there": "meta", "here": "cpu"}
    assert found["here"].tolist() == [1, 1]


@pytest.mark.parametrize(("fused", "step"), [(True, "meta"), (False, "cpu")])
def test_an_optimizers_state_goes_to_its_parameters(fused: bool, step: str) -> None:
    parameter = nn.Parameter(torch.ones(2, device=META))
    member: Any = SimpleNamespace(
        trained=SimpleNamespace(trainable=lambda: {"weight": parameter}),
        optimizer_state={"weight": {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}},
    )
    optimizer = torch.optim.AdamW([parameter])
    optimizer.defaults["fused"] = fused
    restore_optimizer(optimizer, member)
    assert devices(optimizer.state[parameter]) == {"step": step, "exp_avg": "meta"}


class Beside(Method):
    """Adds a layer that is made on the CPU, wherever the base is."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        model.module.add_module("beside", nn.Linear(2, 2))
        return model.module


def test_what_methods_add_goes_to_the_trials_device(tmp_path: Path) -> None:
    (config,), workspace = trials("method=[plain]")
    config.methods["beside"] = Beside()  # type: ignore[index]
    run = TrialRun(config, tmp_path, "", "", workspace)
    run.runtime = Runtime(META, "32-true")
    base = workspace.base(config, run.runtime)
    run.adapt(base)
    assert set(devices(dict(run.adapted.model.module.named_parameters())).values()) == {"meta"}
