"""Bottleneck adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Model
from myosotis_plugins.methods.bottleneck import ACTIVATIONS, Bottlenecks, insert_bottlenecks, output_layers
from myosotis_plugins.methods.peft_adapters import check_bare, check_choice

MYOSOTIS_API = 1


class Adapters(Method):
    """Freeze the base and train small networks after its sublayers: y + U f(D y + b) + c.

    y is what a sublayer's last linear layer gives, before the residual. D has as many rows as the bottleneck
    features; U, b and c start at zero, so that the first forward pass is the base's, D near zero as Houlsby's. An
    adapter has 2 m d + d + m parameters, with m features between and d of the model. The base runs without
    dropout, and sublayers whose last layer another method freezes get no adapter.

    Houlsby puts one after the attention and one after the feed-forward part; Pfeiffer (2020, AdapterFusion,
    arXiv:2005.00247) one after the feed-forward part. Both papers adapt BERT, with norms after the residuals that
    train too; here the norms are frozen, and Pfeiffer's adapter stands before the residual as well.

    Cost: two narrow products and an activation more a sublayer, one after the other, which no merging into the
    weights can take away afterwards; gradients and the optimizer's numbers for the adapters alone.

    PEFT has no such adapters. What is saved is `bottleneck_adapters.safetensors`, with the settings beside it in a
    JSON file; `load_bottlenecks` of the module `bottleneck` puts them onto the base again.

    Args:
        bottleneck: m, the features between down- and up-projection.
        placement: after which sublayers they stand.
        activation: f.
    """

    paper = "Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP, arXiv:1902.00751"
    cohort_fields = frozenset({"bottleneck", "placement", "activation"})

    def __init__(
        self,
        bottleneck: int = 64,
        placement: Literal["houlsby", "pfeiffer"] = "houlsby",
        activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
    ) -> None:
        if bottleneck < 1:
            raise ConfigurationError(f"bottleneck must be at least 1 feature, but got {bottleneck}")
        check_choice("placement", placement, ("houlsby", "pfeiffer"))
        check_choice("activation", activation, tuple(ACTIVATIONS))
        self.bottleneck = bottleneck
        self.placement = placement
        self.activation = activation

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Insert the adapters; everything else stops training but what is new.

        Raises:
            ConfigurationError: another method has put adapters in, the blocks are made of something else, or
                there is nothing to adapt.
        """
        check_bare(model.module)
        layers = output_layers(model.module, attention=self.placement == "houlsby")
        left = [name for name in layers if f"{name}.weight" not in context.frozen]
        if not left:
            raise ConfigurationError(f"all {len(layers)} layers to adapt are frozen; freeze fewer")
        for adapter in insert_bottlenecks(model.module, left, self.bottleneck, self.activation):
            adapter.initialize(context.generator)
        for path in model.new:
            model.module.get_submodule(path).requires_grad_(True)
        return Bottlenecks(model.module, model.new)


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"adapters": Adapters}
