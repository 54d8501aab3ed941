"""One call of a module, as the frozen prefix looks at it: its rows, its shape, what its blocks gave."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from myosotis.prefix_store import DIGEST_SIZE


class NotPlain(Exception):
    """A value that is neither a tensor nor plain was given to a block."""


@dataclass
class Shape:
    """Calls of one shape.

    Attributes:
        steady: whether what is kept may be given; None before the first call.
        forms: for each block, the length of the tuple that it gives; 0 for a tensor alone.
    """

    steady: bool | None = None
    forms: Sequence[int] = ()
    size: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32

    def remember(self, forms: Sequence[int], output: Tensor) -> None:
        """Note what the blocks give in this shape."""
        self.forms, self.size, self.dtype = forms, tuple(output.shape), output.dtype

    def wrapped(self, place: int, hidden: Tensor) -> Any:
        """Give hidden states as a block does."""
        form = self.forms[place]
        return (hidden, *[None] * (form - 1)) if form else hidden

    def joined(self, rows: Sequence[np.ndarray | None], device: torch.device) -> Tensor | None:
        """Make a batch of rows, where none is missing."""
        if any(row is None for row in rows):
            return None
        hidden = torch.empty(self.size, dtype=self.dtype)
        for own, row in zip(row_bytes(hidden), rows, strict=True):
            own[:] = row
        return hidden.to(device)


@dataclass
class Call:
    """A call of the module.

    Attributes:
        tensors: what it was given, by name or position.
        random: the state of the random numbers when it began.
        digests: one a row, over all that its output depends on.
        kept: the output, where it comes from the store.
        forms: of the blocks that ran, as in `Shape`.
        output: a copy of what the last block gave, None where it is not constant or not plain.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: dict[str, Tensor]
    rows: int
    device: torch.device
    random: tuple[Tensor, ...]
    shape: Shape = field(default_factory=Shape)
    digests: list[bytes] = field(default_factory=list)
    kept: Tensor | None = None
    forms: list[int] = field(default_factory=list)
    output: Tensor | None = None

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
        """Look at what a module is given; None where it is more than tensors."""
        given = {**{str(place): value for place, value in enumerate(args)}, **kwargs}
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        first = next((value for value in tensors.values() if value.ndim and value.numel()), None)
        if first is None or any(
            value is not None and value is not False for name, value in given.items() if name not in tensors
        ):
            return None
        return cls(args, kwargs, tensors, len(first), first.device, _random_state(first.device))

    def take(self, output: Any, last: bool) -> None:
        """Take note of what a block gave."""
        parts = output if isinstance(output, tuple) else (output,)
        if not isinstance(parts[0], Tensor) or any(part is not None for part in parts[1:]):
            return
        self.forms.append(len(parts) if isinstance(output, tuple) else 0)
        hidden = parts[0]
        if last and self._is_constant(hidden):
            self.output = hidden.detach().clone()  # the next block may write into it

    def _is_constant(self, hidden: Tensor) -> bool:
        drew = any(
            not torch.equal(one, other)
            for one, other in zip(self.random, _random_state(self.device), strict=True)
        )
        whole = hidden.ndim > 0 and len(hidden) == self.rows and hidden.is_contiguous() and hidden.numel() > 0
        return whole and not drew and not hidden.requires_grad and hidden.device == self.device

    def hashed(self, setting: str) -> list[bytes]:
        """Give each row's digest."""
        whole = hashlib.blake2b(setting.encode(), digest_size=DIGEST_SIZE)
        by_rows = []
        for tensor in self.tensors.values():
            if self._has_rows(tensor):
                by_rows.append(row_bytes(tensor))
            else:
                whole.update(row_bytes(tensor[None]).data)
        digests = []
        for row in range(self.rows):
            digest = whole.copy()
            for each in by_rows:
                digest.update(each[row].data)
            digests.append(digest.digest())
        return digests

    def reordered(self, order: Sequence[int]) -> tuple[list[Any], dict[str, Any]]:
        """Give the arguments with other rows."""

        def other(value: Any) -> Any:
            return value[list(order)] if isinstance(value, Tensor) and self._has_rows(value) else value

        return [other(value) for value in self.args], {
            name: other(each) for name, each in self.kwargs.items()
        }

    def _has_rows(self, tensor: Tensor) -> bool:
        return tensor.ndim > 0 and len(tensor) == self.rows


def described(value: Any) -> Any:
    """Describe tensors by their shapes, and what else there is by itself.

    Raises:
        NotPlain: it can change, such as a cache of keys and values.
    """
    if isinstance(value, Tensor):
        return tuple(value.shape), str(value.dtype)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [described(each) for each in value]
    raise NotPlain


def _random_state(device: torch.device) -> tuple[Tensor, ...]:
    own = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return (torch.get_rng_state(), *own)


def row_bytes(tensor: Tensor) -> np.ndarray:
    """Give each row's bytes, which are the tensor's own memory where it is on the CPU and in one piece."""
    flat = tensor.detach().cpu().contiguous().reshape(len(tensor), -1)
    return flat.view(torch.uint8).numpy()
