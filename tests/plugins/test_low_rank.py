"""Trials with LoRA of many ranks on one base: each one's numbers are those of plain PEFT alone."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear8bitLt
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from myosotis.interfaces import Method
from myosotis.stacking import Branch, Stack, obstacle, shared_copy
from myosotis_plugins.methods.full import Full
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.low_rank import Batched, LowRank, Sliced, add_low_rank, low_rank
from tests.plugins import tiny

STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K"
SIZES = (2,) * 8
LENGTH = 24


@dataclass
class Trial:
    """What a trial's LoRA is."""

    rank: int
    alpha: float
    targets: str | list[str] = "all-linear"

    def config(self) -> LoraConfig:
        """Say to PEFT what the trial is."""
        return LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules=self.targets, task_type="CAUSAL_LM"
        )


def stories() -> Any:
    """Load a real small model."""
    if not STORIES.is_dir() and not os.environ.get("CI"):
        pytest.skip("the shared models are not here")
    return AutoModelForCausalLM.from_pretrained(STORIES).eval()


def quantized(kind: Any, folder: Path) -> Any:
    """Load a base of 8 or 4 bits."""
    return tiny.factory(tiny.save(tiny.llama(width=64, blocks=2), folder), kind).load([]).module.eval()


MAKERS: dict[str, tuple[Callable[[], Any], list[str], list[str]]] = {
    "llama": (tiny.llama, ["q_proj", "v_proj"], ["down_proj"]),
    "gpt2": (tiny.gpt2, ["c_attn"], ["mlp.c_proj", "c_fc"]),
    "opt": (tiny.opt, ["q_proj", "v_proj"], ["fc2"]),
    "stories260k": (stories, ["q_proj", "v_proj"], ["down_proj"]),
}


def trials_for(some: list[str], others: list[str]) -> list[Trial]:
    """Give eight trials whose ranks, alphas and targets differ."""
    return [
        Trial(1, 2),
        Trial(2, 1.7),
        Trial(4, 8, some),
        Trial(8, 16),
        Trial(16, 5, others),
        Trial(32, 64),
        Trial(48, 3),
        Trial(64, 128, some + others),
    ]


