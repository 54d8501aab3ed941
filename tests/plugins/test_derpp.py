"""Dark experience replay, step by step against a loop written here in plain torch."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from myosotis.batches import make_batch
from myosotis.curriculum import MixtureSampler, Part
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Method, Share
from myosotis.seeds import derive_seed
from myosotis.testing import MethodTestSuite, make_task, tiny_tasks
from myosotis_plugins.methods.derpp import DERPP
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.replay import Replay
from myosotis_plugins.objectives.instruction import Instruction
from tests.plugins import linear, tiny
from tests.plugins.test_lwf import PROMPTS

STEPS = 12
BATCH_SIZE = 4


class TestDERPP(MethodTestSuite):
    def make(self) -> Method:
        return DERPP(buffer=5, batch_size=3)

    def make_neutral(self) -> Method:
        return DERPP(alpha=0, beta=0)


class TestDERPPOnLlama(tiny.OnLlama):
    def make(self) -> Method:
        return DERPP(alpha=0.5, buffer=4, batch_size=2)


@dataclass
class Loop:
    """The algorithm of the paper, with the random numbers that a trial with seed 0 draws."""

    alpha: float
    beta: float
    size: int
    draws: int
    buffer: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    seen: int = 0

    def train(self) -> tuple[list[float], nn.Module]:
        module = linear.Linear().load([]).module
        losses: list[float] = []
        for stage, task in enumerate(tiny_tasks().values(), 1):
            self.generator = torch.Generator().manual_seed(derive_seed(0, "methods", stage))
            features, labels = (torch.tensor(each).float() for each in linear.points(task))
            parts = [Part(task.name, len(features), Share(1, 1))]
            order = MixtureSampler(parts, BATCH_SIZE, STEPS, derive_seed(0, "order", stage))
            optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0)
            for rows in order:
                chosen = [index for _, index in rows]
                loss = self.loss(module, features[chosen], labels[chosen].argmax(dim=1))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.item())
        return losses, module

    def loss(self, module: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
        logits = module(features)
        loss = functional.cross_entropy(logits, labels)
        if self.buffer:
            old, _, earlier = self.drawn()
            loss = loss + self.alpha * ((module(old) - earlier) ** 2).mean()
            old, their_labels, _ = self.drawn()
            loss = loss + self.beta * functional.cross_entropy(module(old), their_labels)
        for item in zip(features, labels, logits.detach(), strict=True):
            self.seen += 1
            if len(self.buffer) < self.size:
                self.buffer.append(item)
            else:
                place = int(torch.randint(self.seen, (1,), generator=self.generator))
                if place < self.size:
                    self.buffer[place] = item
        return loss

    def drawn(self) -> list[Tensor]:
        chosen = torch.randperm(len(self.buffer), generator=self.generator)[: self.draws]
        return [torch.stack(each) for each in zip(*[self.buffer[index] for index in chosen], strict=True)]


def test_a_trial_is_the_papers_loop(tmp_path: Path) -> None:
    method = DERPP(alpha=0.7, beta=0.4, buffer=6, batch_size=3)
    log = linear.train(tmp_path / "trial", {"derpp": method}, max_steps=STEPS, batch_size=BATCH_SIZE)
    loop = Loop(0.7, 0.4, 6, 3)
    losses, _ = loop.train()
    assert len(losses) == 2 * STEPS
    np.testing.assert_allclose([entry["loss"] for entry in log], losses, rtol=1e-5)
    kept = [logits[0] for _, logits in method.buffer.items]
    np.testing.assert_allclose(
        torch.stack(kept), torch.stack([each for _, _, each in loop.buffer]), rtol=1e-4
    )
    assert method.buffer.offered == loop.seen == 2 * STEPS * BATCH_SIZE


def looked_at(method: DERPP, of: nn.Module, rows: range, task: str = "first") -> Tensor | None:
    batch, outputs, seen = linear.looking_at(linear.context(of), task, rows)
    return method.penalty(of, batch, outputs, seen)


def test_der_compares_logits_alone() -> None:
    torch.manual_seed(0)
    of = nn.Linear(4, 3)
    method = DERPP(alpha=2, beta=0, batch_size=100)
    assert looked_at(method, of, range(8)) is None  # nothing is kept yet
    before = of(torch.tensor(linear.points(tiny_tasks()["first"])[0][:8]).float())
    with torch.no_grad():
        of.weight += torch.randn_like(of.weight)
    after = of(torch.tensor(linear.points(tiny_tasks()["first"])[0][:8]).float())
    found = looked_at(method, of, range(8, 12))
    assert found is not None
    wanted = 2 * (after - before).square().mean().item()
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_a_row_of_two_epochs_is_compared_with_the_logits_of_both() -> None:
    torch.manual_seed(0)
    of = nn.Linear(4, 3)
    method = DERPP(alpha=1, beta=0, batch_size=100)
    points = torch.tensor(linear.points(tiny_tasks()["first"])[0][:8]).float()
    earlier = []
    context = linear.context(of)
    batch, _, seen = linear.looking_at(context, "first", range(8))
    for _ in range(2):
        earlier.append(of(points).detach())
        method.penalty(of, batch, of(batch["features"]), seen)
        with torch.no_grad():
            of.weight += torch.randn_like(of.weight)
    assert len({id(example) for (_, example), _ in method.buffer.items}) == 8
    found = looked_at(method, of, range(8, 12))
    assert found is not None
    wanted = np.mean([(of(points) - each).square().mean().item() for each in earlier])
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_the_labels_term_is_the_loss_on_the_rows_that_are_kept() -> None:
    torch.manual_seed(0)
    of = nn.Linear(4, 3)
    method = DERPP(alpha=0, beta=3, batch_size=100)
    looked_at(method, of, range(8))
    found = looked_at(method, of, range(8, 12))
    features, labels = linear.points(tiny_tasks()["first"])
    likelihoods = np.log(
        linear.softmax(features[:8] @ of.weight.detach().numpy().T + of.bias.detach().numpy())
    )
    assert found is not None
    assert found.item() == pytest.approx(-3 * (likelihoods * labels[:8]).sum(axis=1).mean(), rel=1e-4)


def prompts() -> tuple[Any, Any, Any]:
    """Give the context, and the examples, of prompts of different lengths."""
    task = make_task("chat", tiny.Texts([]), Instruction(length=64), {})
    model = tiny.model()
    context = replace(linear.context(model.module), tasks={"chat": task}, model=model)
    examples = task.objective.encode(PROMPTS, model)

    def made(rows: Any) -> Any:
        return make_batch([(task, example) for _, example in rows], model)

    return replace(context, make_batch=made), task, examples


def test_logits_are_kept_without_padding_and_compared_under_any() -> None:
    context, task, examples = prompts()
    method = DERPP(alpha=1, beta=0, batch_size=1)
    module = context.model.module
    [group] = context.make_batch([("chat", each) for each in examples]).groups
    with torch.no_grad():
        outputs = group.objective.forward(module, group.batch)
        method.penalty(module, group.batch, outputs, replace(context, rows=group.rows))
        for _ in range(6):  # rows drawn alone have other padding than they had
            again = method.penalty(module, group.batch, outputs, replace(context, rows=()))
            assert again is not None
            assert again.item() < 1e-8
    lengths = [task.objective.tokens(example) for example in examples]
    assert [logits.shape for _, logits in method.buffer.items] == [
        (each, tiny.VOCABULARY) for each in lengths
    ]


def test_a_checkpoint_takes_tokens_by_vocabulary_by_four_bytes() -> None:
    context, task, examples = prompts()
    method = DERPP(buffer=2)
    [group] = context.make_batch([("chat", each) for each in examples]).groups
    outputs = group.objective.forward(context.model.module, group.batch)
    method.penalty(context.model.module, group.batch, outputs, replace(context, rows=group.rows))
    kept = [task.objective.tokens(example) for (_, example), _ in method.buffer.items]
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    assert len(kept) == 2
    assert sum(kept) * tiny.VOCABULARY * 4 < file.tell() < sum(kept) * tiny.VOCABULARY * 4 + 10_000


def test_a_row_does_not_take_its_batch_along() -> None:
    model, task = tiny.model(), tiny.text_task("poem", tiny.POEM, 8)
    rows = task.dataset.split("train")
    assert rows is not None
    kept = [("poem", example) for example in task.objective.encode(rows, model)]
    batch = task.objective.collate([example for _, example in kept], model)
    method = DERPP(buffer=1)
    context = replace(linear.context(model.module), rows=kept)
    assert method.penalty(model.module, batch, task.objective.forward(model.module, batch), context) is None
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    assert len(kept) > 10
    assert file.tell() < 2 * 8 * tiny.VOCABULARY * 4


def test_a_draw_of_several_objectives_is_weighted_by_rows() -> None:
    model = tiny.model()
    tasks = {"long": tiny.text_task("long", tiny.POEM, 16), "short": tiny.text_task("short", tiny.PROSE, 4)}
    kept: list[Any] = []
    for name, count in (("long", 1), ("short", 3)):
        rows = tasks[name].dataset.split("train")
        assert rows is not None
        kept += [(name, example) for example in tasks[name].objective.encode(rows, model)[:count]]
    plain = linear.context(model.module)
    context = replace(
        plain,
        tasks=tasks,
        make_batch=lambda rows: make_batch([(tasks[name], each) for name, each in rows], model),
    )
    method = DERPP(alpha=1, beta=0, batch_size=4)
    for group in context.make_batch(kept).groups:
        outputs = torch.zeros_like(group.objective.forward(model.module, group.batch))
        look = replace(context, rows=group.rows)
        method.penalty(model.module, group.batch, outputs, look)
    found = method.penalty(model.module, {}, None, replace(context, rows=()))
    squares = []
    for _, example in kept:
        logits = model.module(input_ids=torch.tensor(example["input_ids"])[None]).logits
        squares.append(logits.square().mean().item())
    assert found is not None
    assert found.item() == pytest.approx(np.mean(squares), rel=1e-4)


def test_it_goes_with_adapters_frozen_blocks_and_replay(llama_folder: Path, tmp_path: Path) -> None:
    trials: list[Mapping[str, Method]] = [
        {"lora": LoRA(rank=2, dropout=0.1), "derpp": DERPP(), "replay": Replay(share=0.25)},
        {"freeze": Freeze(first=2), "derpp": DERPP()},
    ]
    tasks = {"poem": tiny.text_task("poem", tiny.POEM, 16), "prose": tiny.text_task("prose", tiny.PROSE, 8)}
    for number, methods in enumerate(trials):
        log = linear.train(
            tmp_path / str(number),
            methods,
            tiny.factory(llama_folder),
            tasks,
            max_steps=3,
            precision="bf16-mixed",
        )
        assert ["penalty/derpp" in entry for entry in log] == [False] + [True] * 5


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": -1}, "alpha must be at least 0, but got -1"),
        ({"beta": -1}, "beta must be at least 0, but got -1"),
        ({"buffer": 0}, "buffer must be at least 1 row, but got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1 row, but got 0"),
    ],
)
def test_values_out_of_range_are_refused(parameters: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DERPP(**parameters)
