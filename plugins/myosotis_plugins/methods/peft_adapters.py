"""What the methods share that insert PEFT's adapters: where these may go, and LoRA's settings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Model
from myosotis_plugins.quiet import quiet_libraries

HOLDERS = frozenset({"base_layer", "prompt_encoder"})
"""What adapters call the layer that they stand around, or the virtual tokens that they add."""


@dataclass(frozen=True)
class LoRASettings:
    """A low-rank adapter's size and place.

    Attributes:
        rank: rows of A and columns of B.
        alpha: the scale's numerator; twice the rank where not given.
        dropout: the share of a layer's inputs dropped before A.
        targets: `all-linear` (all but the output head), or names of modules.
    """

    rank: int
    alpha: float | None
    dropout: float
    targets: str | list[str]

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigurationError(f"rank must be at least 1, but got {self.rank}")
        if self.alpha is not None and self.alpha <= 0:
            raise ConfigurationError(f"alpha must be greater than 0, but got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ConfigurationError(f"dropout must be at least 0 and less than 1, but got {self.dropout}")
        if not isinstance(self.targets, str) and not is_names(self.targets):
            raise ConfigurationError(
                f"targets must be all-linear or names of modules, but got {self.targets!r}"
            )

    def insert(self, model: Model, context: Context, name: str = "default", **options: Any) -> Any:
        """Put an adapter at each target that is not frozen; everything else stops training but what is new.

        Args:
            model: the base.
            context: names what is frozen.
            name: what PEFT calls the adapter.
            options: further ones of PEFT's configuration.

        Raises:
            ConfigurationError: the base has adapters already, or there is nothing to adapt.
        """
        check_bare(model.module)
        with quiet_libraries():
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(
                r=self.rank,
                lora_alpha=2 * self.rank if self.alpha is None else self.alpha,
                lora_dropout=self.dropout,
                target_modules=linear_layers(model, self.targets, context.frozen),
                modules_to_save=list(model.new) or None,
                task_type=task_type(model.module),
                **options,
            )
            return get_peft_model(model.module, config, adapter_name=name)


def check_choice(name: str, value: str, known: Collection[str]) -> None:
    """Refuse a value that is none of those known.

    Raises:
        ConfigurationError: it is none.
    """
    if value not in known:
        raise ConfigurationError(f"{name} must be {' or '.join(known)}, but got {value!r}")


def is_names(value: Any) -> bool:
    """Tell whether something is a list of names."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def check_bare(module: nn.Module) -> None:
    """Refuse a model that holds adapters.

    Raises:
        ConfigurationError: it does.
    """
    if any(not HOLDERS.isdisjoint(name.split(".")) for name, _ in module.named_modules()):
        raise ConfigurationError(
            "adapters must go onto a base without adapters, but another method has put some in; merge "
            "those into the weights by PEFT's merge_and_unload, and give the result as the model"
        )


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
        if isinstance(module, nn.Linear | Conv1D) and module is not head and not _is_new(model, name)
    ]
    wanted = [targets] if isinstance(targets, str) else targets
    chosen = [name for name in linear if wanted == ["all-linear"] or is_named(name, wanted)]
    left = [name for name in chosen if f"{name}.weight" not in frozen]
    if not chosen:
        kinds = sorted({name.rpartition(".")[2] for name in linear})
        raise ConfigurationError(f"targets must name linear layers ({', '.join(kinds)}), but got {targets}")
    if not left:
        raise ConfigurationError(f"all {len(chosen)} layers that targets names are frozen; freeze fewer")
    return left


def check_pretrained(model: Model) -> None:
    """Refuse a model that has new modules, for methods that have no place for them in what they save.

    Raises:
        ConfigurationError: it has some.
    """
    if model.new:
        raise ConfigurationError(
            f"every part of the model must be pretrained, but {', '.join(model.new)} begins with random weights, "
            "which would have to be trained and saved beside; take lora, dora, ia3, adapters, freeze or full, or "
            "a decoder with by=likelihood"
        )


def _is_new(model: Model, name: str) -> bool:
    return any(name == new or name.startswith(f"{new}.") for new in model.new)


def is_named(name: str, wanted: list[str]) -> bool:
    """Tell whether a module's whole name, or its end, is among those wanted."""
    return any(name == each or name.endswith(f".{each}") for each in wanted)


def _output_head(module: nn.Module) -> nn.Module | None:
    from transformers import PreTrainedModel

    return module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None


def task_type(module: nn.Module) -> str | None:
    """Give the kind of model as PEFT's folders name it."""
    from transformers import PreTrainedModel

    kinds = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}
    for ending, kind in kinds.items():
        if type(module).__name__.endswith(ending):
            return kind
    if not isinstance(module, PreTrainedModel) or not module.can_generate():
        return None
    return "SEQ_2_SEQ_LM" if module.config.is_encoder_decoder else "CAUSAL_LM"
