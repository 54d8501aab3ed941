"""A-GEM's projection, against a quadratic programme's solver and least squares; its memory and its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import nn
from torch.nn import functional

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Share, Stage
from myosotis.testing import MethodTestSuite, tiny_tasks
from myosotis_plugins.methods.agem import AGEM
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.replay import Replay
from tests.plugins import linear, tiny

ALL = 1000
"""More rows than there are."""


class TestAGEM(MethodTestSuite):
    def make(self) -> Method:
        return AGEM(memory=5, batch_size=3)

    def make_neutral(self) -> Method:
        return AGEM(memory=0)


class TestAGEMOnLlama(tiny.OnLlama):
    def make(self) -> Method:
        return AGEM(memory=3, batch_size=2)


def nearest(gradient: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Solve min ‖x − gradient‖² with x · reference ≥ 0 by SciPy's general solver."""
    found = optimize.minimize(
        lambda x: 0.5 * ((x - gradient) ** 2).sum(),
        np.zeros_like(gradient),
        jac=lambda x: x - gradient,
        constraints={"type": "ineq", "fun": lambda x: x @ reference, "jac": lambda x: reference},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-14},
    )
    assert found.success
    return np.asarray(found.x)


def without(gradient: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Take out what lies along the reference, by least squares."""
    along = np.linalg.lstsq(reference[:, None], gradient, rcond=None)[0]
    return np.asarray(gradient - reference * along)


def remembering(of: nn.Module, **parameters: Any) -> tuple[AGEM, Context]:
    """Give the method after its first stage, and a context."""
    method = AGEM(**parameters)
    context = linear.context(of)
    method.end_stage(context.stage, context)
    return method, context


def gradient(of: nn.Module) -> np.ndarray:
    return linear.flat({name: each.grad for name, each in of.named_parameters() if each.grad is not None})


def reference_gradient(of: nn.Module) -> np.ndarray:
    """Give the gradient of the mean loss over all rows of the first task, in closed form."""
    gradients = linear.loss_gradients(linear.numbers(of), *linear.points(tiny_tasks()["first"]))
    return linear.flat(linear.split(gradients.mean(axis=0)))


@pytest.mark.parametrize("seed", range(6))
def test_the_gradient_becomes_the_nearest_that_does_not_oppose_the_memorys(seed: int) -> None:
    torch.manual_seed(seed)
    of = nn.Linear(4, 3)
    method, context = remembering(of, memory=ALL, batch_size=ALL)
    reference = reference_gradient(of)
    for parameter in of.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = gradient(of)
    opposes = before @ reference < 0
    method.after_backward(of, context)
    after = gradient(of)
    np.testing.assert_allclose(after, nearest(before, reference), atol=1e-4)
    if opposes:
        np.testing.assert_allclose(after, without(before, reference), atol=1e-5)
        assert after @ reference == pytest.approx(0, abs=1e-5)
    else:
        np.testing.assert_array_equal(after, before)


def test_both_cases_were_among_them() -> None:
    opposing = []
    for seed in range(6):
        torch.manual_seed(seed)
        of = nn.Linear(4, 3)
        given = {name: torch.randn_like(each) for name, each in of.named_parameters()}
        opposing.append(bool(linear.flat(given) @ reference_gradient(of) < 0))
    assert set(opposing) == {True, False}


def test_what_rests_goes_on_resting() -> None:
    """A parameter without a gradient is not moved, and has no part in the projection."""
    torch.manual_seed(0)
    of = nn.Linear(4, 3)
    method, context = remembering(of, memory=ALL, batch_size=ALL)
    reference = linear.split(
        linear.loss_gradients(linear.numbers(of), *linear.points(tiny_tasks()["first"])).mean(axis=0)
    )["weight"].ravel()
    given = -reference + np.linspace(-0.1, 0.1, 12)
    of.weight.grad = torch.tensor(given.reshape(3, 4)).float()
    method.after_backward(of, context)
    assert of.bias.grad is None
    assert given @ reference < 0
    np.testing.assert_allclose(gradient(of), without(given, reference), atol=1e-5)


def test_without_a_memory_nothing_happens() -> None:
    of = nn.Linear(4, 3)
    for parameter in of.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = gradient(of)
    context = linear.context(of)
    AGEM().after_backward(of, context)
    method, _ = remembering(of, memory=0)
    method.after_backward(of, context)
    np.testing.assert_array_equal(gradient(of), before)


def test_the_memory_is_a_uniform_sample_of_the_stages_own_rows() -> None:
    counts: Counter[bytes] = Counter()
    of = nn.Linear(4, 3)
    context = linear.context(of, mixed=["second"])
    for seed in range(400):
        method = AGEM(memory=6)
        seeded = replace(context, generator=torch.Generator().manual_seed(seed))
        method.end_stage(seeded.stage, seeded)
        assert list(method.rows) == ["first"]
        kept = {example["features"].tobytes() for _, example in method.rows["first"]}
        assert len(kept) == 6
        counts.update(kept)
    features, _ = linear.points(context.tasks["first"])
    assert set(counts) == {row.tobytes() for row in features}
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_each_task_keeps_rows_once() -> None:
    of = nn.Linear(4, 3)
    method, _ = remembering(of, memory=4)
    first = method.rows["first"]
    both = linear.context(of, Stage(2, {"first": Share(0.5, 0.5), "second": Share(0.5, 0.5)}), seed=1)
    method.end_stage(both.stage, both)
    assert method.rows["first"] is first
    assert [task for task, _ in method.rows["second"]] == ["second"] * 4


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_trials_steps_are_projected(tmp_path: Path, accumulated: int) -> None:
    """Gradients before and after the method, and the batches they come of, in a real trial."""
    steps = 4
    before: list[np.ndarray] = []
    after: list[np.ndarray] = []
    references: list[np.ndarray] = []
    batches: list[tuple[torch.Tensor, torch.Tensor]] = []
    plain: list[np.ndarray] = []

    def mean_gradient(of: nn.Module) -> np.ndarray:
        values = [each.detach().clone().requires_grad_() for each in of.parameters()]
        losses = [
            functional.cross_entropy(features @ values[0].T + values[1], labels)
            for features, labels in batches[-accumulated:]
        ]
        found = torch.autograd.grad(torch.stack(losses).mean(), values)
        return linear.flat(dict(zip(("weight", "bias"), found, strict=True)))

    def look(of: nn.Module, context: Context) -> None:
        before.append(gradient(of))
        references.append(reference_gradient(of))
        plain.append(mean_gradient(of))

    first = linear.Witness(
        see=lambda of, batch, outputs, context: batches.append((batch["features"], batch["labels"])),
        gradients=look,
    )
    last = linear.Witness(gradients=lambda of, context: after.append(gradient(of)))
    linear.train(
        tmp_path / "trial",
        {"first": first, "agem": AGEM(memory=ALL, batch_size=ALL), "last": last},
        max_steps=steps,
        accumulate_grad_batches=accumulated,
    )
    assert len(before) == 2 * steps
    assert len(batches) == 2 * steps * accumulated
    np.testing.assert_allclose(before, plain, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(after[:steps], before[:steps])
    opposing = 0
    for given, found, reference in list(zip(before, after, references, strict=True))[steps:]:
        np.testing.assert_allclose(found, nearest(given, reference), atol=1e-4)
        opposing += given @ reference < 0
    assert opposing > 0


def test_it_goes_with_adapters_frozen_blocks_and_replay(llama_folder: Path, tmp_path: Path) -> None:
    trials: list[Mapping[str, Method]] = [
        {"lora": LoRA(rank=2), "agem": AGEM(), "replay": Replay(share=0.25)},
        {"freeze": Freeze(first=2), "agem": AGEM()},
    ]
    for number, methods in enumerate(trials):
        log = linear.train(
            tmp_path / str(number),
            methods,
            tiny.factory(llama_folder),
            tiny.text_tasks(),
            max_steps=3,
            precision="bf16-mixed",
            accumulate_grad_batches=2,
        )
        assert len(log) == 6
        method = methods["agem"]
        assert isinstance(method, AGEM)
        assert set(method.rows) == {"poem", "prose"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"memory": -1}, "memory must be at least 0 rows, but got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1 row, but got 0"),
    ],
)
def test_values_out_of_range_are_refused(parameters: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        AGEM(**parameters)
