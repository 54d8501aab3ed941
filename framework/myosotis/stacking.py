"""Several trials' models on one base: its layers run once over all rows, each trial adds to its own."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from myosotis.errors import PluginError
from myosotis.interfaces import Method, StackedOperation


def shared_copy(module: nn.Module) -> nn.Module:
    """Copy a tree of modules whose parameters and buffers stay the same memory.

    Each plain parameter is a new one on the old storage, with its own `requires_grad` and `grad`; what is
    tied stays tied within the copy. A parameter of a library's own kind, such as a quantized one, copies
    itself around the same tensors where it knows how, and is the same object where it does not.
    """
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    general = (nn.Parameter.__deepcopy__, Tensor.__deepcopy__)
    known = {id(each): _on_same_storage(each) for each in tensors if type(each).__deepcopy__ in general}
    # deepcopy knows how each library's modules are copied, with all that refers to them.
    with _SameTensors():
        return copy.deepcopy(module, known)


def _on_same_storage(tensor: Tensor) -> Tensor:
    if type(tensor) not in (nn.Parameter, Tensor):
        return tensor
    made = tensor.detach()
    if isinstance(tensor, nn.Parameter):
        made = nn.Parameter(made, tensor.requires_grad)
    vars(made).update(vars(tensor))
    return made


class _SameTensors(TorchFunctionMode):
    """Makes a deep copy keep the tensors that it meets besides."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is Tensor.__deepcopy__:
            return args[0]
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Replacement:
    """A layer of the base, and what a trial's methods put in its place, with the layer inside."""

    layer: nn.Module
    wrapper: nn.Module


class Branch:
    """A trial's own copy of a base, in the same memory; it remembers what it was before adaptation.

    Attributes:
        module: what the trial's methods adapt, as if it were alone.
    """

    def __init__(self, base: nn.Module) -> None:
        self.module = shared_copy(base)
        self.before = {path: Snapshot.of(module) for path, module in self.module.named_modules()}

    def replaced(self) -> dict[str, Replacement]:
        """Give the places, by their paths in the base, that hold another module now."""
        return {
            _join(path, name): Replacement(child, now)
            for path, snapshot in self.before.items()
            for name, child in snapshot.children.items()
            if (now := snapshot.module._modules.get(name)) is not None and now is not child
        }

    def own_what_trains(self) -> None:
        """Move the base's parameters that train, and all buffers, to memory of their own.

        Without it, a trial that trains the base would train it for every other trial.
        """
        for snapshot in self.before.values():
            for tensor in snapshot.tensors.values():
                if tensor.requires_grad or not isinstance(tensor, nn.Parameter):
                    tensor.data = tensor.data.clone()


@dataclass(frozen=True)
class Snapshot:
    """What a module held: its children, its parameters and buffers, its hooks, and how it ran."""

    module: nn.Module
    children: Mapping[str, nn.Module]
    tensors: Mapping[str, Tensor]
    hooks: frozenset[int]
    forward: Any

    @classmethod
    def of(cls, module: nn.Module) -> Snapshot:
        """Look at a module as it is now."""
        tensors = {**module._parameters, **module._buffers}
        forward = (module._forward_hooks, module._forward_pre_hooks)
        backward = (module._backward_hooks, module._backward_pre_hooks)
        return cls(
            module,
            {name: child for name, child in module._modules.items() if child is not None},
            {name: tensor for name, tensor in tensors.items() if tensor is not None},
            frozenset(number for each in (*forward, *backward) for number in each),
            (type(module), vars(module).get("forward")),
        )


def obstacle(branch: Branch, adapted: nn.Module) -> str | None:
    """Say why a trial's model cannot share a forward pass, None where it can.

    What wraps the whole base is passed by in a joint forward pass, so it must hold no parameters.

    Args:
        branch: the trial's copy of the base; its modules may be on the meta device.
        adapted: what the trial's methods made of `branch.module`.
    """
    return next(_obstacles(branch, adapted), None)


