"""WiSE-FT: all models on the way from the base to the tuned one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Model, Stage
from myosotis_plugins.methods.scaled_lora import begins_at_zero, lora_layers, scaled
from myosotis_plugins.methods.snapshots import holding, training
from myosotis_plugins.quiet import quiet_libraries

MYOSOTIS_API = 1


class WiSEFT(Method):
    """Score the models on the way from the base's weights to the tuned ones: θ(α) = (1 − α) θ₀ + α θ₁.

    θ₀ are the weights before the first stage, θ₁ those after the last. Training is as without it; each α is a
    variant of the finished trial, and 0 and 1 are the base and the tuned model to the bit. Whole weights are
    interpolated, and so are IA3's factors, in which the weights are linear; LoRA's weights W + s B A are on the
    way where its scale is α s, and its adapter is off at 0. What is on no such way is refused: DoRA, LoRA
    that does not begin at 0, bottleneck adapters, prefixes, prompts.

    Cost: an evaluation of every task for each α, and nothing in training. Of what is interpolated, one copy in
    main memory and in checkpoints, and another one where the model is while an α is scored; of LoRA, none.

    Args:
        alphas: what is scored, from 0 (the base) to 1 (the tuned model); 0, 0.1, …, 1 where not given.
    """

    paper = "Wortsman et al. 2022, Robust Fine-Tuning of Zero-Shot Models, arXiv:2109.01903"
    stores = "the first values of what trains, but for LoRA's"
    cohort_fields = frozenset({"alphas"})

    def __init__(self, alphas: list[float] | None = None) -> None:
        self.alphas = [tenths / 10 for tenths in range(11)] if alphas is None else alphas
        if not self.alphas or not all(0 <= alpha <= 1 for alpha in self.alphas):
            raise ConfigurationError(f"alphas must be one or more numbers from 0 to 1, but got {alphas}")
        self.base: frozenset[nn.Parameter] = frozenset()
        self.start: dict[str, Tensor] = {}

    def frozen(self, model: Model) -> Collection[str]:
        """Freeze nothing, but note the base's own parameters, before adapters are put around them."""
        self.base = frozenset(model.module.parameters())
        return ()

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Change nothing.

        Raises:
            ConfigurationError: what another method has put in is on no way from the base.
        """
        self._interpolated(model.module)
        return model.module

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Keep the values of what trains for the first time.

        Raises:
            ConfigurationError: as `adapt`.
        """
        first = next(each.index for each in context.stages if each.shares)
        if stage.index == first and not begins_at_zero(context.model.module):
            raise ConfigurationError(
                "adapters must begin at 0, so that the model is the base where they are off, but one does not; "
                "leave out wise_ft, or what gives the adapters their first values"
            )
        for name, parameter in self._interpolated(context.model.module).items():
            if name not in self.start:
                self.start[name] = parameter.detach().to("cpu", copy=True)

    def _interpolated(self, module: nn.Module) -> dict[str, nn.Parameter]:
        with quiet_libraries():
            from peft.tuners.ia3 import IA3Layer

        linear = self.base | _parameters(each for each in module.modules() if isinstance(each, IA3Layer))
        known = linear | _parameters(each for each in lora_layers(module) if not each.lora_variant)
        unknown = [name for name, each in training(module).items() if each not in known]
        if unknown:
            raise ConfigurationError(
                "what trains must be weights, IA3's factors or plain LoRA, which have a straight way from the "
                f"base, but {unknown[0]} trains; leave out wise_ft, or the method that put it in"
            )
        return {name: each for name, each in training(module).items() if each in linear}

    def variants(
        self, module: nn.Module, context: Context
    ) -> Mapping[str, Callable[[], AbstractContextManager[object]]]:
        """Give the model at each α."""
        return {f"alpha={alpha:g}": partial(self._at, alpha, module) for alpha in self.alphas}

    @contextmanager
    def _at(self, alpha: float, module: nn.Module) -> Iterator[None]:
        ends = {name: each.detach() for name, each in module.named_parameters() if name in self.start}
        values = {name: between(self.start[name].to(end.device), end, alpha) for name, end in ends.items()}
        with scaled(module, alpha), holding(module, values):
            yield

    def state_dict(self) -> dict[str, Any]:
        """Give the first values."""
        return {"start": dict(self.start)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.start = dict(state["start"])


def between(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    """Interpolate, in single precision at least; 0 and 1 give the ends themselves."""
    if alpha in (0, 1):
        return end if alpha else start
    kind = torch.promote_types(end.dtype, torch.float32)
    return torch.lerp(start.to(kind), end.to(kind), alpha).to(end.dtype)


def _parameters(modules: Iterable[nn.Module]) -> frozenset[nn.Parameter]:
    return frozenset(parameter for module in modules for parameter in module.parameters())


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"wise_ft": WiSEFT}
