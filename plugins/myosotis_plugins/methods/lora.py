"""Low-rank adapters, by PEFT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Model, StackedOperation
from myosotis_plugins.methods.low_rank import stacked
from myosotis_plugins.quiet import quiet_libraries

MYOSOTIS_API = 1


class LoRA(Method):
    """Freeze the base and train low-rank additions to its linear layers: W + (alpha / rank) B A.

    A starts random and B at zero, so that the first forward pass is the base's. The base runs without
    dropout. Layers that another method freezes get no adapter.

    Args:
        rank: rows of A and columns of B.
        alpha: the scale's numerator; twice the rank where not given.
        dropout: the share of a layer's inputs dropped before A.
        targets: `all-linear` (all but the output head), or names of modules such as `[q_proj,v_proj]`.
    """

    paper = "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685"
    cohort_fields = frozenset({"rank", "alpha", "targets"})

    def __init__(
        self,
        rank: int = 8,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: str | list[str] = "all-linear",
    ) -> None:
        if rank < 1:
            raise ConfigurationError(f"rank must be at least 1, but got {rank}")
        if alpha is not None and alpha <= 0:
            raise ConfigurationError(f"alpha must be greater than 0, but got {alpha}")
        if not 0 <= dropout < 1:
            raise ConfigurationError(f"dropout must be at least 0 and less than 1, but got {dropout}")
        if not isinstance(targets, str) and not (
            isinstance(targets, list) and all(isinstance(each, str) for each in targets)
        ):
            raise ConfigurationError(f"targets must be all-linear or names of modules, but got {targets!r}")
        self.rank = rank
        self.alpha = 2 * rank if alpha is None else alpha
        self.dropout = dropout
        self.targets = targets

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Insert the adapters; everything else stops training.

        Raises:
            ConfigurationError: another method has put adapters in, or there is nothing to adapt.
        """
        with quiet_libraries():
            from peft import LoraConfig, PeftModel, get_peft_model

            if isinstance(model.module, PeftModel):
                raise ConfigurationError(
                    "lora must go onto a base without adapters, but another method has put some in; merge "
                    "those into the weights by PEFT's merge_and_unload, and give the result as the model"
                )
            config = LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,
                lora_dropout=self.dropout,
                target_modules=linear_layers(model, self.targets, context.frozen),
                task_type=task_type(model.module),
            )
            adapted: nn.Module = get_peft_model(model.module, config)
        return adapted

    @classmethod
    def stack(cls, layers: Sequence[nn.Module]) -> StackedOperation | None:
        """Add the low-rank products of all trials to a layer at once."""
        return stacked(layers)


def linear_layers(model: Model, targets: str | list[str], frozen: frozenset[str]) -> list[str]:
    """Name the linear layers that match the targets and are not frozen.

    Raises:
        ConfigurationError: none does; names those that there are.
    """
    from transformers.pytorch_utils import Conv1D

    head = _output_head(model.module)
    linear = [
        name
        for name, module in model.module.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    wanted = [targets] if isinstance(targets, str) else targets
    chosen = [
        name
        for name in linear
        if wanted == ["all-linear"] or any(name == each or name.endswith(f".{each}") for each in wanted)
    ]
    left = [name for name in chosen if f"{name}.weight" not in frozen]
    if not chosen:
        kinds = sorted({name.rpartition(".")[2] for name in linear})
        raise ConfigurationError(f"targets must name linear layers ({', '.join(kinds)}), but got {targets}")
    if not left:
        raise ConfigurationError(f"all {len(chosen)} layers that lora targets are frozen; freeze fewer")
    return left


def _output_head(module: nn.Module) -> nn.Module | None:
    from transformers import PreTrainedModel

    return module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None


def task_type(module: nn.Module) -> Any:
    """Give the kind of model as PEFT's folders name it."""
    from transformers import PreTrainedModel

    if not isinstance(module, PreTrainedModel) or not module.can_generate():
        return None
    return "SEQ_2_SEQ_LM" if module.config.is_encoder_decoder else "CAUSAL_LM"


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"lora": LoRA}
