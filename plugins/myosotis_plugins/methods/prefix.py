"""Prefix tuning, by PEFT."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Model
from myosotis_plugins.blocks import find_blocks
from myosotis_plugins.gradient_checkpointing import is_checkpointed
from myosotis_plugins.methods.virtual_tokens import insert_virtual_tokens
from myosotis_plugins.quiet import quiet_libraries

MYOSOTIS_API = 1


class Prefix(Method):
    """Freeze the base and train keys and values of virtual tokens before every row, in each block its own.

    Attention is over [Pₖ; K] and [Pᵥ; V]. The first forward pass is not the base's. Every block sees the virtual
    tokens, so that no block may be frozen by another method, and none is computed once for all. They are not
    scored.

    Cost: every row takes as much more of the model's context as there are virtual tokens, and of attention's time
    and memory.

    Args:
        tokens: how many virtual tokens there are.
        hidden: units of the network that gives all blocks' prefixes from one embedding a virtual token, tanh
            between two layers, as in the paper; where not given, the prefixes train themselves. Only what the
            network gives in the end is saved.
    """

    paper = "Li and Liang 2021, Prefix-Tuning: Optimizing Continuous Prompts for Generation, arXiv:2101.00190"
    changes_base = True

    def __init__(self, tokens: int = 20, hidden: int | None = None) -> None:
        if tokens < 1:
            raise ConfigurationError(f"tokens must be at least 1, but got {tokens}")
        if hidden is not None and hidden < 1:
            raise ConfigurationError(f"hidden must be at least 1 unit, but got {hidden}")
        self.tokens = tokens
        self.hidden = hidden

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Put the prefix into every block; the base stops training.

        Raises:
            ConfigurationError: another method has put adapters in or freezes a block, blocks are computed again
                in the backward pass, or the model is no causal language model.
        """
        if is_checkpointed(model.module):
            raise ConfigurationError(
                "the prefix must be taken up once a pass, but with model.gradient_checkpointing=true every block "
                "is computed twice; set it to false, or take prompt"
            )
        with quiet_libraries():
            from peft import PrefixTuningConfig

        config = PrefixTuningConfig(
            num_virtual_tokens=self.tokens,
            prefix_projection=self.hidden is not None,
            encoder_hidden_size=self.hidden,
            task_type="CAUSAL_LM",
        )
        _check_frozen(model.module, context.frozen)
        return insert_virtual_tokens(model, config)


def _check_frozen(module: nn.Module, frozen: frozenset[str]) -> None:
    kept = {id(parameter) for name, parameter in module.named_parameters() if name in frozen}
    if kept and any(id(parameter) in kept for parameter in find_blocks(module).parameters()):
        raise ConfigurationError(
            "no block must be frozen, for every one sees the prefix, but another method freezes some; freeze "
            "none, or take adapters of layers"
        )


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"prefix": Prefix}
