"""Bottleneck adapters: the layer, the places that it goes to, and the folder that holds trained ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from myosotis.errors import ConfigurationError, ModelError
from myosotis_plugins.blocks import find_blocks
from myosotis_plugins.methods.wrapper import Wrapper

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
WEIGHTS = "bottleneck_adapters.safetensors"
SETTINGS = "bottleneck_adapters.json"


class Bottleneck(nn.Module):
    """A layer of the base and what is added to its output: y + up(activation(down(y))), y = layer(x).

    Args:
        base_layer: the layer.
        width: features of y.
        bottleneck: features between down and up.
        activation: what stands between them, one of `ACTIVATIONS`.
    """

    def __init__(self, base_layer: nn.Module, width: int, bottleneck: int, activation: str) -> None:
        super().__init__()
        device = next(base_layer.parameters()).device
        self.base_layer = base_layer
        # Made without values: to draw some would move the random numbers of all that comes after.
        self.down = nn.Linear(width, bottleneck, device="meta").to_empty(device=device)
        self.activation = ACTIVATIONS[activation]()
        self.up = nn.Linear(bottleneck, width, device="meta").to_empty(device=device)

    @property
    def weight(self) -> Any:
        """The layer's own: some models look at its type before they call the layer."""
        return self.base_layer.weight

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Draw down's weight from a normal distribution of deviation 0.01, cut off at 0.02; the rest is 0."""
        drawn = torch.empty(self.down.weight.shape)
        nn.init.trunc_normal_(drawn, std=0.01, a=-0.02, b=0.02, generator=generator)
        self.down.weight.copy_(drawn)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            zero.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the layer, and add."""
        outputs: Tensor = self.base_layer(inputs)
        hidden = self.activation(self.down(outputs.to(self.down.weight.dtype)))
        added: Tensor = self.up(hidden)
        return outputs + added.to(outputs.dtype)

    def own_state(self) -> dict[str, Tensor]:
        """Give what is not the base's."""
        return {
            name: value for name, value in self.state_dict().items() if not name.startswith("base_layer.")
        }


class Bottlenecks(Wrapper):
    """A model with bottleneck adapters, saved as these alone: their weights, and the settings that make them.

    Args:
        inner: the model.
        new: paths of its modules that are no part of the base, and are saved with the adapters.
    """

    def __init__(self, inner: nn.Module, new: Sequence[str] = ()) -> None:
        super().__init__(inner)
        self.new = tuple(new)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and settings; `load_bottlenecks` reads them."""
        layers = {name: each for name, each in self.inner.named_modules() if isinstance(each, Bottleneck)}
        tensors = {
            f"{name}.{part}": value.cpu().contiguous()
            for name, layer in layers.items()
            for part, value in layer.own_state().items()
        }
        tensors |= {
            f"{path}.{part}": value.cpu().contiguous()
            for path in self.new
            for part, value in self.inner.get_submodule(path).state_dict().items()
        }
        save_file(tensors, Path(folder) / WEIGHTS, metadata={"format": "pt"})
        first = next(iter(layers.values()))
        kinds = {kind: name for name, kind in ACTIVATIONS.items()}
        settings = {
            "bottleneck": first.down.out_features,
            "activation": kinds[type(first.activation)],
            "layers": list(layers),
            "new": list(self.new),
        }
        (Path(folder) / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def insert_bottlenecks(
    module: nn.Module, layers: Sequence[str], bottleneck: int, activation: str
) -> Iterator[Bottleneck]:
    """Put adapters, still without values, around layers of a model, by their names; the rest stops training."""
    module.requires_grad_(False)
    for name in layers:
        parent, _, child = name.rpartition(".")
        made = Bottleneck(module.get_submodule(name), hidden_size(module), bottleneck, activation)
        setattr(module.get_submodule(parent), child, made)
        yield made


def load_bottlenecks(module: nn.Module, folder: Path) -> Bottlenecks:
    """Put saved adapters onto their base.

    Raises:
        ModelError: they do not fit it.
    """
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    tensors = load_file(folder / WEIGHTS)
    try:
        made = insert_bottlenecks(module, settings["layers"], settings["bottleneck"], settings["activation"])
        for name, adapter in zip(settings["layers"], made, strict=True):
            state = {part: tensors[f"{name}.{part}"] for part in adapter.own_state()}
            adapter.load_state_dict(state, strict=False)
        for path in settings["new"]:
            own = module.get_submodule(path)
            own.load_state_dict({part: tensors[f"{path}.{part}"] for part in own.state_dict()})
            own.requires_grad_(True)
    except (AttributeError, KeyError, RuntimeError) as error:
        raise ModelError(f"the adapters in {folder} do not fit the model: {error}") from error
    return Bottlenecks(module, settings["new"])


def output_layers(module: nn.Module, attention: bool) -> list[str]:
    """Name the last linear layer of each block's feed-forward part, and of its attention where asked for.

    They are found by what the blocks are made of: one module whose kind is called an attention, with linear
    layers in it and others beside it, the last of each giving as many features as the model has.

    Raises:
        ConfigurationError: a block is made of something else; names the kinds of modules in it.
    """
    names = {id(each): name for name, each in module.named_modules()}
    found = []
    for number, block in enumerate(find_blocks(module)):
        parts = _last_layers(block)
        widths = [width(layer) for layer in parts]
        if widths != [hidden_size(module)] * 2:
            kinds = sorted({type(each).__name__ for each in block.modules()})
            raise ConfigurationError(
                "every block must have one attention and one feed-forward part, each with a last linear layer "
                f"that gives {hidden_size(module)} features, but block {number} is made of {', '.join(kinds)}"
            )
        found += parts if attention else parts[1:]
    return [names[id(layer)] for layer in found]


def _last_layers(block: nn.Module) -> list[nn.Module]:
    """Find the last linear layer of the attention, and of what is beside it; none where experts share the work."""
    from transformers.pytorch_utils import Conv1D

    linear = [each for each in block.modules() if isinstance(each, nn.Linear | Conv1D)]
    attentions = [each for each in block.modules() if "Attention" in type(each).__name__]
    inside = {id(part) for part in attentions[0].modules()} if attentions else set()
    if any(id(each) not in inside for each in attentions) or any(
        "expert" in name for name, _ in block.named_modules()
    ):
        return []
    parts = (
        [each for each in linear if id(each) in inside],
        [each for each in linear if id(each) not in inside],
    )
    return [part[-1] for part in parts if part]


def width(layer: Any) -> int:
    """Give how many features a linear layer gives, whole or quantized."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.nf)


def hidden_size(module: Any) -> int:
    """Give how many features a block gives."""
    return int(module.config.hidden_size)
