"""Composing a trial's methods into one module, and knowing what of it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from myosotis.errors import ConfigurationError, PluginError, located
from myosotis.interfaces import Blocks, Context, Method, Model
from myosotis.prefix import frozen_prefix


@dataclass(frozen=True)
class Adapted:
    """A model with its methods in place.

    Attributes:
        model: the module to train, and its tokenizer.
        silent: modules of the base that run without dropout while the rest trains.
        trained: names of what trained when the methods had adapted; a method may let parts of it rest in a stage.
        prefix: the blocks from the first on in which nothing trains, where nothing before them does either.
    """

    model: Model
    silent: tuple[nn.Module, ...]
    trained: frozenset[str] = frozenset()
    prefix: Blocks = field(default_factory=Blocks)

    def train(self) -> None:
        """Put the module into training mode, with the frozen base's dropout off."""
        self.model.module.train()
        for module in self.silent:
            module.training = False

    def trainable(self) -> dict[str, nn.Parameter]:
        """Give the parameters that train now, by name."""
        named = self.model.module.named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}

    def ever_trainable(self) -> dict[str, nn.Parameter]:
        """Give the parameters that train in any stage, by name."""
        named = self.model.module.named_parameters()
        return {name: each for name, each in named if each.requires_grad or name in self.trained}


def overriding(methods: Mapping[str, Method], hook: str) -> dict[str, Method]:
    """Choose the methods that override a hook, so that the others cost nothing."""
    return {
        name: method
        for name, method in methods.items()
        if getattr(type(method), hook) is not getattr(Method, hook)
    }


def frozen_names(model: Model, methods: Mapping[str, Method]) -> frozenset[str]:
    """Collect the base's parameters that some method freezes.

    Raises:
        PluginError: a method names a parameter that the base does not have.
    """
    known = {name for name, _ in model.module.named_parameters()}
    frozen: set[str] = set()
    for name, method in methods.items():
        with located(f"method.{name}"):
            names = set(method.frozen(model))
        if names - known:
            raise PluginError(
                f"method {name} freezes parameters that the model does not have: {sorted(names - known)[:3]}"
            )
        frozen |= names
    return frozenset(frozen)


def adapt(
    model: Model,
    methods: Mapping[str, Method],
    context: Context,
    trains: bool,
    blocks: Callable[[nn.Module], Blocks] = lambda module: Blocks(),
    base_dropout: bool = True,
) -> Adapted:
    """Let every method adapt the model, in the order in which they were given; it is left in evaluation mode.

    Args:
        model: the untouched base.
        methods: the trial's methods by name.
        context: holds `frozen`, as `frozen_names` collected it.
        trains: whether there is anything to train for.
        blocks: finds the blocks of the adapted module, as its model factory does.
        base_dropout: whether what trains of the base has its dropout while it trains.

    Raises:
        ConfigurationError: nothing is left to train.
    """
    base_modules = dict(model.module.named_modules())
    base_parameters = dict(model.module.named_parameters())
    module = model.module
    for name, method in methods.items():
        with located(f"method.{name}"):
            module = method.adapt(replace(model, module=module), context)
    for parameter in context.frozen:
        base_parameters[parameter].requires_grad_(False)
    prefix = frozen_prefix(blocks(module))
    silent = (*_silent(base_modules, base_parameters), *_silent_before(prefix, module))
    if not base_dropout:
        silent = tuple(base_modules.values())
    trained = frozenset(name for name, each in module.named_parameters() if each.requires_grad)
    adapted = Adapted(replace(model, module=module.eval()), silent, trained, prefix)
    if trains and not adapted.trainable():
        total = sum(parameter.numel() for parameter in base_parameters.values())
        raise ConfigurationError(
            f"method={'+'.join(methods) or '[]'} leaves 0 of {total:,} parameters to train; "
            "freeze less, or add a method that trains something"
        )
    return adapted


def _silent(
    modules: Mapping[str, nn.Module], parameters: Mapping[str, nn.Parameter]
) -> tuple[nn.Module, ...]:
    """Find the base's modules whose surroundings do not train.

    A module without parameters, such as a dropout, belongs to the nearest module around it that has some.
    """
    owners = {_parent(name, depth) for name in parameters for depth in range(name.count(".") + 1)}
    training = {
        _parent(name, depth)
        for name, parameter in parameters.items()
        if parameter.requires_grad
        for depth in range(name.count(".") + 1)
    }
    return tuple(module for name, module in modules.items() if _owner(name, owners) not in training)


def _silent_before(prefix: Blocks, module: nn.Module) -> Iterator[nn.Module]:
    """Find what else runs without dropout, so that what goes into a frozen first block is always the same.

    It is what runs before that block, and the modules around it, whose own dropout is mostly on its input.
    """
    for each in prefix.before:
        yield from each.modules()
    if prefix:
        yield from (each for each in module.modules() if _around(each, prefix.chain[0]))


def _around(module: nn.Module, block: nn.Module) -> bool:
    return module is not block and any(each is block for each in module.modules())


def _parent(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def _owner(name: str, owners: set[str]) -> str:
    while name not in owners and name:
        name = name.rpartition(".")[0]
    return name
