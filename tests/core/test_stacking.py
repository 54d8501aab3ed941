"""Branches of one base, and the stack that runs them together: against each branch alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from myosotis.errors import PluginError
from myosotis.interfaces import Method, StackedOperation
from myosotis.stacking import Branch, Replacement, Stack, obstacle, shared_copy
from tests.toy import MLP

WIDTH = 16


class Shifted(nn.Module):
    """A wrapper as third parties write them: it calls its base once on its own input."""

    def __init__(self, base: nn.Linear, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.base = base
        self.shift = nn.Parameter(torch.randn(base.in_features, base.out_features, generator=generator))
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        result: Tensor = torch.tanh(self.base(inputs)) + inputs @ self.shift
        return result


class Stretched(Shifted):
    """One that asks its base for something else than its own input."""

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.base(2 * inputs) + self.base(inputs) @ torch.ones(self.base.out_features, 1)
        return result


class Instead(Shifted):
    """One that does not ask its base at all."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.shift


def mlp() -> MLP:
    torch.manual_seed(0)
    return MLP(WIDTH).eval()


def wrapped(base: nn.Module, places: Sequence[int], seed: int, kind: type[Shifted] = Shifted) -> Branch:
    branch = Branch(base)
    branch.module.requires_grad_(False)
    for place in places:
        layer = branch.module[place]  # type: ignore[index]
        branch.module[place] = kind(layer, seed + place)  # type: ignore[operator]
    return branch


def points(sizes: Sequence[int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 2, generator=generator) for size in sizes]


def own_parameters(branch: Branch) -> list[nn.Parameter]:
    return [parameter for parameter in branch.module.parameters() if parameter.requires_grad]