def _obstacles(branch: Branch, adapted: nn.Module) -> Iterator[str]:
    if all(module is not branch.module for module in adapted.modules()):
        yield "a method gives another model in the place of the base"
    for path, snapshot in branch.before.items():
        yield from _changes(path, snapshot)
    replaced = branch.replaced()
    for path, replacement in replaced.items():
        yield from _misfits(path, replacement)
    known = {id(tensor) for snapshot in branch.before.values() for tensor in snapshot.tensors.values()}
    known |= {id(tensor) for each in replaced.values() for tensor in _tensors(each.wrapper).values()}
    for name, tensor in _tensors(adapted).items():
        if id(tensor) not in known:
            yield f"{name} was added outside of the layers that were replaced"


def _changes(path: str, before: Snapshot) -> Iterator[str]:
    """Find what was done to a module of the base besides putting others into its places."""
    now = Snapshot.of(before.module)
    for name in now.children.keys() ^ before.children.keys():
        yield f"the module {_join(path, name)} was {'added' if name in now.children else 'removed'}"
    for name, tensor in before.tensors.items():
        if now.tensors.get(name) is not tensor:
            yield f"{_join(path, name)} is another tensor than the base's"
        if tensor.requires_grad:
            yield f"{_join(path, name)} trains, a parameter of the base"
    if now.hooks != before.hooks:
        yield f"hooks on {path or 'the model'} were added or removed"
    if now.forward != before.forward:
        yield f"{path or 'the model'} has another forward"


def _misfits(path: str, replacement: Replacement) -> Iterator[str]:
    """Find what in a wrapper needs more than its own rows."""
    layer = replacement.layer
    inside = list(replacement.wrapper.modules())
    if all(module is not layer for module in inside):
        yield f"what stands in the place of {path} does not contain the base's layer"
    if next(layer.children(), None) is not None:
        yield f"{path} is not one layer but holds others"
    if Snapshot.of(layer).hooks:
        yield f"{path} has hooks"
    for module in inside:
        if isinstance(module, _DropoutNd) and module.p > 0:
            yield f"{path} has dropout, whose random numbers would be drawn for all trials at once"


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


_SIZES: ContextVar[tuple[int, ...]] = ContextVar("rows of each trial in a joint forward pass", default=())
"""Goes along where a part of the pass is run again later, in the backward pass."""


@functools.lru_cache(maxsize=1024)
def row_slices(sizes: tuple[int, ...], length: int) -> tuple[slice, ...] | None:
    """Divide a first dimension among trials in proportion to their rows, one's after the other's.

    Args:
        sizes: each trial's rows.
        length: of the dimension.

    Returns:
        None where it cannot be divided so.
    """
    each, rest = divmod(length, sum(sizes) or length + 1)
    if rest or not each:
        return None
    ends = [each * sum(sizes[:number]) for number in range(len(sizes) + 1)]
    return tuple(slice(start, stop) for start, stop in pairwise(ends))