def initialize(module: nn.Module, seed: int) -> None:
    """Draw adapters of which neither half is zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            with torch.no_grad():
                parameter.normal_(std=0.1, generator=generator)


def adapters(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: each for name, each in module.named_parameters() if each.requires_grad}


def branch(base: nn.Module, trial: Trial, seed: int) -> tuple[Branch, nn.Module]:
    """Let our method adapt a branch."""
    made = Branch(base)
    model = tiny.model(made.module)
    adapted = LoRA(rank=trial.rank, alpha=trial.alpha, targets=trial.targets).adapt(
        model, tiny.context(model)
    )
    initialize(adapted, seed)
    assert obstacle(made, adapted) is None
    return made, adapted


def tokens(sizes: Sequence[int] = SIZES, seed: int = 0, vocabulary: int = tiny.VOCABULARY) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocabulary, (size, LENGTH), generator=generator) for size in sizes]


def mean_loss(logits: Tensor, ids: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


Result = tuple[Tensor, Tensor, dict[str, Tensor]]


def gradients(loss: Tensor, module: nn.Module) -> dict[str, Tensor]:
    named = adapters(module)
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True)
    return dict(zip(named, found, strict=True))


def alone(module: nn.Module, ids: Tensor) -> Result:
    logits = module(input_ids=ids, use_cache=False).logits
    loss = mean_loss(logits, ids)
    return logits.detach(), loss.detach(), gradients(loss, module)


def together(stack: Stack, modules: Sequence[nn.Module], rows: Sequence[Tensor]) -> list[Result]:
    with stack.rows([len(ids) for ids in rows]):
        logits = stack.module(input_ids=torch.cat(list(rows)), use_cache=False).logits
    pieces = logits.split([len(ids) for ids in rows])
    losses = [mean_loss(piece, ids) for piece, ids in zip(pieces, rows, strict=True)]
    total = torch.stack(losses).sum()
    return [
        (piece.detach(), loss.detach(), gradients(total, module) if len(ids) else {})
        for piece, loss, module, ids in zip(pieces, losses, modules, rows, strict=True)
    ]


def relative(given: Tensor, expected: Tensor) -> float:
    return float((given.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-30))


def flat(result: Result) -> Tensor:
    return torch.cat([each.flatten() for each in result[2].values()])


def assert_near(given: Result, expected: Result, tolerance: float) -> None:
    assert relative(given[0], expected[0]) <= tolerance
    assert relative(given[1], expected[1]) <= tolerance
    assert given[2].keys() == expected[2].keys() != set()
    # Single gradients may nearly cancel: all together as one vector.
    assert relative(flat(given), flat(expected)) <= 5 * tolerance


def assert_same(given: Result, expected: Result) -> None:
    assert torch.equal(given[0], expected[0])
    assert torch.equal(given[1], expected[1])
    assert all(torch.equal(given[2][name], wanted) for name, wanted in expected[2].items())


def plain_peft(base: nn.Module, trial: Trial, seed: int) -> nn.Module:
    """Adapt a copy with memory of its own by PEFT alone."""
    own = copy.deepcopy(base)
    made: nn.Module = get_peft_model(own, trial.config())
    initialize(made, seed)
    return made.eval()


# Copies


def copies(tmp_path: Path) -> dict[str, nn.Module]:
    bases = {name: MAKERS[name][0]() for name in ("llama", "gpt2", "opt")}
    return bases | {kind: quantized(kind, tmp_path / kind) for kind in ("8bit", "nf4")}


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "8bit", "nf4"])
@pytest.mark.parametrize("ran", [False, True])
def test_adapting_a_copy_leaves_the_base_as_it_was(name: str, ran: bool, tmp_path: Path) -> None:
    base = MAKERS[name][0]() if name in MAKERS else quantized(name, tmp_path)
    (ids,) = tokens([2])
    untouched = copy.deepcopy(base)
    with torch.no_grad():
        expected = untouched(input_ids=ids).logits
        if ran:
            base(input_ids=ids)
    modules = [(path, id(module)) for path, module in base.named_modules()]
    settings = [(id(each), each.requires_grad, each.data_ptr()) for each in base.parameters()]
    attributes = {path: set(vars(module)) for path, module in base.named_modules()}
    made = shared_copy(base)
    adapted = get_peft_model(made, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    initialize(adapted, 0)
    for module in (made, adapted):
        module.train()
    with torch.no_grad():
        assert not torch.equal(adapted.eval()(input_ids=ids).logits, expected)
        with adapted.disable_adapter():
            assert torch.equal(adapted(input_ids=ids).logits, expected)
        assert torch.equal(base(input_ids=ids).logits, expected)
        assert torch.equal(shared_copy(base)(input_ids=ids).logits, expected)
    assert [(path, id(module)) for path, module in base.named_modules()] == modules
    assert [(id(each), each.requires_grad, each.data_ptr()) for each in base.parameters()] == settings
    assert {path: set(vars(module)) for path, module in base.named_modules()} == attributes
    shared = {each.data_ptr() for each in base.parameters()} | {each.data_ptr() for each in base.buffers()}
    kept = [*made.parameters(), *made.buffers()]
    assert all(each.data_ptr() in shared for each in kept if not each.requires_grad)


# Against plain PEFT


@pytest.mark.parametrize("name", list(MAKERS))
def test_each_of_eight_trials_is_as_plain_peft_alone(name: str) -> None:
    make, *targets = MAKERS[name]
    base = make()
    trials = trials_for(*targets)
    rows = tokens()
    made = [branch(base, trial, seed) for seed, trial in enumerate(trials)]
    branches, modules = [each for each, _ in made], [each for _, each in made]
    fast = together(Stack(base, branches, [LoRA]), modules, rows)
    slow = together(Stack(base, branches), modules, rows)
    for seed, (trial, ids) in enumerate(zip(trials, rows, strict=True)):
        expected = alone(plain_peft(base, trial, seed), ids)
        assert_near(fast[seed], expected, 1e-6)
        assert_same(slow[seed], expected)


@pytest.mark.parametrize("name", ["llama", "gpt2", "stories260k"])
def test_a_trial_is_the_same_to_the_bit_in_every_stack(name: str) -> None:
    make, *targets = MAKERS[name]
    base = make()
    made = [branch(base, trial, seed) for seed, trial in enumerate(trials_for(*targets))]
    rows = tokens()
    whole = together(Stack(base, [each for each, _ in made], [LoRA]), [each for _, each in made], rows)
    for count in (1, 2, 4):
        for start in range(0, 8, count):
            some = slice(start, start + count)
            stack = Stack(base, [each for each, _ in made[some]], [LoRA])
            part = together(stack, [each for _, each in made[some]], rows[some])
            for given, expected in zip(part, whole[some], strict=True):
                assert_same(given, expected)


def test_a_trial_is_the_same_to_the_bit_whatever_the_others_have() -> None:
    base = tiny.llama()
    made = [branch(base, trial, seed) for seed, trial in enumerate(trials_for(["q_proj"], ["up_proj"]))]
    stack, modules = Stack(base, [each for each, _ in made], [LoRA]), [each for _, each in made]
    rows = tokens()
    before = together(stack, modules, rows)
    rows[3] = tokens(seed=1)[3]
    after = together(stack, modules, rows)
    for trial in {*range(8)} - {3}:
        assert_same(after[trial], before[trial])
    assert not torch.equal(after[3][1], before[3][1])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_sizes_may_differ_and_trials_may_leave(name: str) -> None:
    make, *targets = MAKERS[name]
    base = make()
    made = [branch(base, trial, seed) for seed, trial in enumerate(trials_for(*targets))]
    modules = [each for _, each in made]
    rows = tokens([2, 5, 0, 1, 3, 0, 4, 2])
    results = together(Stack(base, [each for each, _ in made], [LoRA]), modules, rows)
    for module, ids, given in zip(modules, rows, results, strict=True):
        if len(ids):
            assert_near(given, alone(module, ids), 1e-6)


def test_a_trial_left_alone_in_a_stack_trains_on() -> None:
    base = tiny.llama()
    made = [branch(base, trial, seed) for seed, trial in enumerate(trials_for(["q_proj"], ["up_proj"]))]
    stack, modules = Stack(base, [each for each, _ in made], [LoRA]), [each for _, each in made]
    (ids,) = tokens([2])
    rows = [ids if trial == 4 else ids[:0] for trial in range(8)]
    optimizer = torch.optim.AdamW(adapters(modules[4]).values(), lr=1e-2)
    losses = []
    for _ in range(10):
        _, loss, found = together(stack, modules, rows)[4]
        for name, parameter in adapters(modules[4]).items():
            parameter.grad = found[name]
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("kind", ["8bit", "nf4"])
def test_on_a_quantized_base(kind: str, tmp_path: Path) -> None:
    base = quantized(kind, tmp_path)
    made = [branch(base, trial, seed) for seed, trial in enumerate(trials_for(["q_proj"], ["up_proj"]))]
    branches, modules = [each for each, _ in made], [each for _, each in made]
    rows = tokens()
    expected = [alone(module, ids) for module, ids in zip(modules, rows, strict=True)]
    stack = Stack(base, branches, [LoRA], mixes=lambda layer: isinstance(layer, Linear8bitLt))
    for given, wanted in zip(together(stack, modules, rows), expected, strict=True):
        assert_near(given, wanted, 1e-6)
    # Without `mixes`, 8 bits look for outliers among the rows of all trials: as far off as quantization is.
    for given, wanted in zip(together(Stack(base, branches, [LoRA]), modules, rows), expected, strict=True):
        assert_near(given, wanted, 5e-2 if kind == "8bit" else 1e-6)


@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_as_near_to_float32_as_that_of_plain_peft(
    base_dtype: torch.dtype, autocast: bool
) -> None:
    base = tiny.llama().to(base_dtype)
    made = [branch(base, trial, seed) for seed, trial in enumerate(trials_for(["q_proj"], ["up_proj"]))]
    stack, modules = Stack(base, [each for each, _ in made], [LoRA]), [each for _, each in made]
    rows = tokens()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = together(stack, modules, rows)
        theirs = [alone(module, ids) for module, ids in zip(modules, rows, strict=True)]
    exact = [alone(copy.deepcopy(each).float(), ids) for each, ids in zip(modules, rows, strict=True)]
    for mine, peft, wanted in zip(ours, theirs, exact, strict=True):
        assert mine[0].dtype == peft[0].dtype
        assert {each.dtype for each in mine[2].values()} == {torch.float32}
        assert_near(mine, peft, 3e-2 if autocast else 1e-6)
        assert relative(mine[1], wanted[1]) <= 2e-3
    if autocast:
        for part in (lambda result: result[0].flatten(), flat):
            near = [relative(part(mine), part(wanted)) for mine, wanted in zip(ours, exact, strict=True)]
            usual = [relative(part(peft), part(wanted)) for peft, wanted in zip(theirs, exact, strict=True)]
            assert sum(near) <= 1.2 * sum(usual)


def test_evaluation_without_gradients() -> None:
    base = tiny.gpt2()
    made = [branch(base, trial, seed) for seed, trial in enumerate(trials_for(["c_attn"], ["c_fc"]))]
    stack = Stack(base, [each for each, _ in made], [LoRA])
    rows = tokens()
    with torch.inference_mode(), stack.rows(SIZES):
        logits = stack.module(input_ids=torch.cat(rows)).logits.split(SIZES)
        for (_, module), ids, given in zip(made, rows, logits, strict=True):
            assert relative(given, module(input_ids=ids).logits) <= 1e-6


# The operation


def pairs(specification: Sequence[tuple[int, float]], width: int, out: int) -> list[LowRank]:
    generator = torch.Generator().manual_seed(0)
    return [
        LowRank(
            nn.Parameter(torch.randn(rank, width, generator=generator)),
            nn.Parameter(torch.randn(out, rank, generator=generator)),
            scale,
        )
        for rank, scale in specification
    ]


@pytest.mark.parametrize("kind", [Sliced, Batched])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_operation_is_its_formula(kind: Any, dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("myosotis_plugins.methods.low_rank.Sliced", kind)
    # Runs of equal ones, another scale, other sizes, gaps before, between and after.
    additions = pairs([(3, 2.0), (3, 2.0), (3, 0.5), (3, 0.5), (3, 0.5), (2, 0.5), (2, 0.5)], 5, 4)
    slices = [slice(1, 3), slice(3, 5), slice(5, 7), slice(7, 9), slice(10, 12), slice(12, 12), slice(12, 15)]
    shape = (16, 5) if dims == 2 else (16, 3, 5)
    inputs = torch.randn(shape, requires_grad=True)
    weight = torch.randn(4, 5)
    given = add_low_rank(inputs, inputs @ weight.T, slices, additions)
    pieces = [inputs @ weight.T]
    for each, rows in zip(additions, slices, strict=True):
        mask = torch.zeros(16, *[1] * (dims - 1))
        mask[rows] = 1
        pieces.append(mask * (inputs @ each.down.T @ each.up.T) * each.scale)
    expected = torch.stack(pieces).sum(0)
    torch.testing.assert_close(given, expected)
    upstream = torch.randn_like(expected)
    present = [each for each, rows in zip(additions, slices, strict=True) if rows.stop > rows.start]
    wanted = [inputs, *(weight for each in present for weight in (each.down, each.up))]
    torch.testing.assert_close(
        torch.autograd.grad(given, wanted, upstream), torch.autograd.grad(expected, wanted, upstream)
    )


def test_equal_neighbours_are_one_run() -> None:
    from myosotis_plugins.methods.low_rank import find_runs

    downs = [torch.empty(rank, 1) for rank in (4, 4, 4, 8, 8, 8)]
    runs = find_runs([0, 6, 0, 6, 2, 6, 0, 6, 0, 6, 0, 3, 0], [1.0] * 6, downs)
    assert [(list(run.trials), run.tokens) for run in runs] == [
        ([0, 1], slice(0, 12)),
        ([2], slice(14, 20)),
        ([3, 4], slice(20, 32)),
        ([5], slice(32, 35)),
    ]


@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"lora_bias": True}, {"lora_dropout": 0.5}, {"target_modules": ["embed_tokens"]}],
)
def test_what_is_not_a_plain_product_is_left_to_peft(settings: dict[str, Any]) -> None:
    base = tiny.opt()
    made = [Branch(base) for _ in range(2)]
    arguments = {"r": 4, "target_modules": ["q_proj", "fc1"], "task_type": "CAUSAL_LM", **settings}
    modules = [get_peft_model(each.module, LoraConfig(**arguments)).eval() for each in made]
    for seed, module in enumerate(modules):
        initialize(module, seed)
    wrappers = [replacement.wrapper for replacement in made[0].replaced().values()]
    assert wrappers
    assert LoRA.stack(wrappers) is None
    rows = tokens([2, 3])
    results = together(Stack(base, made, [LoRA]), modules, rows)
    for given, module, ids in zip(results, modules, rows, strict=True):
        assert_near(given, alone(module, ids), 2e-6)


def test_a_disabled_or_merged_layer_is_not_read() -> None:
    _, module = branch(tiny.llama(), Trial(4, 8), 0)
    layer = module.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    found = low_rank(layer)
    assert found is not None
    assert (found.down.shape, found.up.shape, found.scale) == ((4, 16), (32, 4), 2.0)
    with module.disable_adapter():  # type: ignore[operator]
        assert low_rank(layer) is None
    layer.merge()  # type: ignore[operator]
    assert low_rank(layer) is None
    assert low_rank(nn.Linear(2, 2)) is None


# Whether a trial can be stacked, asked on an outline


@pytest.mark.parametrize(
    ("methods", "reason"),
    [
        ([LoRA(rank=2)], None),
        ([LoRA(rank=2, dropout=0.1)], "has dropout"),
        ([Full()], "trains, a parameter of the base"),
    ],
)
def test_an_outline_tells_what_can_be_stacked(
    methods: list[Method], reason: str | None, llama_folder: Path
) -> None:
    made = Branch(tiny.factory(llama_folder).outline([]).module)
    module = made.module
    for method in methods:
        model = tiny.model(module)
        module = method.adapt(model, tiny.context(model))
    found = obstacle(made, module)
    assert found is None if reason is None else reason in (found or "")
