"""Tokens that surprise the base are left out of the loss: which ones, and what is left, by NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn
from torch.nn import functional

from myosotis.errors import ConfigurationError
from myosotis.interfaces import (
    Batch,
    Columns,
    Context,
    Example,
    Loss,
    Method,
    Model,
    Objective,
    Rows,
)
from myosotis.testing import make_task
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.replay import Replay
from myosotis_plugins.methods.token_masking import TokenMasking
from myosotis_plugins.objectives.instruction import Instruction
from tests.plugins import linear, tiny
from tests.plugins.test_lwf import PROMPTS

IGNORED = -100


class TestTokenMasking(tiny.OnLlama):
    def make(self) -> Method:
        return TokenMasking(threshold=500)  # of a model that has learned nothing

    def make_neutral(self) -> Method:
        return TokenMasking(threshold=math.inf)


def token_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Give the cross-entropy of each token but the first; NaN where it is not trained on."""
    likelihoods = log_softmax(logits[:, :-1].astype(np.float64), axis=-1)
    following = labels[:, 1:]
    losses = -np.take_along_axis(likelihoods, np.maximum(following, 0)[..., None], axis=-1)[..., 0]
    return np.where(following == IGNORED, np.nan, losses)


def masked_mean(base: np.ndarray, tuned: np.ndarray, labels: np.ndarray, threshold: float) -> float:
    """Give a tuned model's mean loss over the tokens whose perplexity under the base is at most a threshold."""
    left = np.exp(token_losses(base, labels)) <= threshold
    return float(token_losses(tuned, labels)[left].mean()) if left.any() else 0.0


def looked_at(
    method: TokenMasking, module: nn.Module, rows: Sequence[dict[str, str]]
) -> tuple[Any, Any, Any]:
    """Give what the method makes of prompts, the batch, and the module's outputs."""
    objective = Instruction(length=64)
    model = Model(module, tiny.tokenizer())
    tasks = {"chat": make_task("chat", tiny.Texts([]), objective, {})}
    examples = objective.encode(rows, model)
    batch = objective.collate(examples, model)
    outputs = objective.forward(module, batch)
    context = replace(
        linear.context(nn.Linear(4, 3)),
        model=model,
        tasks=tasks,
        rows=[("chat", example) for example in examples],
    )
    return method.loss(module, batch, outputs, context), batch, outputs


@pytest.mark.parametrize("threshold", [50.0, 300.0, 1e4])
def test_the_loss_is_the_mean_over_what_is_left(threshold: float) -> None:
    module, method = tiny.llama(), TokenMasking(threshold)
    found, batch, outputs = looked_at(method, module, PROMPTS)
    with torch.no_grad():
        base = outputs.numpy()
    labels = batch["labels"].numpy()
    left = np.exp(token_losses(base, labels)) <= threshold
    assert left.sum() > 0
    assert found.item() == pytest.approx(masked_mean(base, base, labels, threshold), rel=1e-5)
    found.backward()
    # Once the model has moved, the base still says which tokens are left.
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    found, batch, outputs = looked_at(method, module, PROMPTS)
    tuned = outputs.detach().numpy()
    assert found.item() == pytest.approx(masked_mean(base, tuned, labels, threshold), rel=1e-5)


def test_gradients_come_of_what_is_left_alone() -> None:
    module, method = tiny.llama(), TokenMasking(300.0)
    _, batch, outputs = looked_at(method, module, PROMPTS)
    leaf = outputs.detach().requires_grad_()
    objective = Instruction(length=64)
    context = replace(
        linear.context(nn.Linear(4, 3)),
        tasks={"chat": make_task("chat", tiny.Texts([]), objective, {})},
        rows=[("chat", {})],
    )
    found = method.loss(module, batch, leaf, context)
    assert found is not None
    found.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    left = np.exp(token_losses(outputs.detach().numpy(), batch["labels"].numpy())) <= 300
    touched = leaf.grad.abs().sum(dim=-1).numpy() > 0
    np.testing.assert_array_equal(touched[:, :-1], left)
    assert not touched[:, -1].any()
    assert 0 < left.sum() < (batch["labels"] != IGNORED).sum()