class StackedLayer(nn.Module):
    """A layer of the base that runs once over all rows, and what each trial put in its place.

    Args:
        path: the layer's place in the base.
        base: the layer.
        replacements: those of some trials, by the trial's number.
        operation: does all trials' additions at once; None calls them one by one.
        apart: whether the layer runs over each trial's rows on their own.
    """

    def __init__(
        self,
        path: str,
        base: nn.Module,
        replacements: Mapping[int, Replacement],
        operation: StackedOperation | None,
        apart: bool,
    ) -> None:
        super().__init__()
        self.path = path
        self.base = base
        self.apart = apart
        self.trials = tuple(replacements)
        # In a tuple, so that they are not this module's children: their parameters are the trials' own.
        self.replacements = tuple(replacements.values())
        self.operation = operation or self._one_by_one

    def __getattr__(self, name: str) -> Any:
        # Models look at their layers, such as at the type of their weights.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the layer over all rows, and add what each trial adds to its own.

        Raises:
            PluginError: the first dimension is not one of rows.
        """
        sizes = _SIZES.get()
        slices = row_slices(sizes, len(inputs))
        outputs = None if slices is None else self._base_outputs(inputs, slices)
        if slices is None or outputs is None or len(outputs) != len(inputs):
            raise PluginError(
                f"{self.path} must be given the {sum(sizes)} rows of all trials, in their order, or a "
                f"multiple, and give as many, but was given {list(inputs.shape)}; set hydra.launcher.cohort=1"
            )
        return self.operation(inputs, outputs, [slices[trial] for trial in self.trials])

    def _base_outputs(self, inputs: Tensor, slices: Sequence[slice]) -> Tensor:
        if self.apart:
            return torch.cat([self.base(inputs[rows]) for rows in slices if rows.start < rows.stop])
        outputs: Tensor = self.base(inputs)
        return outputs

    def _one_by_one(self, inputs: Tensor, outputs: Tensor, slices: Sequence[slice]) -> Tensor:
        pieces, done = [], 0
        for replacement, rows in zip(self.replacements, slices, strict=True):
            if rows.start == rows.stop:
                continue
            pieces += [outputs[done : rows.start], _with_output(replacement, inputs[rows], outputs[rows])]
            done = rows.stop
        return torch.cat([*pieces, outputs[done:]])


def _with_output(replacement: Replacement, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Call a wrapper whose layer has run: asked for these inputs, the layer gives these outputs."""
    state = vars(replacement.layer)
    before, run = state.get("forward"), replacement.layer.forward

    def forward(given: Any, *args: Any, **kwargs: Any) -> Any:
        return outputs if given is inputs else run(given, *args, **kwargs)

    state["forward"] = forward
    try:
        result: Tensor = replacement.wrapper(inputs)
        return result
    finally:
        if before is None:
            del state["forward"]
        else:
            state["forward"] = before


class Stack:
    """Branches of one base in one forward pass: row after row, each as its trial alone computes it.

    Rows must stay in their order through the model, and without regard to each other: no batch
    normalization over the batch, no routing that gathers rows before a layer that was replaced.

    Args:
        base: what the branches were made of.
        branches: the trials' adapted copies, none with an `obstacle`. Their layers, and what an operation
            of a method remembers of them, are looked up here: make a new stack after changing modules.
        methods: asked in turn for one operation a layer.
        mixes: tells layers of the base in which rows regard each other, such as those of 8 bits, which
            look for outliers in the whole batch: they run over each trial's rows on their own.

    Attributes:
        module: what is called instead of each branch's own module, inside `rows`.
    """

    def __init__(
        self,
        base: nn.Module,
        branches: Sequence[Branch],
        methods: Collection[type[Method]] = (),
        mixes: Callable[[nn.Module], bool] = lambda layer: False,
    ) -> None:
        self.module = shared_copy(base).requires_grad_(False).eval()
        layers = {path: layer for path, layer in self.module.named_modules() if mixes(layer)}
        places: dict[str, dict[int, Replacement]] = {path: {} for path in layers}
        for trial, branch in enumerate(branches):
            for path, replacement in branch.replaced().items():
                places.setdefault(path, {})[trial] = replacement
                layers[path] = self.module.get_submodule(path)
        for path, layer in layers.items():
            operation = _operation([each.wrapper for each in places[path].values()], methods)
            stacked = StackedLayer(path, layer, places[path], operation, mixes(layer))
            parent, _, name = path.rpartition(".")
            self.module.get_submodule(parent)._modules[name] = stacked

    @contextmanager
    def rows(self, sizes: Sequence[int]) -> Iterator[None]:
        """Set how many rows each trial has in the forward passes within; 0 passes a trial by."""
        token = _SIZES.set(tuple(sizes))
        try:
            yield
        finally:
            _SIZES.reset(token)


def _operation(wrappers: Sequence[nn.Module], methods: Collection[type[Method]]) -> StackedOperation | None:
    if not wrappers:
        return lambda inputs, outputs, slices: outputs
    found = (method.stack(wrappers) for method in methods)
    return next((operation for operation in found if operation is not None), None)
