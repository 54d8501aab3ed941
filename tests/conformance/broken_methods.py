"""Methods that are broken, each in one way."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from myosotis.errors import ConfigurationError
from myosotis.interfaces import (
    Batch,
    Component,
    Context,
    Loss,
    Method,
    Mixture,
    Model,
    Rows,
    Share,
    Stage,
)
from tests import toy
from tests.conformance.sound import Halves, Lag
from tests.core.hazards import Side


class Untyped(Method):
    """A parameter without a type.

    Args:
        rate: a number.
    """

    def __init__(self, rate=0.1) -> None:  # type: ignore[no-untyped-def]
        self.rate = rate


class TakesAnything(Method):
    """Any parameters at all."""

    def __init__(self, **parameters: float) -> None:
        self.parameters = parameters


class Undocumented(Method):
    """A parameter that nothing explains."""

    def __init__(self, rate: float = 0.1) -> None:
        self.rate = rate


class DocumentsAnother(Method):
    """A parameter explained under another name.

    Args:
        speed: a number.
    """

    def __init__(self, rate: float = 0.1) -> None:
        self.rate = rate


class Wordless(Method):
    pass


class VersionZero(Method):
    """Counts from 0."""

    version = 0


class UnknownLocation(Method):
    """A location that is no parameter."""

    locations = frozenset({"folder"})


class ChangingFingerprint(Method):
    """Another fingerprint each time."""

    counter = itertools.count()

    def fingerprint(self) -> str:
        return str(next(self.counter))


class UnknownCohortField(Method):
    """A cohort field that is no parameter."""

    cohort_fields = frozenset({"rank"})


class TalksToOthers(Side):
    """Pulls its paths towards where those of the trial before are: what all its instances share.

    Args:
        width: of the paths.
    """

    shared: ClassVar[list[torch.Tensor]] = []

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> torch.Tensor | None:
        own = torch.cat([each.flatten() for each in module.parameters() if each.requires_grad])
        before = self.shared[-1] if self.shared else own.detach()
        self.shared.append(own.detach())
        return ((own - before) ** 2).sum()


class SecretKeeper(Method):
    """State, and no word on what it is."""

    def state_dict(self) -> dict[str, Any]:
        return {"anchor": torch.zeros(1)}


class Extended(nn.Module):
    def __init__(self, base: nn.Module, added: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.added = added

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.base(points) + 0 * self.added(points)


class RealOnAnOutline(Method):
    """Adds a layer with values to an outline."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        return Extended(model.module, nn.Linear(2, 2))


class OtherOnAnOutline(Method):
    """Freezes on the loaded model alone."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        next(model.module.parameters()).requires_grad_(context.outline)
        return model.module


class ScalesTheBase(Method):
    """Doubles the weights."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        if not context.outline:
            with torch.no_grad():
                for parameter in model.module.parameters():
                    parameter.mul_(2)
        return model.module


class DecaysEverything(Method):
    """Shrinks what is frozen, too."""

    def after_step(self, module: nn.Module, context: Context) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(0.9)


class MovesTheRest(Side):
    """Shrinks a layer that it does not train."""

    def after_step(self, module: nn.Module, context: Context) -> None:
        *_, last = (parameter for parameter in module.parameters() if not parameter.requires_grad)
        with torch.no_grad():
            last.mul_(0.9)


class TrainsACopy(Method):
    """Trains a copy of the base, on which nothing is frozen."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        return copy.deepcopy(model.module)


class NoGradients(Method):
    """Throws the gradients away."""

    def after_backward(self, module: nn.Module, context: Context) -> None:
        for parameter in module.parameters():
            parameter.grad = None


class LongPenalty(Method):
    """A penalty for each row."""

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        return outputs.sum(dim=1)


class InfinitePenalty(Method):
    """A penalty that is infinite in the second stage."""

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        return outputs.sum() * 0 + (np.inf if context.stage.index == 2 else 0)


class ConstantLoss(Method):
    """A loss that nothing can change."""

    def loss(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        return torch.tensor(1.0)


class ForgetsTheHead(Method):
    """Parameter groups without the last layer."""

    def parameter_groups(self, module: nn.Module, context: Context) -> list[dict[str, Any]] | None:
        return [{"params": list(module.parameters())[:-1]}]


class TooMuchOfAll(Method):
    """Shares of 1.2 in sum."""

    def training_data(
        self, stage: Stage, data: Mixture, seen: Mapping[str, Rows], context: Context
    ) -> Mixture:
        return tuple(replace(component, share=Share(1.2, 1.2)) for component in data)


class OfNoTask(Method):
    """Rows of a task that is not there."""

    def training_data(
        self, stage: Stage, data: Mixture, seen: Mapping[str, Rows], context: Context
    ) -> Mixture:
        if context.stage.index < 2:
            return data
        return (*data, Component("elsewhere", data[0].rows, Share(0, 0)))


class RollsItsOwnDice(Method):
    """Noise from a source that no seed fixes."""

    def begin_stage(self, stage: Stage, context: Context) -> None:
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4)))
        with torch.no_grad():
            for parameter in context.model.module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))


class ForgetsItself(Method):
    """Counts steps over stages, and does not save the count."""

    def __init__(self) -> None:
        self.count = 0

    def after_step(self, module: nn.Module, context: Context) -> None:
        self.count += 1
        with torch.no_grad():
            next(module.parameters()).mul_(1 - 0.001 * self.count)


class SavesItself(Method):
    """State that only this program can read."""

    stores = "itself"

    def state_dict(self) -> dict[str, Any]:
        return {"self": self}


class ForgetsTheStage(ForgetsItself):
    """Counts steps over stages, and saves the count as it was at the last stage's end."""

    stores = "a count"

    def __init__(self) -> None:
        super().__init__()
        self.saved = 0

    def end_stage(self, stage: Stage, context: Context) -> None:
        self.saved = self.count

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = self.saved = state["count"]