def test_where_nothing_is_left_the_loss_is_0_and_so_is_its_gradient() -> None:
    module = tiny.llama()
    found, _, _ = looked_at(TokenMasking(threshold=1), module, PROMPTS)
    assert found.item() == 0
    found.backward()
    gradients = [parameter.grad for parameter in module.parameters()]
    assert all(each is not None and not each.any() for each in gradients)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "methods",
    [{}, {"lora": LoRA(rank=2), "replay": Replay(share=0.25)}, {"freeze": Freeze(first=2)}],
    ids=["full", "lora and replay", "freeze"],
)
def test_it_is_the_loss_that_a_trial_trains_on(
    llama_folder: Path, tmp_path: Path, methods: Mapping[str, Method], precision: str
) -> None:
    tasks = tiny.text_tasks()
    base = tiny.factory(llama_folder).load([task.objective for task in tasks.values()]).module.eval()
    wanted: list[float] = []

    def see(module: nn.Module, batch: Batch, outputs: Any, context: Context) -> None:
        with torch.no_grad():
            untrained = context.tasks[context.rows[0][0]].objective.forward(base, batch).float().numpy()
        tuned, labels = outputs.detach().float().numpy(), batch["labels"].numpy()
        wanted.append(masked_mean(untrained, tuned, labels, 200))

    log = linear.train(
        tmp_path / "trial",
        {**methods, "masking": TokenMasking(200), "witness": linear.Witness(see)},
        tiny.factory(llama_folder),
        tasks,
        max_steps=4,
        precision=precision,
    )
    np.testing.assert_allclose([entry["loss"] for entry in log], wanted, rtol=1e-4)


class TellTokens(Objective):
    """Tell something of each token itself: its labels are not of the next one."""

    metrics = ()

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        return [rows[index] for index in range(len(rows))]

    def tokens(self, example: Example) -> int:
        return 4

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        return {
            "features": torch.randn(len(examples), 4, 4),
            "labels": torch.tensor([[0, 1, 2, 0]] * len(examples)),
        }

    def forward(self, module: nn.Module, batch: Batch) -> Any:
        return module(batch["features"])

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        return functional.cross_entropy(outputs.flatten(0, 1), batch["labels"].flatten())

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        raise NotImplementedError


def test_an_objective_without_token_labels_is_refused() -> None:
    of = nn.Linear(4, 3)
    batch, outputs, context = linear.looking_at(linear.context(of), "first", range(4))
    with pytest.raises(ConfigurationError, match=r"predict next tokens.* TinyObjective is none"):
        TokenMasking().loss(of, batch, outputs, context)


def test_an_objective_whose_labels_are_not_of_the_next_token_is_refused() -> None:
    of, objective = nn.Linear(4, 3), TellTokens()
    batch = objective.collate([{}, {}], Model(of))
    context = replace(
        linear.context(of),
        tasks={"tell": make_task("tell", tiny.Texts([]), objective, {})},
        rows=[("tell", {})],
    )
    with pytest.raises(ConfigurationError, match="TellTokens is none"):
        TokenMasking().loss(of, batch, objective.forward(of, batch), context)


def test_two_that_replace_the_loss_are_refused(llama_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="one and other both replace the loss"):
        linear.train(
            tmp_path / "trial",
            {"one": TokenMasking(), "other": TokenMasking()},
            tiny.factory(llama_folder),
            tiny.text_tasks(),
            max_steps=1,
        )


@pytest.mark.parametrize("threshold", [0.5, math.nan])
def test_values_out_of_range_are_refused(threshold: float) -> None:
    with pytest.raises(ConfigurationError, match="threshold must be at least 1"):
        TokenMasking(threshold)