def alone(branch: Branch, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
    outputs = branch.module(rows)
    return outputs.detach(), list(torch.autograd.grad(outputs.square().sum(), own_parameters(branch)))


def together(
    stack: Stack, branches: Sequence[Branch], rows: Sequence[Tensor]
) -> list[tuple[Tensor, list[Tensor]]]:
    with stack.rows([len(each) for each in rows]):
        outputs = stack.module(torch.cat(list(rows))).split([len(each) for each in rows])
    losses = torch.stack([each.square().sum() for each in outputs])
    results = []
    for branch, output in zip(branches, outputs, strict=True):
        gradients = torch.autograd.grad(
            losses.sum(), own_parameters(branch), retain_graph=True, allow_unused=True
        )
        results.append((output.detach(), list(gradients)))
    return results


def assert_as_alone(branches: Sequence[Branch], rows: Sequence[Tensor], stack: Stack) -> None:
    for branch, own, (outputs, gradients) in zip(
        branches, rows, together(stack, branches, rows), strict=True
    ):
        if len(own):
            expected, wanted = alone(branch, own)
            torch.testing.assert_close(outputs, expected, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(gradients, wanted, rtol=1e-6, atol=1e-5)


# Copies


class Odd(nn.Parameter):
    pass


class Tangled(nn.Module):
    """Everything that a copy of modules can get wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.recurrent = nn.LSTM(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.once, self.listed = nn.Linear(4, 4), [nn.Linear(4, 4)]
        self.twice = self.once
        self.odd = Odd(torch.ones(2))
        self.hidden = torch.ones(3)
        self.settings = {"names": ["a"]}
        self.once.register_forward_hook(self.note)

    def note(self, module: nn.Module, inputs: object, outputs: object) -> None:
        self.noted = module


def test_a_copy_is_the_same_memory_in_other_objects() -> None:
    original = Tangled()
    copied = shared_copy(original)
    for (name, mine), (other, theirs) in zip(
        copied.state_dict(keep_vars=True).items(), original.state_dict(keep_vars=True).items(), strict=True
    ):
        assert name == other
        assert mine.data_ptr() == theirs.data_ptr()
        assert (mine is theirs) == isinstance(mine, Odd)
    assert isinstance(copied, Tangled)
    assert copied.hidden.data_ptr() == original.hidden.data_ptr()
    assert copied.head.weight is copied.embedding.weight
    assert copied.twice is copied.once is not original.once
    assert copied.recurrent._flat_weights[0] is copied.recurrent.weight_ih_l0


def test_what_refers_to_a_module_refers_to_its_copy() -> None:
    original = Tangled()
    copied = shared_copy(original)
    copied.once(torch.zeros(1, 4))
    assert copied.noted is copied.once
    assert not hasattr(original, "noted")


def test_changing_a_copy_leaves_the_original() -> None:
    original = Tangled()
    before = copy.deepcopy(original)
    copied = shared_copy(original)
    copied.requires_grad_(False)
    copied.once = nn.Linear(4, 2)
    copied.extra = nn.Linear(1, 1)
    copied.settings["names"].append("b")
    copied.recurrent.register_forward_pre_hook(lambda module, inputs: None)
    copied.train(False)
    assert {name for name, _ in original.named_modules()} == {name for name, _ in before.named_modules()}
    plain = [parameter for parameter in original.parameters() if not isinstance(parameter, Odd)]
    assert all(parameter.requires_grad for parameter in plain)
    assert original.settings == {"names": ["a"]}
    assert not original.recurrent._forward_pre_hooks
    assert all(module.training for module in original.modules())
    copied.head.requires_grad_(True)
    copied.head(torch.ones(4)).sum().backward()
    assert copied.head.weight.grad is not None
    assert original.head.weight.grad is None


def test_a_copy_of_an_outline_stays_on_meta() -> None:
    with torch.device("meta"):
        outline = MLP(WIDTH)
    assert {each.device.type for each in shared_copy(outline).parameters()} == {"meta"}


def test_what_trains_gets_its_own_memory() -> None:
    base = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = copy.deepcopy(base.state_dict())
    branch = Branch(base)
    branch.module[2].requires_grad_(False)  # type: ignore[index]
    branch.own_what_trains()
    optimizer = torch.optim.SGD([each for each in branch.module.parameters() if each.requires_grad], lr=1.0)
    branch.module(points([8])[0]).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(base.state_dict(), before, rtol=0, atol=0)
    assert not torch.equal(branch.module[0].weight, base[0].weight)  # type: ignore[index]
    assert branch.module[2].weight.data_ptr() == base[2].weight.data_ptr()  # type: ignore[index]


# Branches


def test_a_branch_tells_what_was_replaced_and_where_the_layer_went() -> None:
    base = nn.Sequential(mlp(), nn.Linear(2, 2))
    branch = Branch(base)
    inner = branch.module[0]  # type: ignore[index]
    layer = inner[0]
    inner[0] = Shifted(layer, 1)
    assert branch.replaced() == {"0.0": Replacement(layer, inner[0])}
    assert base[0][0] is not layer


def test_places_are_those_of_the_base_where_wrappers_hold_wrappers() -> None:
    branch = Branch(nn.Sequential(mlp()))
    inner = branch.module[0]  # type: ignore[index]
    inner[3] = Shifted(inner[3], 1)
    branch.module[0] = nn.Sequential(inner)  # type: ignore[operator]
    assert set(branch.replaced()) == {"0", "0.3"}


def spoil_nothing(module: MLP) -> nn.Module:
    return module


def train_the_base(module: MLP) -> nn.Module:
    module[3].bias.requires_grad_(True)
    return module


def add_a_module(module: MLP) -> nn.Module:
    module[0].probe = nn.Linear(2, 2)
    return module


def remove_a_module(module: MLP) -> nn.Module:
    del module[3]
    return module


def add_a_hook(module: MLP) -> nn.Module:
    module[1].register_forward_hook(lambda *ignored: None)
    return module


def change_a_parameter(module: MLP) -> nn.Module:
    module[0].weight = nn.Parameter(torch.empty_like(module[0].weight), requires_grad=False)
    return module


def change_a_forward(module: MLP) -> nn.Module:
    module[1].forward = torch.sin  # type: ignore[method-assign, assignment]
    return module


def leave_the_layer_out(module: MLP) -> nn.Module:
    module[0] = nn.Linear(2, WIDTH)
    return module


def wrap_a_block(module: MLP) -> nn.Module:
    return nn.Sequential(nn.Sequential(module))


def drop_out(module: MLP) -> nn.Module:
    module[0] = nn.Sequential(module[0], nn.Dropout(0.5))
    return module


def drop_nothing(module: MLP) -> nn.Module:
    module[0] = nn.Sequential(module[0], nn.Dropout(0.0))
    return module


def give_another_model(module: MLP) -> nn.Module:
    return MLP(WIDTH)


def add_parameters_around(module: MLP) -> nn.Module:
    return nn.Sequential(module, nn.Linear(2, 2))


SPOILED: list[tuple[Callable[[MLP], nn.Module], str | None]] = [
    (spoil_nothing, None),
    (drop_nothing, None),
    (wrap_a_block, None),
    (train_the_base, "3.bias trains, a parameter of the base"),
    (add_a_module, "the module 0.probe was added"),
    (remove_a_module, "the module 3 was removed"),
    (add_a_hook, "hooks on 1 were added or removed"),
    (change_a_parameter, "0.weight is another tensor than the base's"),
    (change_a_forward, "1 has another forward"),
    (leave_the_layer_out, "what stands in the place of 0 does not contain the base's layer"),
    (drop_out, "0 has dropout, whose random numbers would be drawn for all trials at once"),
    (give_another_model, "a method gives another model in the place of the base"),
    (add_parameters_around, "1.weight was added outside of the layers that were replaced"),
]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("spoil", "reason"), SPOILED, ids=[spoil.__name__ for spoil, _ in SPOILED])
def test_what_cannot_be_stacked_says_why(
    spoil: Callable[[MLP], nn.Module], reason: str | None, device: str
) -> None:
    with torch.device(device):
        base = MLP(WIDTH)
        branch = Branch(base)
        branch.module.requires_grad_(False)
        adapted = spoil(branch.module)  # type: ignore[arg-type]
    assert obstacle(branch, adapted) == reason
    assert obstacle(Branch(base), branch.module) is not None  # another branch's module


def test_a_block_and_a_layer_with_hooks_are_not_stacked() -> None:
    base = nn.Sequential(mlp())
    base[0][0].register_forward_hook(lambda *ignored: None)
    branch = Branch(base)
    branch.module.requires_grad_(False)
    inner = branch.module[0]  # type: ignore[index]
    inner[0] = Shifted(inner[0], 1)
    assert obstacle(branch, branch.module) == "0.0 has hooks"
    other = Branch(base)
    other.module.requires_grad_(False)
    other.module[0] = nn.Sequential(other.module[0])  # type: ignore[operator, index]
    assert obstacle(other, other.module) == "0 is not one layer but holds others"


# Stacks


def test_each_trial_gets_what_it_gets_alone() -> None:
    base = mlp()
    branches = [wrapped(base, places, seed) for seed, places in enumerate([(0, 3), (3,), (0,), (0, 3)])]
    stack = Stack(base, branches)
    assert_as_alone(branches, points([4, 4, 4, 4]), stack)
    assert_as_alone(branches, points([3, 1, 5, 2]), stack)


def test_trials_without_rows_are_passed_by() -> None:
    base = mlp()
    branches = [wrapped(base, (0, 3), seed) for seed in range(4)]
    stack = Stack(base, branches)
    layers = [branch.module[0] for branch in branches]  # type: ignore[index]
    with stack.rows([2, 0, 3, 0]):
        stack.module(points([5])[0])
    assert [layer.calls for layer in layers] == [1, 0, 1, 0]
    assert_as_alone(branches, points([2, 0, 3, 0]), stack)


@pytest.mark.parametrize("kind", [Stretched, Instead])
def test_wrappers_that_ask_their_layer_for_something_else_are_right_too(kind: type[Shifted]) -> None:
    base = mlp()
    branches = [wrapped(base, (0,), seed, kind) for seed in range(3)]
    stack = Stack(base, branches)
    rows = points([2, 3, 1])
    with stack.rows([2, 3, 1]):
        outputs = stack.module(torch.cat(rows))
    torch.testing.assert_close(
        outputs, torch.cat([branch.module(own) for branch, own in zip(branches, rows, strict=True)])
    )


def test_the_base_runs_once_and_the_layers_inside_the_wrappers_do_not() -> None:
    base = mlp()
    branches = [wrapped(base, (0,), seed) for seed in range(3)]
    stack = Stack(base, branches)
    shapes: list[tuple[int, ...]] = []
    kernel = nn.functional.linear

    def counted(inputs: Tensor, *rest: Tensor) -> Tensor:
        shapes.append(tuple(inputs.shape))
        return kernel(inputs, *rest)

    with pytest.MonkeyPatch.context() as patch, stack.rows([1, 1, 1]):
        patch.setattr(nn.functional, "linear", counted)
        stack.module(points([3])[0])
    assert shapes == [(3, 2), (3, WIDTH)]


def test_a_branch_runs_alone_as_before_once_it_is_stacked() -> None:
    base = mlp()
    branches = [wrapped(base, (0, 3), seed) for seed in range(2)]
    (own,) = points([3])
    before = branches[0].module(own)
    stack = Stack(base, branches)
    together(stack, branches, points([3, 3], seed=1))
    assert torch.equal(branches[0].module(own), before)
    with stack.rows([3, 0]), pytest.raises(RuntimeError):  # a width that no layer takes
        stack.module(torch.zeros(3, 5))
    assert torch.equal(branches[0].module(own), before)
    assert "forward" not in vars(branches[0].replaced()["0"].layer)


def test_flattened_rows_are_divided_in_proportion() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            flat: Tensor = self.layer(inputs.flatten(0, 1))
            return flat.view_as(inputs)

    base = Flat()
    branches = []
    for seed in range(2):
        branch = Branch(base)
        branch.module.requires_grad_(False)
        branch.module.layer = Shifted(branch.module.layer, seed)  # type: ignore[arg-type]
        branches.append(branch)
    rows = torch.randn(3, 5, 2)
    stack = Stack(base, branches)
    with stack.rows([2, 1]):
        outputs = stack.module(rows)
    torch.testing.assert_close(outputs[:2], branches[0].module(rows[:2]))
    torch.testing.assert_close(outputs[2:], branches[1].module(rows[2:]))


def test_rows_that_do_not_fit_are_refused() -> None:
    base = mlp()
    stack = Stack(base, [wrapped(base, (0,), seed) for seed in range(2)])
    with (
        stack.rows([2, 2]),
        pytest.raises(PluginError, match=r"0 must be given the 4 rows .* given \[3, 2\]"),
    ):
        stack.module(points([3])[0])
    with pytest.raises(PluginError, match="the 0 rows"):
        stack.module(points([4])[0])


def test_rows_hold_inside_their_block_alone() -> None:
    base = mlp()
    stack = Stack(base, [wrapped(base, (0,), seed) for seed in range(2)])
    with stack.rows([1, 1]):
        with stack.rows([2, 1]):
            stack.module(points([3])[0])
        stack.module(points([2])[0])
        with pytest.raises(PluginError):
            stack.module(points([3])[0])


class Centred(nn.Linear):
    """A layer whose rows regard each other."""

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = super().forward(inputs)
        return outputs - outputs.mean(0)


def test_layers_that_mix_rows_run_trial_by_trial() -> None:
    base = nn.Sequential(nn.Linear(2, 4), Centred(4, 4), nn.Tanh(), Centred(4, 2))
    branches = [wrapped(base, (0, 3), seed) for seed in range(3)]
    stack = Stack(base, branches, mixes=lambda layer: isinstance(layer, Centred))
    assert_as_alone(branches, points([4, 4, 4]), stack)
    assert_as_alone(branches, points([2, 0, 3]), stack)
    with pytest.raises(AssertionError):
        assert_as_alone(branches, points([4, 4, 4]), Stack(base, branches))


def test_the_stack_keeps_the_base_as_it_is() -> None:
    base = mlp().train()
    stack = Stack(base, [wrapped(base, (0,), seed) for seed in range(2)])
    assert base.training
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert not stack.module.training
    assert not any(parameter.requires_grad for parameter in stack.module.parameters())
    assert stack.module[0].weight.data_ptr() == base[0].weight.data_ptr()  # type: ignore[index]
    with pytest.raises(AttributeError, match="colour"):
        _ = stack.module[0].colour  # type: ignore[index]


def test_a_method_may_give_one_operation_for_its_layers() -> None:
    class Silent(Method):
        pass

    class Joint(Method):
        @classmethod
        def stack(cls, layers: Sequence[nn.Module]) -> StackedOperation | None:
            if not all(isinstance(layer, Shifted) for layer in layers):
                return None

            def operation(inputs: Tensor, outputs: Tensor, slices: Sequence[slice]) -> Tensor:
                seen.append((len(layers), [(rows.start, rows.stop) for rows in slices]))
                for layer, rows in zip(layers, slices, strict=True):
                    outputs[rows] = layer(inputs[rows])
                return outputs

            return operation

    seen: list[tuple[int, list[tuple[int, int]]]] = []
    base = mlp()
    branches = [wrapped(base, places, seed) for seed, places in enumerate([(3,), (0,), (0,), (3,)])]
    stack = Stack(base, branches, [Silent, Joint])
    assert_as_alone(branches, points([2, 3, 1, 2]), Stack(base, branches))
    with stack.rows([2, 3, 1, 0]):
        outputs = stack.module(torch.cat(points([2, 3, 1])))
    assert seen == [(2, [(2, 5), (5, 6)]), (2, [(0, 2), (6, 6)])]
    torch.testing.assert_close(outputs[2:5], branches[1].module(points([2, 3, 1])[1]))
