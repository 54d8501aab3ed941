"""Frozen blocks served from a store: to the bit what they compute, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from myosotis.interfaces import Blocks
from myosotis.prefix import FrozenPrefix, elsewhere, frozen_prefix, in_whole_vectors, worthwhile
from myosotis.prefix_store import ENTRY, PrefixStore

WIDTH = 8
ROWS = 64
EXAMPLES = torch.randn(6 * ROWS, 3, generator=torch.Generator().manual_seed(1))
LIMIT = 1 << 20


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Block(nn.Module):
    """Counts its rows; gives hidden states, or a tuple of them and nothing."""

    def __init__(self, in_tuple: bool) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(0.2))
        self.in_tuple = in_tuple
        self.ran = 0

    def forward(self, hidden: Tensor, scale: Tensor | None = None, state: Any = None) -> Any:
        self.ran += len(hidden)
        hidden = hidden + self.layer(hidden) * (1 if scale is None else scale)
        return (hidden, None) if self.in_tuple else hidden


class Chain(nn.Module):
    """A stem, blocks and a head; `state` is handed to the blocks."""

    def __init__(self, in_tuple: bool = False) -> None:
        super().__init__()
        self.in_tuple = in_tuple
        self.head = nn.Linear(WIDTH, 2)
        self.stem = nn.Linear(3, WIDTH)
        self.blocks = nn.ModuleList(Block(in_tuple) for _ in range(4))

    def forward(self, points: Tensor, scale: Tensor | None = None, state: Any = None) -> Tensor:
        hidden = self.stem(points)
        for block in self.blocks:
            given = block(hidden, scale, state=state)
            hidden = given[0] if self.in_tuple else given
        scores: Tensor = self.head(hidden)
        return scores


def made(frozen: int = 2, in_tuple: bool = False) -> tuple[Chain, Blocks]:
    """Make a chain in training whose stem and first blocks are frozen and silent."""
    torch.manual_seed(0)
    module = Chain(in_tuple)
    blocks = Blocks((module.stem,), tuple(module.blocks))
    for each in (module.stem, *module.blocks[:frozen]):
        each.requires_grad_(False).eval()
    return module, blocks


def served(
    folder: Path, frozen: int = 2, in_tuple: bool = False, key: str = "", limit: int = LIMIT
) -> tuple[Chain, FrozenPrefix]:
    module, blocks = made(frozen, in_tuple)
    return module, FrozenPrefix(module, frozen_prefix(blocks), PrefixStore(folder, limit), key)


def train(
    module: Chain, prefix: AbstractContextManager[Any], batches: Sequence[Tensor]
) -> list[tuple[float, list[Tensor]]]:
    """Take a step on each batch; give losses and gradients."""
    torch.manual_seed(0)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    steps = []
    for batch in batches:
        optimizer.zero_grad()
        with prefix:
            scores = module(batch)
        loss = nn.functional.cross_entropy(scores, (batch[:, 0] > 0).long())
        loss.backward()  # type: ignore[no-untyped-call]
        steps.append((loss.item(), [each.grad.clone() for each in trained if each.grad is not None]))
        optimizer.step()
    return steps


def epochs(count: int) -> list[Tensor]:
    """Shuffle the examples into batches, epoch after epoch."""
    generator = torch.Generator().manual_seed(2)
    orders = [torch.randperm(len(EXAMPLES), generator=generator) for _ in range(count)]
    return [EXAMPLES[rows] for order in orders for rows in order.split(ROWS)]


def assert_same(one: Any, other: Any) -> None:
    assert [loss for loss, _ in one] == [loss for loss, _ in other]
    for (_, gradients), (_, others) in zip(one, other, strict=True):
        assert len(gradients) == len(others)
        assert all(torch.equal(*pair) for pair in zip(gradients, others, strict=True))


@pytest.mark.parametrize("frozen", [1, 3, 4])
@pytest.mark.parametrize("in_tuple", [False, True])
def test_losses_and_gradients_are_the_same_to_the_bit(tmp_path: Path, frozen: int, in_tuple: bool) -> None:
    plain, _ = made(frozen, in_tuple)
    module, prefix = served(tmp_path, frozen, in_tuple)
    assert_same(train(plain, nullcontext(), epochs(4)), train(module, prefix, epochs(4)))
    assert (prefix.computed, prefix.served) == (len(EXAMPLES), 3 * len(EXAMPLES))
    # Each row once, and one batch more to see that its rows may stand elsewhere.
    assert [block.ran for block in module.blocks[:frozen]] == [len(EXAMPLES) + ROWS] * frozen  # type: ignore[misc]


def test_another_instance_reads_what_the_first_kept(tmp_path: Path) -> None:
    train(*served(tmp_path), epochs(1))
    plain, _ = made()
    module, prefix = served(tmp_path)
    assert_same(train(plain, nullcontext(), epochs(2)), train(module, prefix, epochs(2)))
    assert prefix.computed == ROWS  # the first batch, held against what is kept


def test_within_the_bound(tmp_path: Path) -> None:
    plain, _ = made()
    module, prefix = served(tmp_path, limit=len(EXAMPLES) // 2 * (4 * WIDTH + ENTRY.size))
    assert_same(train(plain, nullcontext(), epochs(4)), train(module, prefix, epochs(4)))
    assert len(PrefixStore(tmp_path, 0)) == len(EXAMPLES) // 2
    assert prefix.computed > len(EXAMPLES)


def test_a_batch_with_one_new_row_is_computed_whole(tmp_path: Path) -> None:
    module, prefix = served(tmp_path)
    module.eval()
    known = EXAMPLES[: 2 * ROWS]
    mixed = torch.cat([known[2:ROWS], EXAMPLES[-1:], known[ROWS : ROWS + 1]])
    expected = module(mixed)
    with prefix:
        for batch in known.split(ROWS):
            module(batch)
        assert torch.equal(module(mixed), expected)
        assert (prefix.computed, prefix.served) == (3 * ROWS, 0)
        assert torch.equal(module(mixed), expected)
        assert (prefix.computed, prefix.served) == (3 * ROWS, ROWS)


def run(module: Chain, prefix: FrozenPrefix, *batches: Tensor, **values: Any) -> int:
    """Call the module on batches twice; give how many rows were served."""
    before = prefix.served
    with prefix:
        for _ in range(2):
            for batch in batches:
                module(batch, **values)
    return prefix.served - before


@pytest.mark.parametrize("rows", [ROWS, 1])
def test_every_input_counts(tmp_path: Path, rows: int) -> None:
    module, prefix = served(tmp_path)
    module.eval()
    batch = EXAMPLES[:ROWS]
    one, other = torch.ones(rows, 1), torch.full((rows, 1), 2.0)
    expected = [module(batch, scale) for scale in (None, one, other)]
    assert run(module, prefix, batch) == ROWS
    assert run(module, prefix, batch, scale=one) == ROWS
    with prefix:
        assert torch.equal(module(batch, scale=other), expected[2])
        assert prefix.served == 2 * ROWS
        for scale, wanted in zip((None, one, other), expected, strict=True):
            assert torch.equal(module(batch, scale=scale), wanted)
    assert prefix.served == 5 * ROWS


@pytest.mark.parametrize("given", [{"key": "other"}, {"frozen": 3}])
def test_what_stands_under_another_key_or_number_of_blocks_is_not_given(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    train(*served(tmp_path), epochs(1))
    module, prefix = served(tmp_path, **given)
    train(module, prefix, epochs(1))
    assert prefix.computed == len(EXAMPLES)


def test_other_weights_have_their_own(tmp_path: Path) -> None:
    train(*served(tmp_path), epochs(1))
    module, blocks = made()
    with torch.no_grad():
        module.stem.bias += 1
    prefix = FrozenPrefix(module, frozen_prefix(blocks), PrefixStore(tmp_path, LIMIT), "")
    train(module, prefix, epochs(1))
    assert prefix.computed == len(EXAMPLES)


def test_a_weight_that_changes_ends_serving(tmp_path: Path) -> None:
    module, prefix = served(tmp_path)
    assert run(module, prefix, EXAMPLES[:ROWS]) == ROWS
    with torch.no_grad():
        module.blocks[0].layer[0].weight += 1  # type: ignore[union-attr, index, operator]
    expected = module.eval()(EXAMPLES[:ROWS])
    with prefix:
        assert torch.equal(module(EXAMPLES[:ROWS]), expected)
    assert prefix.served == ROWS


def test_a_call_that_asks_for_more_is_computed(tmp_path: Path) -> None:
    module, prefix = served(tmp_path)
    assert run(module, prefix, EXAMPLES[:ROWS], state=True) == 0
    assert run(module, prefix, EXAMPLES[:ROWS], state=False) == ROWS


def unsteady(change: str) -> Callable[[Block], None]:
    def of(block: Block) -> None:
        forward = block.forward

        def changed(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            if change == "place":
                hidden = hidden + torch.arange(len(hidden))[:, None]
            elif change == "neighbours":
                hidden = hidden - hidden.mean(dim=0)
            elif change == "gradient":
                hidden = hidden + torch.zeros(WIDTH, requires_grad=True)
            elif change == "shape":
                return forward(hidden, *args, **kwargs)[None]
            elif change == "more":
                return forward(hidden, *args, **kwargs)[0], hidden
            return forward(hidden, *args, **kwargs)

        block.forward = changed  # type: ignore[method-assign]

    return of


@pytest.mark.parametrize("change", ["place", "neighbours", "gradient", "shape", "more"])
def test_blocks_that_give_more_than_a_function_of_each_row_are_not_served(
    tmp_path: Path, change: str
) -> None:
    module, prefix = served(tmp_path)
    assert run(module, prefix, *EXAMPLES.split(ROWS)) == len(EXAMPLES)
    module, blocks = made(in_tuple=change == "more")
    unsteady(change)(module.blocks[1])  # type: ignore[arg-type]
    if change == "shape":
        inner = module.blocks[2].forward
        module.blocks[2].forward = lambda hidden, *a, **k: inner(hidden[0], *a, **k)  # type: ignore[assignment]
    prefix = FrozenPrefix(module, frozen_prefix(blocks), PrefixStore(tmp_path / "other", LIMIT), "")
    assert run(module, prefix, *EXAMPLES.split(ROWS)) == 0
    assert len(PrefixStore(tmp_path / "other", LIMIT)) == 0


@pytest.mark.parametrize(
    ("shape", "threads", "expected"),
    [
        ((8, 128, 64), 1, True),
        ((8, 128, 64), 2, True),
        ((8, 128, 64), 4, False),  # 65,536 elements are shared by 2, 3 or 4 threads, by the layer's width
        ((8, 128, 128), 4, True),
        ((8, 37, 64), 1, False),
        ((64, 8), 1, True),
        ((8, 8, 64), 2, False),
        ((16, 8, 64), 2, True),
    ],
)
def test_what_is_in_whole_vectors(shape: tuple[int, ...], threads: int, expected: bool) -> None:
    torch.set_num_threads(threads)
    assert in_whole_vectors(torch.empty(shape)) is expected


def test_elementwise_functions_treat_all_places_alike_in_whole_vectors() -> None:
    def places_matter(count: int) -> bool:
        rows = torch.randn(50, 1, 43, generator=torch.Generator().manual_seed(0)).expand(50, count, 43)
        return any(len(nn.functional.silu(row.contiguous()).unique(dim=0)) > 1 for row in rows)

    assert not places_matter(64)
    assert in_whole_vectors(torch.empty(64, 43))
    assert not in_whole_vectors(torch.empty(65, 43))


@pytest.mark.parametrize("rows", range(1, 18))
def test_the_check_ties_all_places_together(rows: int) -> None:
    order = elsewhere(rows)
    assert len(order) == rows
    tied = {0}
    for _ in range(rows):
        tied |= {other for pair in enumerate(order) if tied & {*pair} for other in pair}
    assert tied == set(range(rows))
    assert len(set(order)) <= rows // 2 + (rows == 1)


def test_blocks_that_drop_out_are_not_served(tmp_path: Path) -> None:
    module, prefix = served(tmp_path)
    module.train()
    plain, _ = made()
    plain.train()
    assert_same(train(plain, nullcontext(), epochs(2)), train(module, prefix, epochs(2)))
    assert prefix.served == 0
    module.eval()
    assert run(module, prefix, EXAMPLES[:ROWS]) == ROWS


def test_an_object_handed_to_the_blocks_ends_the_look_up(tmp_path: Path) -> None:
    class Asking(Chain):
        def forward(self, points: Tensor, scale: Tensor | None = None, state: Any = None) -> Tensor:
            return super().forward(points, scale, {})

    module, prefix = served(tmp_path)
    module.__class__ = Asking
    assert run(module, prefix, EXAMPLES[:ROWS]) == 0


def test_what_is_kept_by_a_machine_that_rounds_otherwise_is_not_given(tmp_path: Path) -> None:
    module, prefix = served(tmp_path)
    train(module, prefix, epochs(1))
    data = (tmp_path / "data").read_bytes()
    kept = PrefixStore(tmp_path / "other", LIMIT)
    reading = PrefixStore(tmp_path, LIMIT)
    len(reading)
    for digest in list(reading._places):
        item = reading.read([digest])[0]
        assert item is not None
        kept.keep([(digest, item ^ 1)])
    assert (tmp_path / "other" / "data").read_bytes() != data
    plain, _ = made()
    module, prefix = served(tmp_path / "other")
    assert_same(train(plain, nullcontext(), epochs(2)), train(module, prefix, epochs(2)))
    assert prefix.served == 0


def test_the_module_is_as_before_afterwards(tmp_path: Path) -> None:
    module, prefix = served(tmp_path)
    own = module.blocks[0].forward = module.blocks[0].forward  # type: ignore[assignment]
    with prefix, pytest.raises(RuntimeError, match="mat1 and mat2"):
        module(torch.zeros(ROWS, 5))
    assert vars(module.blocks[0])["forward"] is own
    assert "forward" not in vars(module.blocks[1])
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


def test_the_prefix_ends_where_something_trains() -> None:
    for frozen in range(5):
        _, blocks = made(frozen)
        assert len(frozen_prefix(blocks)) == frozen
    module, blocks = made(4)
    module.blocks[2].adapter = nn.Linear(WIDTH, WIDTH)
    assert frozen_prefix(blocks) == Blocks((module.stem,), tuple(module.blocks[:2]))


def test_there_is_none_where_something_trains_before_it() -> None:
    module, blocks = made(3)
    module.stem.bias.requires_grad_(True)
    assert frozen_prefix(blocks) == Blocks()
    assert frozen_prefix(Blocks()) == Blocks()


@pytest.mark.parametrize(
    ("blocks", "rows", "examples", "needed", "limit", "expected"),
    [
        (0, 1000, 10, 1, 10, False),
        (1, 49, 10, 1, 10, False),
        (1, 50, 10, 1, 10, True),
        (2, 30, 10, 1, 10, True),
        (4, 20, 10, 10, 10, True),
        (4, 19, 10, 1, 10, False),
        (4, 1000, 10, 11, 10, False),
        (4, 10, 10, 1, 10, False),
    ],
)
def test_what_is_worth_keeping(
    blocks: int, rows: int, examples: int, needed: int, limit: int, expected: bool
) -> None:
    assert worthwhile(blocks, rows, examples, needed, limit) is expected
