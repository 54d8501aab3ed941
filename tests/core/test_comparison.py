"""Predictions beside the base's: against torch's own losses and distances, and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import myosotis
from myosotis.comparison import compared
from myosotis.errors import ConfigurationError
from tests.core.commands import resolved, toy

GENERATOR = torch.Generator().manual_seed(0)
SIZES = (3, 1, 5)
OWN = [torch.randn(size, 7, generator=GENERATOR) for size in SIZES]
BASE = [torch.randn(size, 7, generator=GENERATOR) for size in SIZES]


def test_sums_are_torchs() -> None:
    columns = compared(OWN, BASE)
    assert columns["predictions"].tolist() == list(SIZES)
    for number, (own, base) in enumerate(zip(OWN, BASE, strict=True)):
        cross = functional.cross_entropy(own.double(), base.double().softmax(dim=-1), reduction="sum")
        apart = functional.kl_div(
            own.double().log_softmax(dim=-1), base.double().softmax(dim=-1), reduction="sum"
        )
        assert columns["cross_entropy_against_base"][number] == pytest.approx(cross.item(), rel=1e-6)
        assert columns["kl_against_base"][number] == pytest.approx(apart.item(), rel=1e-6)
        agreeing = sum(
            int(np.argmax(a) == np.argmax(b)) for a, b in zip(own.numpy(), base.numpy(), strict=True)
        )
        assert columns["agreeing"][number] == agreeing
    assert 0 < columns["agreeing"].sum() < sum(SIZES)


def test_one_prediction_by_hand() -> None:
    # p = (1/2, 1/2), q = (1/4, 3/4).
    columns = compared([torch.tensor([[0.25, 0.75]]).log()], [torch.zeros(1, 2)])
    cross = -0.5 * (math.log(1 / 4) + math.log(3 / 4))
    assert columns["cross_entropy_against_base"] == pytest.approx([cross])
    assert columns["kl_against_base"] == pytest.approx([cross - math.log(2)])
    assert columns["agreeing"].tolist() == [0]


def test_the_base_beside_itself() -> None:
    columns = compared(BASE, BASE)
    assert columns["agreeing"].tolist() == list(SIZES)
    assert columns["kl_against_base"].tolist() == [0, 0, 0]
    entropies = [torch.distributions.Categorical(logits=each).entropy().sum().item() for each in BASE]
    np.testing.assert_allclose(columns["cross_entropy_against_base"], entropies, rtol=1e-5)


def test_what_the_base_holds_for_impossible_counts_nothing() -> None:
    base = torch.tensor([[0.0, 1.0, -torch.inf]])
    for own in (base, torch.tensor([[0.0, 1.0, 0.0]])):
        apart = compared([own], [base])["kl_against_base"]
        expected = functional.kl_div(
            own[:, :2].softmax(dim=-1).log() if own is base else own.log_softmax(dim=-1)[:, :2],
            base[:, :2].softmax(dim=-1),
            reduction="sum",
        )
        assert apart == pytest.approx([expected.item()], abs=1e-6)
    # What the model holds for impossible and the base does not is infinitely far.
    assert compared([base], [torch.zeros(1, 3)])["kl_against_base"].tolist() == [math.inf]


def test_coarse_logits_are_compared_at_single_precision() -> None:
    own, base = OWN[0].bfloat16(), BASE[0].bfloat16()
    assert compared([own], [base]) == compared([own.float()], [base.float()])


NEAR = """
from myosotis import hookimpl
from myosotis.interfaces import Metric, Objective
from tests import toy

MYOSOTIS_API = 1


class Near(Metric):
    higher_is_better = False
    compares = True

    def value(self, columns):
        return float(columns["kl_against_base"].sum() / columns["predictions"].sum())


class NearPoints(toy.Points):
    def metrics(self):
        return ("near", "hits")


class Silent(toy.PointObjective):
    predicted_logits = Objective.predicted_logits


class SilentPoints(NearPoints):
    def objective(self):
        return "silent", {}


@hookimpl
def myosotis_metrics():
    return {"near": Near}


@hookimpl
def myosotis_objectives():
    return {"silent": Silent}


@hookimpl
def myosotis_datasets():
    return {"near_points": NearPoints, "silent_points": SilentPoints}
"""


def test_a_method_that_trains_the_base_leaves_it(write_plugin: Callable[[str, str], Path]) -> None:
    """Also where the next trial begins with the base that the one before it was compared with."""
    write_plugin("near", NEAR)
    data = ["dataset=[]", "+dataset@dataset.right=near_points", "+probe@probe.side=near_points"]
    command = toy(*data, "probe.side.angle=45", "seed=0,1", "study=near", "hydra.launcher.workers=1")
    scores = myosotis.run([each for each in command if "dataset.up" not in each]).scores
    base, after = (scores[(scores.metric == "near") & (scores.stage == stage)].value for stage in (0, 1))
    assert base.tolist() == [0] * 4
    assert (after > 1e-3).all()
    rest = scores[(scores.metric == "hits") & (scores.stage == 0)]
    assert rest.groupby("task").value.nunique().tolist() == [1, 1]


def test_an_objective_without_logits_is_refused(write_plugin: Callable[[str, str], Path]) -> None:
    write_plugin("near", NEAR)
    message = r"dataset.right: metrics must be of what silent gives, but near must have logits to compare"
    with pytest.raises(ConfigurationError, match=message):
        resolved("dataset=[]", "+dataset@dataset.right=silent_points", "dataset.right.angle=0")
