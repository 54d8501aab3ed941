"""Which modules of an adapted model run without dropout."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest
import torch
from torch import Tensor, nn

from myosotis.adaptation import Adapted, adapt, frozen_names
from myosotis.interfaces import Blocks, Context, Method, Model, Stage

BEFORE = {"embedding", "drop"}


class Body(nn.Module):
    """An embedding with a dropout, two blocks, and a norm that is registered before them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.drop = nn.Dropout(0.5)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.drop(self.embedding(ids))
        # A dropout of the body's own, as some decoders have.
        hidden = nn.functional.dropout(hidden, 0.5, self.training)
        for block in self.blocks:
            hidden = block(hidden)
        normed: Tensor = self.norm(hidden)
        return normed


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = Body()
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 5))

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(ids))
        return scores


def blocks(module: nn.Module) -> Blocks:
    assert isinstance(module, Whole)
    return Blocks((module.body.embedding, module.body.drop), tuple(module.body.blocks))


class Frozen(Method):
    """Freeze parameters by the beginning of their names."""

    def __init__(self, *beginnings: str) -> None:
        self.beginnings = beginnings

    def frozen(self, model: Model) -> Collection[str]:
        return [name for name, _ in model.module.named_parameters() if name.startswith(self.beginnings)]


def adapted(*frozen: str) -> Adapted:
    torch.manual_seed(0)
    model = Model(Whole())
    methods: Mapping[str, Method] = {"frozen": Frozen(*frozen)}
    context = Context(
        model=model,
        tasks={},
        stage=Stage(0, {}),
        step=0,
        steps=0,
        generator=torch.Generator(),
        frozen=frozen_names(model, methods),
        outline=False,
        training_loss=lambda module, batch: torch.zeros(()),
        training_batches=lambda size: iter(()),
    )
    made = adapt(model, methods, context, trains=True, blocks=blocks)
    made.train()
    return made


def training(made: Adapted) -> set[str]:
    return {name for name, module in made.model.module.named_modules() if module.training}


FIRST = ("body.embedding", "body.blocks.0")
HEAD = {"head", "head.0", "head.1"}
LAST = {"body.blocks.1", "body.blocks.1.0", "body.blocks.1.1", "body.norm"}


@pytest.mark.parametrize(
    ("frozen", "count", "expected"),
    [
        (FIRST, 1, HEAD | LAST),
        ((*FIRST, "body.blocks"), 2, HEAD | {"body.norm"}),
        ((*FIRST, "head"), 1, LAST),
        # Nothing is served: a dropout belongs to the nearest module around it that has parameters.
        (("body.embedding",), 0, None),
        (("body.blocks.0",), 0, None),
    ],
)
def test_what_is_silent(frozen: tuple[str, ...], count: int, expected: set[str] | None) -> None:
    made = adapted(*frozen)
    assert len(made.prefix) == count
    if expected is None:
        inside = {f"{each}.{part}" for each in frozen for part in ("0", "1")}
        names = {name for name, _ in made.model.module.named_modules()}
        expected = names - set(frozen) - inside
    assert training(made) == expected


def test_a_frozen_beginning_draws_no_random_numbers() -> None:
    made = adapted(*FIRST)
    seen: list[Tensor] = []
    made.model.module.body.blocks[1].register_forward_pre_hook(  # type: ignore[union-attr, index]
        lambda module, args: seen.append(args[0])
    )
    first, second = (made.model.module(torch.arange(5)) for _ in range(2))
    assert torch.equal(*seen)
    assert not torch.equal(first, second)
