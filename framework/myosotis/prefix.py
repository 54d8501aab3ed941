"""Frozen blocks at a model's beginning: what they give for a row is computed once and kept, to the bit.

What a processor computes for a row depends in its last bits on the shape of the batch (how matrix products
are cut up, how far rows are padded), and in some shapes on the row's place in it. So what is kept is given
again only in batches of the same shape, and only in shapes in which places do not matter.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from myosotis.interfaces import Blocks
from myosotis.prefix_call import Call, NotPlain, Shape, described, row_bytes
from myosotis.prefix_store import DIGEST_SIZE, PrefixStore

SHARE = 32768
"""Elements of a tensor for which torch takes one more thread, `at::internal::GRAIN_SIZE`."""
TWO_VECTORS = 64
"""Elements in two of the widest vectors (512 bits) at the narrowest type (16 bits)."""


def frozen_prefix(blocks: Blocks) -> Blocks:
    """Give the leading blocks in which nothing trains; none where something before them trains."""
    if _trains(blocks.before):
        return Blocks()
    count = next((place for place, block in enumerate(blocks.chain) if _trains([block])), len(blocks))
    return Blocks(blocks.before, blocks.chain[:count]) if count else Blocks()


def _trains(modules: Iterable[nn.Module]) -> bool:
    return any(parameter.requires_grad for module in modules for parameter in module.parameters())


def worthwhile(blocks: int, rows: int, examples: int, needed_bytes: int, limit_bytes: int) -> bool:
    """Tell whether keeping what frozen blocks give saves time: at least four blocks' work an example.

    Args:
        blocks: how many are frozen at the beginning.
        rows: drawn by all that share what is kept.
        examples: different ones among the rows.
        needed_bytes: what all examples take.
        limit_bytes: what may be kept; where only some examples are, nearly every batch lacks one and is
            computed whole.
    """
    return blocks * (rows - examples) >= 4 * examples and needed_bytes <= limit_bytes


class FrozenPrefix:
    """Serves frozen blocks from a store, in the calls of a module that are made inside `with`.

    A call is served where the store has every row of its batch; otherwise the blocks run, and what they
    give is kept. The first call of a shape always runs them. The shape is served afterwards only where
    their output needs no gradient, drew no random numbers, is what the store holds already, stays the same
    when rows stand in other places and half of them are not there, and is `in_whole_vectors`. A call is
    computed without looking, too, where it is given anything but tensors, None and False (it may ask for all
    hidden states), and once a frozen weight changed. Served blocks all give what the last of them gives.

    Args:
        module: what is called, rows first in its tensors.
        prefix: its frozen blocks, from `frozen_prefix`.
        store: where outputs are kept; modules, trials and processes may share it.
        key: stands for what the output depends on beside weights and inputs: the model's configuration.

    Attributes:
        served: rows that came from the store.
        computed: rows that were looked for and computed.
    """

    def __init__(self, module: nn.Module, prefix: Blocks, store: PrefixStore, key: str) -> None:
        self.served = 0
        self.computed = 0
        self._module = module
        self._blocks = prefix.chain
        self._store = store
        self._parts = [part for each in (*prefix.before, *prefix.chain) for part in each.modules()]
        self._parameters = [parameter for part in self._parts for parameter in part.parameters(recurse=False)]
        self._changes = self._count_changes()
        machine = (platform.node(), torch.backends.cpu.get_cpu_capability(), torch.__version__)
        self._key = repr((key, _weights_hash(prefix), machine))
        self._shapes: dict[str, Shape] = {}
        self._call: Call | None = None
        self._checking = False
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        begin = self._module.register_forward_pre_hook(self._begin, with_kwargs=True)
        end = self._module.register_forward_hook(self._end)
        self._undo = [begin.remove, end.remove]
        for place, block in enumerate(self._blocks):
            self._undo.append(_set_forward(block, partial(self._run, place, block.forward)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call = None
        for undo in self._undo:
            undo()

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not self._checking:
            changed = self._count_changes() != self._changes
            self._call = None if changed else Call.of(args, kwargs)

    def _run(self, place: int, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Stand for a block: run it, or give what the last block gives."""
        if self._call and place == 0:
            self._call = self._look_up(self._call, args, kwargs)
        call = self._call
        if call and call.kept is not None:
            return call.shape.wrapped(place, call.kept)
        output = forward(*args, **kwargs)
        if call:
            call.take(output, last=place == len(self._blocks) - 1)
        return output

    def _look_up(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
        """Find the call's shape and what is kept of its rows; None where the shape is not served."""
        try:
            given = described((*call.tensors.items(), *args, *kwargs.items()))
        except NotPlain:
            return None
        training = any(part.training for part in self._parts)
        signature = repr((given, len(self._blocks), training, _setting(call.device)))
        call.shape = self._shapes.setdefault(signature, Shape())
        if call.shape.steady is False:
            return None
        call.digests = call.hashed(f"{self._key} {signature}")
        if call.shape.steady:
            call.kept = call.shape.joined(self._store.read(call.digests), call.device)
        self.served += call.rows if call.kept is not None else 0
        self.computed += call.rows if call.kept is None else 0
        return call

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Keep what was computed."""
        call, self._call = self._call, None
        if call is None or call.kept is not None:
            return
        if call.shape.steady is None:
            call.shape.steady = self._is_steady(call)
        if call.shape.steady and call.output is not None:
            self._store.keep(list(zip(call.digests, row_bytes(call.output), strict=True)))

    def _is_steady(self, call: Call) -> bool:
        """Tell whether the output depends on nothing but the rows, and remember its form."""
        if call.output is None or len(call.forms) != len(self._blocks) or not in_whole_vectors(call.output):
            return False
        call.shape.remember(call.forms, call.output)
        own = row_bytes(call.output)
        held = zip(self._store.read(call.digests), own, strict=True)
        if any(item is not None and not np.array_equal(item, row) for item, row in held):
            return False
        order = elsewhere(call.rows)
        moved = self._output(call, order)
        return moved is not None and np.array_equal(row_bytes(moved), own[order])

    def _output(self, call: Call, order: Sequence[int]) -> Tensor | None:
        """Compute what the last block gives for other rows of a call."""

        def stop(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            raise _Reached(output[0] if isinstance(output, tuple) else output)

        args, kwargs = call.reordered(order)
        handle = self._blocks[-1].register_forward_hook(stop)
        self._checking = True
        try:
            with torch.no_grad():
                self._module(*args, **kwargs)
        except _Reached as reached:
            return reached.output
        finally:
            self._checking = False
            handle.remove()
        return None

    def _count_changes(self) -> int:
        return sum(parameter._version for parameter in self._parameters)


def in_whole_vectors(hidden: Tensor) -> bool:
    """Tell whether element by element every row's numbers are computed alike, whatever its place.

    On the CPU, torch divides a large tensor evenly among threads, takes each share two vectors at a time,
    and what is left over by other code, which rounds some functions (SiLU, sigmoid) otherwise. Nothing is
    left over where the positions fill those vectors for every number of threads that may share them.
    """
    if hidden.device.type != "cpu":
        return True
    positions, threads = hidden.numel() // hidden.shape[-1], torch.get_num_threads()
    fewest = min(threads, math.ceil(hidden.numel() / SHARE))
    return all(positions % (TWO_VECTORS * shares) == 0 for shares in range(fewest, threads + 1))


def elsewhere(rows: int) -> list[int]:
    """Put about half of the rows into places not their own, so that row after row ties all places together.

    The half goes up from the second row by one place less, and comes down again: 1 2 2 1 of four.
    """
    up = list(range(1, rows // 2 + 1))
    return [*up, *[rows // 2] * (rows % 2), *reversed(up)]


class _Reached(Exception):
    """Ends a call at the last frozen block."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def _setting(device: torch.device) -> tuple[Any, ...]:
    """Give what decides how numbers are rounded."""
    kind = device.type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else kind
    mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return name, torch.get_num_threads(), str(mixed), torch.get_float32_matmul_precision()


def _weights_hash(prefix: Blocks) -> str:
    """Hash all that the frozen part holds."""
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for part in (*prefix.before, *prefix.chain):
        for name, value in part.state_dict().items():
            if isinstance(value, Tensor):
                digest.update(repr((name, described(value))).encode())
                digest.update(row_bytes(value.reshape(1, -1)).data)
    return digest.hexdigest()


def _set_forward(block: nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
    """Put another `forward` on one module; what is given undoes it."""
    own = vars(block)
    before = own.get("forward")
    own["forward"] = forward

    def undo() -> None:
        if before is None:
            del own["forward"]
        else:
            own["forward"] = before

    return undo
