"""Elastic weight consolidation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Batch, Context, Loss, Method, Stage
from myosotis_plugins.methods.memory import Reservoir, stage_rows
from myosotis_plugins.methods.scaled_lora import has_one_for_each_stage
from myosotis_plugins.methods.snapshots import placed, training, without_dropout

MYOSOTIS_API = 1


class EWC(Method):
    """Hold what trains near its value after each earlier stage, the more so the more that stage's loss needs it.

    penalty = strength / 2 · Σ_k Σ_i F_k,i (θ_i − θ*_k,i)², over earlier stages k and what trains, i. F_k is
    the diagonal of the empirical Fisher information: the mean, over examples drawn from the stage's own
    tasks, of the squared gradient of one example's loss (its mean over tokens) by its true labels, without
    dropout; the Fisher information of the paper is by labels that the model draws. The sum over k is kept as one
    quadratic, Σ_i F_i (θ_i − θ̄_i)² + c, with F = Σ_k F_k and θ̄ the mean of θ*_k weighted by F_k: the same value
    and gradient in the memory of one stage. `online`: instead, F ← decay · F + F_k and θ̄ = θ*_k (Schwarz et al.
    2018).

    Cost: two float32 numbers for each that trains; at a stage's end a pass over its data without the model,
    and a forward and a backward pass for each example; at a step no further pass.

    Args:
        strength: λ; 0 does nothing.
        examples: how many the Fisher information is measured on after each stage; all where there are fewer.
        online: whether older stages fade, and only the last one's values are held to.
        decay: online: what each stage leaves of the importance of those before it; 1 leaves all.
    """

    paper = (
        "Kirkpatrick et al. 2017, Overcoming Catastrophic Forgetting in Neural Networks, arXiv:1612.00796; "
        "Schwarz et al. 2018, Progress & Compress, arXiv:1805.06370"
    )
    stores = "the importance of each number that trains, and the value that it is held to"

    def __init__(
        self, strength: float = 100.0, examples: int = 200, online: bool = False, decay: float = 0.9
    ) -> None:
        if strength < 0:
            raise ConfigurationError(f"strength must be at least 0, but got {strength}")
        if examples < 1:
            raise ConfigurationError(f"examples must be at least 1, but got {examples}")
        if not 0 <= decay <= 1:
            raise ConfigurationError(f"decay must be from 0 to 1, but got {decay}")
        self.strength = strength
        self.examples = examples
        self.online = online
        self.decay = decay
        self.importance: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}
        self.rest = 0.0

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Change nothing.

        Raises:
            ConfigurationError: a method gives each stage parameters of its own, which this would never hold.
        """
        if self.strength and has_one_for_each_stage(context.model.module):
            raise ConfigurationError(
                "every stage must train the same parameters, so that those an earlier stage needs can be held, "
                "but a method gives each its own; leave out ewc, or that method"
            )

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        """Give the weighted squared distance; None in the first stage."""
        if self.strength == 0 or not self.importance:
            return None
        self.importance, self.anchor = placed(self.importance, module), placed(self.anchor, module)
        parameters = dict(module.named_parameters())
        distances = [
            (importance * (parameters[name] - self.anchor[name]) ** 2).sum()
            for name, importance in self.importance.items()
        ]
        return self.strength / 2 * (torch.stack(distances).sum() + self.rest)

    def end_stage(self, stage: Stage, context: Context) -> None:
        """Measure the stage's Fisher information and take it in."""
        if self.strength == 0:
            return
        parameters = training(context.model.module)
        for name, fisher in self._fisher(parameters, context).items():
            value = parameters[name].detach().to(fisher.dtype)
            before = self.importance.get(name, torch.zeros_like(fisher)).to(fisher.device)
            distance = value - self.anchor.get(name, value).to(fisher.device)
            if self.online:
                self.importance[name], self.anchor[name] = self.decay * before + fisher, value.clone()
                continue
            both = before + fisher
            weight = (fisher / both).nan_to_num()  # 0 / 0 where neither stage needs it
            self.rest += float((before * weight * distance**2).sum())
            self.importance[name], self.anchor[name] = both, value - (1 - weight) * distance

    def _fisher(self, parameters: Mapping[str, nn.Parameter], context: Context) -> dict[str, Tensor]:
        module = context.model.module
        sums = [
            torch.zeros_like(each, dtype=torch.promote_types(each.dtype, torch.float32))
            for each in parameters.values()
        ]
        rows = Reservoir[Any](self.examples)
        for row in stage_rows(context):
            rows.offer(row, context.generator)
        with without_dropout(module):
            for row in rows.items:
                loss = context.training_loss(module, context.make_batch([row]))
                gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                for total, gradient in zip(sums, gradients, strict=True):
                    if gradient is not None:
                        total += gradient.to(total.dtype) ** 2
        return {name: total / len(rows.items) for name, total in zip(parameters, sums, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """Give importance, anchor and the constant."""
        return {"importance": dict(self.importance), "anchor": dict(self.anchor), "rest": self.rest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.importance, self.anchor = dict(state["importance"]), dict(state["anchor"])
        self.rest = state["rest"]


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"ewc": EWC}
