"""Distillation from the model before the stage: the divergence, the teacher, and which predictions count."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import nn

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Batch, Context, Method
from myosotis.testing import MethodTestSuite
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.lwf import LwF
from myosotis_plugins.methods.predictions import divergence, own_logits, own_tokens, row_logits
from myosotis_plugins.methods.replay import Replay
from myosotis_plugins.objectives.instruction import Instruction
from myosotis_plugins.objectives.language_modeling import LanguageModeling
from tests.plugins import linear, tiny

STEPS = 4


class TestLwF(MethodTestSuite):
    def make(self) -> Method:
        return LwF()

    def make_neutral(self) -> Method:
        return LwF(strength=0)


class TestLwFOnLlama(tiny.OnLlama):
    def make(self) -> Method:
        return LwF(temperature=1)


def mean_divergence(teacher: np.ndarray, student: np.ndarray, temperature: float = 1.0) -> float:
    """Give KL(teacher ‖ student) by SciPy, a mean over all but the last dimension."""
    apart = rel_entr(
        softmax(teacher.astype(np.float64) / temperature, axis=-1),
        softmax(student.astype(np.float64) / temperature, axis=-1),
    )
    return float(apart.sum(axis=-1).mean())


def test_divergence_is_scipys_and_its_gradient_the_closed_form() -> None:
    generator = np.random.default_rng(0)
    teacher, student = generator.normal(size=(2, 6, 5)) * 3
    logits = torch.tensor(student, requires_grad=True)
    found = divergence(logits, torch.tensor(teacher), temperature=2)
    assert found.item() == pytest.approx(mean_divergence(teacher, student, 2), rel=1e-9)
    found.backward()  # type: ignore[no-untyped-call]
    gradient = (softmax(student / 2, axis=-1) - softmax(teacher / 2, axis=-1)) / 2 / 6
    np.testing.assert_allclose(logits.grad, gradient, rtol=1e-6)  # type: ignore[arg-type]


def test_the_first_stage_has_no_teacher() -> None:
    of = nn.Linear(4, 3)
    batch, outputs, context = linear.looking_at(linear.context(of), "first", range(4))
    method = LwF()
    method.begin_stage(context.stage, context)
    assert method.penalty(of, batch, outputs, context) is None
    assert not method.earlier.taken


def test_the_teacher_is_the_model_when_the_stage_began() -> None:
    torch.manual_seed(0)
    of = nn.Linear(4, 3)
    context = linear.context(of)
    method = LwF(strength=3, temperature=2)
    method.end_stage(context.stage, context)
    method.begin_stage(context.stage, context)
    before = linear.numbers(of)
    with torch.no_grad():
        for parameter in of.parameters():
            parameter += torch.randn_like(parameter)
    after = linear.numbers(of)
    batch, outputs, seen = linear.looking_at(context, "first", range(6))
    found = method.penalty(of, batch, outputs, seen)
    assert found is not None
    features = linear.points(context.tasks["first"])[0][:6]
    teacher, student = (features @ values["weight"].T + values["bias"] for values in (before, after))
    assert found.item() == pytest.approx(3 * mean_divergence(teacher, student, 2), rel=1e-4)
    method.end_stage(context.stage, context)
    method.begin_stage(context.stage, context)
    again = method.penalty(of, batch, outputs, seen)
    assert again is not None
    assert again.item() == pytest.approx(0, abs=1e-6)  # the next stage has a teacher of its own


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("adapter", [True, False])
def test_it_is_in_the_loss_of_a_trial_with_a_teacher_of_its_own(
    llama_folder: Path, tmp_path: Path, precision: str, adapter: bool
) -> None:
    """The teacher is held against a deep copy made when the stage began."""
    copies: list[nn.Module] = []
    wanted: list[float] = []

    def see(module: nn.Module, batch: Batch, outputs: Any, context: Context) -> None:
        if context.stage.index == 2:
            objective = context.tasks[context.rows[0][0]].objective
            with torch.no_grad():
                teacher = objective.forward(copies[-1], batch)
            seen = (teacher.float().cpu().numpy(), outputs.detach().float().cpu().numpy())
            wanted.append(mean_divergence(*seen, 2))

    def begin(context: Context) -> None:
        copies.append(copy.deepcopy(context.model.module).eval())

    methods: dict[str, Method] = {"lora": LoRA(rank=2)} if adapter else {}
    methods |= {"lwf": LwF(strength=2), "witness": linear.Witness(see, begin)}
    log = linear.train(
        tmp_path / "trial",
        methods,
        tiny.factory(llama_folder),
        tiny.text_tasks(),
        max_steps=STEPS,
        precision=precision,
    )
    witness = methods["witness"]
    assert isinstance(witness, linear.Witness)
    found = [entry["penalty/lwf"] for entry in log[STEPS:]]
    assert all("penalty/lwf" not in entry for entry in log[:STEPS])
    np.testing.assert_allclose(found, 2 * np.array(wanted), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
        [entry["loss"] for entry in log],
        np.array(witness.losses) + np.array([0.0] * STEPS + found),
        rtol=1e-5,
    )
    assert found[-1] > 1e-3


def test_a_mixed_batch_is_weighted_by_rows(llama_folder: Path, tmp_path: Path) -> None:
    """Replayed rows of another objective are a group of their own; each group asks its own objective."""
    tasks = {
        "poem": tiny.text_task("poem", tiny.POEM, 16),
        "prose": tiny.text_task("prose", tiny.PROSE, 8),
    }
    log = linear.train(
        tmp_path / "trial",
        {"lwf": LwF(), "replay": Replay(share=0.5), "freeze": Freeze(first=1)},
        tiny.factory(llama_folder),
        tasks,
        max_steps=STEPS,
    )
    assert log[-1]["penalty/lwf"] > 0


# Which predictions count


PROMPTS = [
    {"prompt": "say a word", "response": "rose"},
    {"prompt": "say", "response": "violet and blue"},
    {"prompt": "now say another long one", "response": "no"},
]


def test_padding_does_not_count() -> None:
    model, objective = tiny.model(), Instruction(length=64)
    examples = objective.encode(PROMPTS, model)
    lengths = [objective.tokens(example) for example in examples]
    assert len(set(lengths)) == 3
    batch = objective.collate(examples, model)
    with torch.no_grad():
        outputs = objective.forward(model.module, batch)
    found = own_logits(outputs, batch)
    assert len(found) == sum(lengths)
    alone = []
    for number, example in enumerate(examples):
        single = objective.collate([example], model)
        with torch.no_grad():
            logits = objective.forward(model.module, single)[0]
        assert len(logits) == lengths[number]
        alone.append(logits)
        np.testing.assert_allclose(row_logits(outputs, batch, number), logits, atol=1e-4)
    np.testing.assert_allclose(found, torch.cat(alone), atol=1e-4)


def test_padding_of_isolated_documents_does_not_count() -> None:
    model, objective = tiny.model(), LanguageModeling(length=24, packing="isolated")
    examples = objective.encode([{"text": text} for text in ("ab", *tiny.POEM, "to")], model)
    lengths = [objective.tokens(example) for example in examples]
    batch = objective.collate(examples, model)
    mask = own_tokens(batch)
    assert mask is not None
    assert mask.sum(dim=1).tolist() == lengths
    assert min(lengths) < mask.shape[1] == 24
    wanted = [[True] * length + [False] * (24 - length) for length in lengths]
    assert mask.tolist() == wanted


def test_joined_blocks_have_no_padding() -> None:
    model, objective = tiny.model(), LanguageModeling(length=8)
    batch = objective.collate(objective.encode([{"text": text} for text in tiny.POEM], model)[:3], model)
    outputs = objective.forward(model.module, batch)
    assert own_tokens(batch) is None
    assert torch.equal(own_logits(outputs, batch), outputs.reshape(24, -1))
    assert torch.equal(row_logits(outputs, batch, 1), outputs[1])


def test_rows_have_one_prediction_each_whatever_mask_their_tokens_have() -> None:
    outputs = torch.arange(6.0).reshape(2, 3)
    batch = {"attention_mask": torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])}
    assert torch.equal(own_logits(outputs, batch), outputs)
    assert torch.equal(row_logits(outputs, batch, 1), outputs[1:])


def test_outputs_of_all_heads_count() -> None:
    outputs = torch.arange(12.0).reshape(2, 3, 2)
    assert torch.equal(own_logits(outputs, {"labels": torch.zeros(2, 3)}), outputs.reshape(6, 2))


def test_outputs_of_transformers_are_taken_by_their_logits() -> None:
    model = tiny.model()
    ids = torch.arange(8)[None]
    outputs = model.module(input_ids=ids)
    assert torch.equal(own_logits(outputs, {"input_ids": ids}), outputs.logits[0])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"strength": -1}, "strength must be at least 0, but got -1"),
        ({"temperature": 0}, "temperature must be greater than 0, but got 0"),
    ],
)
def test_values_out_of_range_are_refused(parameters: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        LwF(**parameters)
