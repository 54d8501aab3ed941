"""Model merging: each stage trains from the start again, and what they changed is merged."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Model, Stage
from myosotis_plugins.methods.scaled_lora import begins_at_zero, has_one_for_each_stage
from myosotis_plugins.methods.snapshots import training
from myosotis_plugins.quiet import quiet_libraries

MYOSOTIS_API = 1

Kind: TypeAlias = Literal["linear", "task_arithmetic", "ties", "dare_linear", "dare_ties"]
WHOLE = frozenset({"linear", "task_arithmetic"})
"""Kinds that keep all of what a stage changed."""
LORA_FACTOR = re.compile(r"\blora_(?:embedding_)?([AB])\b")
"""Which of the two a parameter is, as PEFT names them."""


class Merge(Method):
    """Train every stage from the start again; after each, merge what all stages so far have changed.

    With θ₀ the start and τₖ = θₖ − θ₀ what stage k changed, the model is θ₀ + merged(τ₁ … τₜ), by PEFT's functions:

    - `linear`: Σ wₖ τₖ / Σ wₖ, which makes the weighted mean of the stages' models (arXiv:2203.05482)
    - `task_arithmetic`: Σ wₖ τₖ (arXiv:2212.04089)
    - `ties`: of each τₖ the greatest magnitudes stay; then, number by number, the mean of wₖ τₖ over the
      stages that have the sign of Σ τₖ (arXiv:2306.01708)
    - `dare_linear`, `dare_ties`: a random part of each τₖ stays, divided by `density`; then as
      `task_arithmetic`, or as `ties` goes on (arXiv:2311.03099)

    What stays is chosen in each tensor by itself; TIES' authors choose in the whole model. LoRA's A and B are
    merged apart, so that the merged B A has products of two stages. `linear` and `task_arithmetic` take them as
    any parameter; the others as PEFT's `add_weighted_adapter`, with their values for τₖ and √wₖ for wₖ, whose
    sign goes with A. Scores are the merged model's, also on the task that the stage trained.

    Cost: no further pass. What trains is kept once as it began and once for each stage, in main memory and in
    checkpoints: (1 + stages) times its bytes.

    Args:
        kind: how they are merged, one of the five above.
        weights: w, one for all stages, or one for each that trains.
        density: the part of each tensor that stays, with ties and dare.
    """

    paper = "Ilharco et al. 2023, Editing Models with Task Arithmetic, arXiv:2212.04089"
    stores = "what trains, as it began and as each stage left it"
    cohort_fields = frozenset({"kind", "weights", "density"})

    def __init__(
        self, kind: Kind = "linear", weights: float | list[float] = 1.0, density: float = 0.2
    ) -> None:
        each = weights if isinstance(weights, list) else [weights]
        if kind == "linear" and not all(weight > 0 for weight in each):
            raise ConfigurationError(f"weights must be greater than 0 with kind=linear, but got {weights}")
        if kind not in get_args(Kind):
            raise ConfigurationError(f"kind must be one of {', '.join(get_args(Kind))}, but got {kind!r}")
        if not 0 < density <= 1:
            raise ConfigurationError(f"density must be greater than 0 and at most 1, but got {density}")
        self.kind = kind
        self.weights = weights
        self.density = density
        self.start: dict[str, Tensor] = {}
        self.results: list[dict[str, Tensor]] = []

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Change nothing, but see that there are as many weights as stages.

        Raises:
            ConfigurationError: there are not.
        """
        count = sum(bool(stage.shares) for stage in context.stages)
        if isinstance(self.weights, list) and len(self.weights) != count > 0:
            raise ConfigurationError(
                f"weights must be one number, or one for each of the {count} stages that train, but got "
                f"{self.weights}"
            )
        return model.module

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Go back to the start.

        Raises:
            ConfigurationError: another stage trains other parameters, or LoRA's A and B cannot be merged apart.
        """
        parameters = training(context.model.module)
        if not self.start:
            self._check_start(context.model.module)
            self.start = _copies(parameters)
        several = has_one_for_each_stage(context.model.module)
        if several or parameters.keys() != self.start.keys():
            raise ConfigurationError(
                "every stage must train the same parameters, so that what they change can be merged, but a "
                "method gives each its own; leave out merge, or that method"
            )
        _fill(parameters, self.start)

    def _check_start(self, module: nn.Module) -> None:
        """See that merging A and B by themselves prunes nothing that was there before."""
        if self.kind not in WHOLE and not begins_at_zero(module):
            raise ConfigurationError(
                f"kind={self.kind} must have adapters that begin at 0, of which all is learned, but one does "
                "not; take linear or task_arithmetic, or leave out what gives the adapters their first values"
            )

    def end_stage(self, stage: Stage, context: Context) -> None:
        """Keep the stage's result, and put the merged model in its place."""
        parameters = training(context.model.module)
        self.results.append(_copies(parameters))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(context.generator.initial_seed())
            _fill(parameters, {name: self._merged(name) for name in parameters})

    def _merged(self, name: str) -> Tensor:
        values, weights = [result[name] for result in self.results], self._weights()
        factor = LORA_FACTOR.search(name)
        if factor is None or self.kind in WHOLE:
            start = self.start[name]
            return start + self._combined([value - start for value in values], weights)
        roots = [math.sqrt(abs(weight)) for weight in weights]
        if factor[1] == "A":
            roots = [math.copysign(root, weight) for root, weight in zip(roots, weights, strict=True)]
        return self._combined(values, roots)

    def _weights(self) -> list[float]:
        count = len(self.results)
        weights = self.weights[:count] if isinstance(self.weights, list) else [self.weights] * count
        return [weight / sum(weights) for weight in weights] if self.kind == "linear" else weights

    def _combined(self, changes: list[Tensor], weights: Sequence[float]) -> Tensor:
        with quiet_libraries():
            from peft.utils import merge_utils

        if self.kind in WHOLE:
            merged: Tensor = merge_utils.task_arithmetic(changes, torch.tensor(weights))
            return merged
        function = getattr(merge_utils, self.kind)
        merged = function(changes, torch.tensor(weights), self.density)
        return merged

    def state_dict(self) -> dict[str, Any]:
        """Give the start and the results."""
        return {"start": self.start, "results": list(self.results)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.start, self.results = state["start"], list(state["results"])


def _copies(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: each.detach().to("cpu", copy=True) for name, each in parameters.items()}


def _fill(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"merge": Merge}
