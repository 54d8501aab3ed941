"""The divergence from the base, held against the base itself, loaded once more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Batch, Context, Method
from myosotis.testing import MethodTestSuite
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.kl_to_base import KLToBase
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.replay import Replay
from tests.plugins import linear, tiny
from tests.plugins.test_lwf import mean_divergence

STEPS = 4
COMPANY: Mapping[str, Callable[[], Mapping[str, Method]]] = {
    "full": dict,
    "lora": lambda: {"lora": LoRA(rank=2)},
    "pissa": lambda: {"lora": LoRA(rank=2, initialization="pissa")},
    "freeze": lambda: {"freeze": Freeze(first=2)},
    "lora and replay": lambda: {"lora": LoRA(rank=2, dropout=0.2), "replay": Replay(share=0.25)},
}
"""Methods beside it."""


class TestKLToBase(MethodTestSuite):
    def make(self) -> Method:
        return KLToBase()

    def make_neutral(self) -> Method:
        return KLToBase(strength=0)


class TestKLToBaseOnLlama(tiny.OnLlama):
    def make(self) -> Method:
        return KLToBase(strength=2)


@pytest.mark.parametrize(
    ("company", "precision"),
    [
        *[(company, "32-true") for company in COMPANY],
        # Not PiSSA, whose base is the base but for rounding, and that is coarse here.
        *[(company, "bf16-mixed") for company in COMPANY if company != "pissa"],
    ],
)
def test_the_teacher_is_the_base_in_every_stage(
    llama_folder: Path, tmp_path: Path, company: str, precision: str
) -> None:
    tasks = tiny.text_tasks()
    base = tiny.factory(llama_folder).load([task.objective for task in tasks.values()]).module.eval()
    wanted: list[float] = []

    def see(module: torch.nn.Module, batch: Batch, outputs: Any, context: Context) -> None:
        with torch.no_grad():
            teacher = context.tasks[context.rows[0][0]].objective.forward(base.to(outputs.device), batch)
        wanted.append(mean_divergence(teacher.float().cpu().numpy(), outputs.detach().float().cpu().numpy()))

    witness = linear.Witness(see)
    log = linear.train(
        tmp_path / "trial",
        {**COMPANY[company](), "kl": KLToBase(strength=2), "witness": witness},
        tiny.factory(llama_folder),
        tasks,
        max_steps=STEPS,
        precision=precision,
    )
    found = np.array([entry["penalty/kl"] for entry in log])
    np.testing.assert_allclose(found, 2 * np.array(wanted), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose([entry["loss"] for entry in log], np.array(witness.losses) + found, rtol=1e-5)
    assert found[STEPS:].min() > 1e-3


def test_it_keeps_a_trial_near_the_base(llama_folder: Path, tmp_path: Path) -> None:
    last = []
    for strength in (0.01, 10.0):
        log = linear.train(
            tmp_path / str(strength),
            {"kl": KLToBase(strength)},
            tiny.factory(llama_folder),
            tiny.text_tasks(),
            max_steps=10,
        )
        last.append(log[-1]["penalty/kl"] / strength)
    assert last[1] < 0.5 * last[0]


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="strength must be at least 0, but got -1"):
        KLToBase(strength=-1)
