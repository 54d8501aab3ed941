"""A method's penalty as a function of what trains, and its gradient against finite differences."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from myosotis.interfaces import Context, Loss, Method

ROWS = 8
DIRECTIONS = 3
STRIDES = (1e-1, 3e-2, 1e-2, 3e-3)
TOLERANCE = 2e-2
"""At the best stride, single precision and curvature leave a smaller error, and a wrong gradient a larger one."""


class Penalty:
    """A method's penalty on one batch where only what trains moves: its state and random numbers stay as they were.

    Args:
        method: whose penalty it is.
        module: what trains, at the beginning of a stage.
        context: of that moment.

    Attributes:
        first: the penalty at the beginning, before anything has moved.
    """

    def __init__(self, method: Method, module: nn.Module, context: Context) -> None:
        self._method = method
        self._module = module.eval()
        self._context = context
        self._batch = next(context.training_batches(ROWS))
        self._parameters = [each for each in module.parameters() if each.requires_grad]
        self._values = [each.detach().clone() for each in self._parameters]
        self._scales = [0.1 * value.square().mean().sqrt() + 1e-3 for value in self._values]
        self._directions = torch.Generator().manual_seed(0)
        self.first = self._value().item()
        # Afterwards: a stage's first penalty may be where a method takes its anchor.
        self._state = copy.deepcopy(method.state_dict())
        self._draws = context.generator.get_state()

    def direction(self) -> list[Tensor]:
        """Draw a move of all that trains, of about a tenth of each parameter's size."""
        return [
            scale * torch.randn(value.shape, generator=self._directions).to(value.device)
            for value, scale in zip(self._values, self._scales, strict=True)
        ]

    def at(self, *moves: tuple[float, Sequence[Tensor]]) -> Loss:
        """Give the penalty where what trains has gone so many strides in each of the directions."""
        with torch.no_grad():
            for index, parameter in enumerate(self._parameters):
                parameter.copy_(self._values[index])
                for strides, direction in moves:
                    parameter.add_(strides * direction[index])
        self._method.load_state_dict(copy.deepcopy(self._state))
        self._context.generator.set_state(self._draws)
        torch.manual_seed(0)
        return self._value()

    def _value(self) -> Loss:
        terms = []
        for group in self._batch.groups:
            outputs = group.objective.forward(self._module, group.batch)
            context = replace(self._context, rows=group.rows)
            penalty = self._method.penalty(self._module, group.batch, outputs, context)
            assert penalty is not None, "penalty must be a number in the second stage, but is None"
            terms.append(penalty)
        return torch.stack(terms).sum()

    def check_gradient(self) -> None:
        """Hold the gradient against central differences in random directions.

        Raises:
            AssertionError: they differ at every stride.
        """
        place = self.direction()
        gradient = self._gradient(place)
        scaled = zip(self._scales, gradient, strict=True)
        typical = math.hypot(*((scale * each).norm().item() for scale, each in scaled))
        for _ in range(DIRECTIONS):
            direction = self.direction()
            pairs = zip(gradient, direction, strict=True)
            given = sum((one * other).sum().item() for one, other in pairs)
            measured = min(self._slopes(place, direction), key=lambda slope: abs(slope - given))
            assert abs(measured - given) <= TOLERANCE * max(typical, abs(measured)), (
                "the penalty's gradient must be its derivative, but in a direction in which it rises by "
                f"{measured:.6g} for each unit, the gradient gives {given:.6g}"
            )

    def _gradient(self, place: Sequence[Tensor]) -> list[Tensor]:
        value = self.at((1, place))
        assert value.requires_grad, "penalty must depend on what trains, but has no gradient"
        found = torch.autograd.grad(value, self._parameters, allow_unused=True)
        pairs = zip(found, self._parameters, strict=True)
        return [torch.zeros_like(parameter) if each is None else each for each, parameter in pairs]

    def _slopes(self, place: Sequence[Tensor], direction: Sequence[Tensor]) -> list[float]:
        def moved(stride: float) -> float:
            return self.at((1, place), (stride, direction)).item()

        return [(moved(stride) - moved(-stride)) / (2 * stride) for stride in STRIDES]