class GivesItsOwn(Lag):
    """Gives the very tensors that the next step writes into."""

    def state_dict(self) -> dict[str, Any]:
        return {"mean": dict(self.mean), "steps": self.steps}


class AddsUp(Method):
    """Gives the very mapping that the next step puts more into."""

    stores = "the steps taken"

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}

    def after_step(self, module: nn.Module, context: Context) -> None:
        self.steps[f"{context.stage.index}.{context.step}"] = context.step

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}


class PullsToZero(toy.Pull):
    """Has another anchor than it says.

    Args:
        strength: half the factor of the squared distance.
    """

    def begin_stage(self, stage: Stage, context: Context) -> None:
        super().begin_stage(stage, context)
        self.anchor = {name: torch.zeros_like(value) for name, value in self.anchor.items()}


class PullsNowhere(toy.Pull):
    """Takes its anchor anew at every step, so that there is nothing to pull.

    Args:
        strength: half the factor of the squared distance.
    """

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        self.begin_stage(context.stage, context)
        return super().penalty(module, batch, outputs, context)


class PullsInTheFirst(toy.Pull):
    """Has no penalty when there is something to hold on to.

    Args:
        strength: half the factor of the squared distance.
    """

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        return super().penalty(module, batch, outputs, context) if context.stage.index == 1 else None


class PullsHalf(toy.Pull):
    """Cuts one of the two factors of the square off the gradient.

    Args:
        strength: half the factor of the squared distance.
    """

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        distances = [parameter - self.anchor[name] for name, parameter in module.named_parameters()]
        return self.strength * torch.stack([(each * each.detach()).sum() for each in distances]).sum()


class PullsNothing(toy.Pull):
    """Cuts all of the gradient off.

    Args:
        strength: half the factor of the squared distance.
    """

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        penalty = super().penalty(module, batch, outputs, context)
        return penalty and penalty.detach()


class SinglePrecision(Method):
    """Goes by NumPy, which has no bfloat16."""

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        return outputs.sum() * float(np.ptp(outputs.detach().numpy()))


class Overflows(Method):
    """Multiplies by more than what half of the precision holds."""

    def loss(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        return (
            (outputs / torch.finfo(outputs.dtype).eps ** 2).exp().mean()
            if outputs.dtype != torch.float32
            else None
        )


class RefusesForNoReason(Method):
    """Refuses what is not in single precision, and does not say so."""

    def loss(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        if torch.is_autocast_enabled("cpu"):
            raise ConfigurationError("this cannot be")
        return None

    def adapt(self, model: Model, context: Context) -> nn.Module:
        if any(not parameter.is_floating_point() for parameter in model.module.parameters()):
            raise ConfigurationError
        return model.module


class TrainsEverything(Method):
    """Lets whole numbers train, which have no gradients."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        return model.module.requires_grad_(True)


class Requantizes(Method):
    """Moves the quantized weights."""

    def after_step(self, module: nn.Module, context: Context) -> None:
        for parameter in module.parameters():
            if not parameter.is_floating_point():
                parameter.data.add_(1)


class FreezesTheUnknown(Method):
    """Breaks the contract where a base is quantized, which is no refusal."""

    def frozen(self, model: Model) -> Collection[str]:
        whole = any(not parameter.is_floating_point() for parameter in model.module.parameters())
        return ["elsewhere"] if whole else []


class StaysHalved(Halves):
    """Leaves the model as its variant."""

    def put_back(self, module: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
        pass


class StaysQuiet(Halves):
    """Leaves the model to be called in another way."""

    def put_back(self, module: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
        super().put_back(module, before)
        module.get_submodule("1").forward = lambda inputs: inputs  # type: ignore[method-assign]


class StopsTraining(Halves):
    """Leaves the model without anything that trains."""

    def put_back(self, module: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
        super().put_back(module, before)
        module.requires_grad_(False)
