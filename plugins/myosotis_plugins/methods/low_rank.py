"""The low-rank additions of several trials to one layer, as one operation with a backward of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from myosotis.interfaces import StackedOperation

PLAIN_LAYERS = ("peft.tuners.lora.layer", "peft.tuners.lora.bnb")
"""Modules of PEFT whose layers for linear bases, whole and quantized, compute what is computed here."""


@dataclass(frozen=True)
class LowRank:
    """One trial's addition to a layer with inputs x: scale * x downᵀ upᵀ.

    Attributes:
        down: shape (rank, inputs); LoRA's A.
        up: shape (outputs, rank); LoRA's B.
        scale: alpha / rank.
    """

    down: nn.Parameter
    up: nn.Parameter
    scale: float


def low_rank(layer: Any) -> LowRank | None:
    """Read PEFT's layer; None where it is not a linear layer plus one plain low-rank product."""
    from transformers.pytorch_utils import Conv1D

    if type(layer).__module__ not in PLAIN_LAYERS or not isinstance(layer.base_layer, nn.Linear | Conv1D):
        return None
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    changed = (
        layer.disable_adapters or layer.merged or layer.lora_variant or not layer.cast_input_dtype_enabled
    )
    if changed or len(active) != 1:
        return None
    parts = [each[active[0]] for each in (layer.lora_dropout, layer.lora_A, layer.lora_B)]
    if [type(part) for part in parts] != [nn.Identity, nn.Linear, nn.Linear] or parts[2].bias is not None:
        return None
    return LowRank(parts[1].weight, parts[2].weight, layer.scaling[active[0]])


def stacked(layers: Sequence[nn.Module]) -> StackedOperation | None:
    """Give one operation for PEFT's layers; None where one of them is not a plain low-rank addition."""
    additions = [each for layer in layers if (each := low_rank(layer)) is not None]
    if len(additions) < len(layers) or len({each.down.dtype for each in additions}) > 1:
        return None

    def operation(inputs: Tensor, outputs: Tensor, slices: Sequence[slice]) -> Tensor:
        return add_low_rank(inputs, outputs, slices, additions)

    return operation


def add_low_rank(
    inputs: Tensor, outputs: Tensor, slices: Sequence[slice], additions: Sequence[LowRank]
) -> Tensor:
    """Add to each slice of a layer's outputs what its trial adds, in place where that can be.

    Small products are bound by their launches on a GPU, so that equal ones are batched there. On a CPU
    they stay single: so a trial's numbers are the same to the bit whatever it is stacked with.
    """
    tokens = inputs.numel() // inputs.shape[-1] // len(inputs)
    present = [(rows, each) for rows, each in zip(slices, additions, strict=True) if rows.start < rows.stop]
    if not present:
        return outputs
    sizes, end = [], 0
    for rows, _ in present:
        sizes += [(rows.start - end) * tokens, (rows.stop - rows.start) * tokens]
        end = rows.stop
    sizes.append((len(inputs) - end) * tokens)
    weights = [weight for _, each in present for weight in (each.down, each.up)]
    scales = [each.scale for _, each in present]
    function = Batched if inputs.is_cuda else Sliced
    # autograd cannot follow a write into a view by a function of one's own.
    if outputs._is_view() or not outputs.is_contiguous():
        outputs = outputs.clone(memory_format=torch.contiguous_format)
    added: Tensor = function.apply(inputs, outputs, sizes, scales, *weights)  # type: ignore[no-untyped-call]
    return added


def working_dtype(inputs: Tensor, weight: Tensor) -> torch.dtype:
    """Give the type that the products are computed in, as PEFT and autocast choose it."""
    device = inputs.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def matrix(tensor: Tensor) -> Tensor:
    """Flatten all but the last dimension."""
    return tensor.reshape(-1, tensor.shape[-1])


