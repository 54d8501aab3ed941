"""Freezing parts of the base."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Context, Method, Model, Stage
from myosotis_plugins.blocks import find_blocks

MYOSOTIS_API = 1


class Freeze(Method):
    """Keep chosen blocks, embeddings or parameters of the base as they are, for good or for a while.

    What is chosen adds up. Adapters of other methods do not go into frozen layers.

    With `unfreeze_every`, of what is not frozen for good each stage begins to train the last block and what
    follows it; one block more joins every so many optimizer steps, and last what comes before the blocks. What
    rests has no gradient when the optimizer steps, so that nothing of it moves, by weight decay neither. The
    paper adds a layer an epoch, and begins once.

    Cost: none; what is frozen takes no gradient and no numbers of the optimizer, and where the first blocks are,
    they are computed once an example. The backward pass goes through resting blocks all the same.

    Args:
        first: the embeddings and this many blocks from the input; 0 freezes nothing.
        last: this many blocks before the output.
        blocks: ranges of blocks counted from 0, such as `0-3,7`.
        pattern: a regular expression searched for in the parameters' names.
        embeddings: the embeddings of tokens and positions, and with them a tied head.
        unfreeze_every: optimizer steps until one more block trains; 0 trains all from the beginning.
    """

    paper = (
        "Howard and Ruder 2018, Universal Language Model Fine-tuning for Text Classification, arXiv:1801.06146 "
        "(gradual unfreezing)"
    )
    cohort_fields = frozenset({"first", "last", "blocks", "pattern", "embeddings", "unfreeze_every"})

    def __init__(
        self,
        first: int = 0,
        last: int = 0,
        blocks: str = "",
        pattern: str = "",
        embeddings: bool = False,
        unfreeze_every: int = 0,
    ) -> None:
        for name, value in (("first", first), ("last", last), ("unfreeze_every", unfreeze_every)):
            if value < 0:
                raise ConfigurationError(f"{name} must be at least 0, but got {value}")
        self.first = first
        self.last = last
        self.blocks = parse_ranges(str(blocks))
        self.pattern = _compiled(pattern)
        self.embeddings = embeddings
        self.unfreeze_every = unfreeze_every
        self._from_top: Sequence[Sequence[nn.Parameter]] = ()

    def frozen(self, model: Model) -> Collection[str]:
        """Name the parameters of everything chosen.

        Raises:
            ConfigurationError: more blocks than there are, or a pattern that matches nothing.
        """
        named = {id(parameter): name for name, parameter in model.module.named_parameters()}
        modules = self._chosen_blocks(model.module)
        if self.embeddings or self.first:
            modules += [each for each in model.module.modules() if isinstance(each, nn.Embedding)]
        frozen = {named[id(parameter)] for module in modules for parameter in module.parameters()}
        return frozen | self._matching(list(named.values()))

    def _chosen_blocks(self, module: nn.Module) -> list[nn.Module]:
        if not (self.first or self.last or self.blocks or self.unfreeze_every):
            return []
        blocks = find_blocks(module)
        count = len(blocks)
        for name, value in (("first", self.first), ("last", self.last)):
            if value > count:
                raise ConfigurationError(
                    f"{name} must be at most {count}, the model's blocks, but got {value}"
                )
        beyond = [number for number in self.blocks if number >= count]
        if beyond:
            raise ConfigurationError(f"blocks must be from 0 to {count - 1}, but got {beyond[0]}")
        chosen = {*range(self.first), *range(count - self.last, count), *self.blocks}
        return [blocks[number] for number in sorted(chosen)]

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Look up what each block holds, adapters included."""
        if self.unfreeze_every:
            self._from_top = layers_from_top(context.model.module)

    def after_backward(self, module: nn.Module, context: Context) -> None:
        """Drop the gradients of what rests."""
        if not self.unfreeze_every:
            return
        training = [layer for layer in self._from_top if any(each.requires_grad for each in layer)]
        for layer in training[1 + context.step // self.unfreeze_every :]:
            for parameter in layer:
                parameter.grad = None

    def _matching(self, names: list[str]) -> set[str]:
        if self.pattern is None:
            return set()
        matching = {name for name in names if self.pattern.search(name)}
        if not matching:
            raise ConfigurationError(
                f"pattern must match a parameter's name, but {self.pattern.pattern!r} matches none of "
                f"{len(names)}, such as {names[0]}"
            )
        return matching


def layers_from_top(module: nn.Module) -> list[list[nn.Parameter]]:
    """Divide a model's parameters: the last block's and what follows it, the other blocks', then embeddings'."""
    blocks = [list(block.parameters()) for block in find_blocks(module)]
    embeddings = [each for each in module.modules() if isinstance(each, nn.Embedding)]
    before = [parameter for each in embeddings for parameter in each.parameters()]
    known = {id(parameter) for layer in (*blocks, before) for parameter in layer}
    after = [parameter for parameter in module.parameters() if id(parameter) not in known]
    return [blocks[-1] + after, *reversed(blocks[:-1]), before]


def parse_ranges(text: str) -> tuple[int, ...]:
    """Read ranges such as `0-3,7`.

    Raises:
        ConfigurationError: the text is no such list.
    """
    numbers: list[int] = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise ConfigurationError(f"blocks must be ranges such as '0-3,7', but got {text!r}")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(numbers)


def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern) if pattern else None
    except re.error as error:
        raise ConfigurationError(f"pattern must be a regular expression, but {pattern!r}: {error}") from error


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"freeze": Freeze}
