"""Vectors that rescale keys, values and what is between the layers of the feed-forward part, by PEFT."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Model
from myosotis_plugins.methods.peft_adapters import check_bare, is_named, is_names, linear_layers, task_type
from myosotis_plugins.quiet import quiet_libraries

MYOSOTIS_API = 1


class IA3(Method):
    """Freeze the base and train one factor a feature: l ⊙ (W x), and W (l ⊙ x) in feed-forward layers.

    All factors start at 1, so that the first forward pass is the base's. The base runs without dropout, and
    layers that another method freezes get no factors. Where a layer makes queries, keys and values at once, as
    in GPT-2, all three are rescaled; the paper leaves queries alone.

    Cost: one multiplication a target more; the backward pass goes through the base down to the first target.

    Args:
        targets: names of layers; where not given, those that PEFT knows for the model's architecture: mostly
            keys, values and the last layer of the feed-forward part.
        feedforward: those of the targets whose input is rescaled instead of their output.
    """

    paper = (
        "Liu et al. 2022, Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context "
        "Learning, arXiv:2205.05638"
    )
    cohort_fields = frozenset({"targets", "feedforward"})

    def __init__(self, targets: list[str] | None = None, feedforward: list[str] | None = None) -> None:
        for name, value in (("targets", targets), ("feedforward", feedforward)):
            if value is not None and not is_names(value):
                raise ConfigurationError(f"{name} must be names of modules, but got {value!r}")
        if feedforward is not None and not set(feedforward) <= set(targets or feedforward):
            raise ConfigurationError(f"feedforward must be among targets {targets}, but got {feedforward}")
        self.targets = targets
        self.feedforward = feedforward

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Insert the factors; everything else stops training.

        Raises:
            ConfigurationError: another method has put adapters in, there is nothing to adapt, or PEFT does not
                know the architecture.
        """
        check_bare(model.module)
        with quiet_libraries():
            from peft import IA3Config, get_peft_model

            targets, feedforward = self._places(model.module)
            layers = linear_layers(model, targets, context.frozen)
            config = IA3Config(
                target_modules=layers,
                feedforward_modules=[name for name in layers if is_named(name, feedforward)],
                modules_to_save=list(model.new) or None,
                task_type=task_type(model.module),
            )
            adapted: nn.Module = get_peft_model(model.module, config)
        return adapted

    def _places(self, module: nn.Module) -> tuple[list[str], list[str]]:
        if self.targets is not None:
            return self.targets, self.feedforward or []
        from peft.utils import constants

        targets = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
        feedforward = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
        kind = getattr(getattr(module, "config", None), "model_type", type(module).__name__)
        if kind not in targets:
            raise ConfigurationError(
                f"targets must be given for {kind}; PEFT knows the layers of {', '.join(sorted(targets))}"
            )
        return targets[kind], feedforward[kind] if self.feedforward is None else self.feedforward


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"ia3": IA3}