class Sliced(torch.autograd.Function):
    """Adds slice after slice.

    `sizes` holds, in tokens, a gap, a trial's rows, a gap, a trial's rows, …, a gap; `weights` each trial's
    down and up.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        outputs: Tensor,
        sizes: list[int],
        scales: Sequence[float],
        *weights: Tensor,
    ) -> Tensor:
        """Give the outputs with all additions, written into `outputs`."""
        dtype = working_dtype(inputs, weights[0])
        tokens, results = matrix(inputs).to(dtype), matrix(outputs)
        if weights[0].dtype != dtype:
            weights = tuple(weight.to(dtype) for weight in weights)
        hidden = []
        for scale, own, result, down, up in zip(
            scales,
            torch.split(tokens, sizes)[1::2],
            torch.split(results, sizes)[1::2],
            weights[::2],
            weights[1::2],
            strict=True,
        ):
            inner = functional.linear(own, down)
            if result.dtype == dtype:
                result.addmm_(inner, up.t(), alpha=scale)
            else:
                result.add_(functional.linear(inner, up), alpha=scale)
            hidden.append(inner)
        ctx.save_for_backward(tokens, *hidden, *weights)
        ctx.sizes, ctx.scales, ctx.shape = sizes, scales, inputs.shape
        ctx.mark_dirty(outputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """Give the gradients of inputs, outputs and weights."""
        tokens, *saved = ctx.saved_tensors
        trials = len(ctx.scales)
        hidden, downs, ups = saved[:trials], saved[trials::2], saved[trials + 1 :: 2]
        gradients = matrix(gradient).to(tokens.dtype)
        back = torch.zeros_like(tokens) if any(ctx.sizes[::2]) else torch.empty_like(tokens)
        of_weights = []
        for scale, own, of_own, of_result, inner, down, up in zip(
            ctx.scales,
            torch.split(tokens, ctx.sizes)[1::2],
            torch.split(back, ctx.sizes)[1::2],
            torch.split(gradients, ctx.sizes)[1::2],
            hidden,
            downs,
            ups,
            strict=True,
        ):
            of_inner = of_result @ up
            # With beta=0 the first argument gives its shape alone.
            of_weights.append(torch.addmm(down, of_inner.t(), own, beta=0, alpha=scale))
            of_weights.append(torch.addmm(up, of_result.t(), inner, beta=0, alpha=scale))
            if ctx.needs_input_grad[0]:
                of_own.addmm_(of_inner, down, beta=0, alpha=scale)
        return back.view(ctx.shape) if ctx.needs_input_grad[0] else None, gradient, None, None, *of_weights


@dataclass(frozen=True)
class Run:
    """Neighbours whose products have one shape and scale.

    Attributes:
        trials: their numbers among those present.
        tokens: their rows.
    """

    trials: range
    tokens: slice
    scale: float

    def matrices(self, tensor: Tensor) -> Tensor:
        """Give the trials' rows of a matrix, shape (trials, tokens of each, width)."""
        return tensor[self.tokens].view(len(self.trials), -1, tensor.shape[-1])

    def stack(self, weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Put one weight of each trial into a batch."""
        own = [weights[trial] for trial in self.trials]
        return (own[0][None] if len(own) == 1 else torch.stack(own)).to(dtype)


def find_runs(sizes: list[int], scales: Sequence[float], downs: Sequence[Tensor]) -> list[Run]:
    """Gather neighbours with equally many tokens, the same rank and the same scale, and no gap between."""
    runs: list[Run] = []
    end = 0
    for trial, (gap, size) in enumerate(zip(sizes[::2], sizes[1::2], strict=False)):
        start, end = end + gap, end + gap + size
        before = runs[-1] if runs and not gap else None
        first = before.trials[0] if before else trial
        alike = (size, scales[trial], len(downs[trial])) == (
            sizes[2 * first + 1],
            scales[first],
            len(downs[first]),
        )
        if before and alike:
            runs[-1] = Run(range(first, trial + 1), slice(before.tokens.start, end), before.scale)
        else:
            runs.append(Run(range(trial, trial + 1), slice(start, end), scales[trial]))
    return runs


class Batched(torch.autograd.Function):
    """Adds equal neighbours in one batched product each; arguments as for `Sliced`."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        outputs: Tensor,
        sizes: list[int],
        scales: Sequence[float],
        *weights: Tensor,
    ) -> Tensor:
        """Give the outputs with all additions, written into `outputs`."""
        dtype = working_dtype(inputs, weights[0])
        tokens, results = matrix(inputs).to(dtype), matrix(outputs)
        runs = find_runs(sizes, scales, weights[::2])
        saved = []
        for run in runs:
            down, up = run.stack(weights[::2], dtype), run.stack(weights[1::2], dtype)
            inner = run.matrices(tokens) @ down.mT
            result = run.matrices(results)
            if result.dtype == dtype:
                result.baddbmm_(inner, up.mT, alpha=run.scale)
            else:
                result.add_(inner @ up.mT, alpha=run.scale)
            saved += [inner, down, up]
        ctx.save_for_backward(tokens, *saved)
        ctx.runs, ctx.gaps, ctx.shape, ctx.dtype = runs, any(sizes[::2]), inputs.shape, weights[0].dtype
        ctx.mark_dirty(outputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """Give the gradients of inputs, outputs and weights."""
        tokens, *saved = ctx.saved_tensors
        gradients = matrix(gradient).to(tokens.dtype)
        back = torch.zeros_like(tokens) if ctx.gaps else torch.empty_like(tokens)
        of_weights: list[Tensor] = []
        for run, inner, down, up in zip(ctx.runs, saved[::3], saved[1::3], saved[2::3], strict=True):
            of_result = run.matrices(gradients)
            of_inner = of_result @ up
            # With beta=0 the first argument gives its shape alone.
            of_down = torch.baddbmm(down, of_inner.mT, run.matrices(tokens), beta=0, alpha=run.scale)
            of_up = torch.baddbmm(up, of_result.mT, inner, beta=0, alpha=run.scale)
            pairs = zip(of_down.to(ctx.dtype), of_up.to(ctx.dtype), strict=True)
            of_weights += [each for pair in pairs for each in pair]
            if ctx.needs_input_grad[0]:
                run.matrices(back).baddbmm_(of_inner, down, beta=0, alpha=run.scale)
        return back.view(ctx.shape) if ctx.needs_input_grad[0] else None, gradient, None, None, *of_weights
