"""Prompt tuning, by PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Model
from myosotis_plugins.methods.peft_adapters import check_choice
from myosotis_plugins.methods.virtual_tokens import insert_virtual_tokens
from myosotis_plugins.quiet import quiet_libraries

MYOSOTIS_API = 1


class Prompt(Method):
    """Freeze the base and train the embeddings of virtual tokens that every row begins with.

    A row [x₁ … xₙ] becomes [p₁ … pₖ, E x₁ … E xₙ]. The first forward pass is not the base's. Virtual tokens are
    not scored, and the first real token is not predicted from them, as it is not without them. Learning rates are
    much higher than for weights: the paper's is 0.3. What other methods freeze changes nothing: nothing of the
    base trains.

    Cost: every row is k tokens longer, in time, memory and the model's context; gradients go through all blocks.

    Args:
        tokens: k, how many virtual tokens there are.
        initialization: `vocabulary` begins with embeddings of tokens drawn at random, `random` with normal noise.
    """

    paper = "Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning, arXiv:2104.08691"
    changes_base = True

    def __init__(
        self, tokens: int = 20, initialization: Literal["vocabulary", "random"] = "vocabulary"
    ) -> None:
        if tokens < 1:
            raise ConfigurationError(f"tokens must be at least 1, but got {tokens}")
        check_choice("initialization", initialization, ("vocabulary", "random"))
        self.tokens = tokens
        self.initialization = initialization

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Put the virtual tokens before every row; the base stops training.

        Raises:
            ConfigurationError: another method has put adapters in, or the model is no causal language model.
        """
        with quiet_libraries():
            from peft import PromptTuningConfig

        config = PromptTuningConfig(
            num_virtual_tokens=self.tokens,
            prompt_tuning_init="SAMPLE_VOCAB" if self.initialization == "vocabulary" else "RANDOM",
            task_type="CAUSAL_LM",
        )
        return insert_virtual_tokens(model, config)


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"prompt": Prompt}
