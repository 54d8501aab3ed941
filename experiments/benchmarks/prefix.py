"""Seconds a step with and without the frozen prefix, for each number of frozen blocks.

Two copies of a model train on the same batches in turn, an epoch each; their losses must be equal to the bit.
Random tokens stand for text, so that nothing but a model's folder is needed.

    python prefix.py --model DIR --batch 8 --length 128
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from myosotis.adaptation import Adapted, adapt, frozen_names
from myosotis.interfaces import Context, Method, Stage
from myosotis.prefix import FrozenPrefix
from myosotis.prefix_store import PrefixStore
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.models.huggingface import HuggingFace
from myosotis_plugins.objectives import causal


@dataclass
class Side:
    """A model in training, with the prefix served or without."""

    adapted: Adapted
    prefix: contextlib.AbstractContextManager[object]
    losses: list[float] = field(default_factory=list)
    epochs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.adapted.trainable().values(), lr=1e-3)

    def epoch(self, batches: Sequence[torch.Tensor]) -> None:
        """Train on the batches, and note the seconds a step."""
        started = time.perf_counter()
        for ids in batches:
            with self.prefix:
                scores = causal.logits(self.adapted.model.module, {"input_ids": ids})
            loss = causal.mean_token_loss(scores, ids)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.losses.append(loss.item())
        self.epochs.append((time.perf_counter() - started) / len(batches))


def side(factory: HuggingFace, first: int, store: PrefixStore | None) -> Side:
    """Load the model and freeze its first blocks."""
    model = factory.load([])
    methods: dict[str, Method] = {"freeze": Freeze(first=first)}
    context = Context(
        model=model,
        tasks={},
        stage=Stage(0, {}),
        step=0,
        steps=0,
        generator=torch.Generator(),
        frozen=frozen_names(model, methods),
        outline=False,
        training_loss=lambda module, batch: torch.zeros(()),
        training_batches=lambda size: iter(()),
    )
    adapted = adapt(model, methods, context, trains=True, blocks=factory.blocks)
    adapted.train()
    if store is None:
        return Side(adapted, contextlib.nullcontext())
    return Side(adapted, FrozenPrefix(adapted.model.module, adapted.prefix, store, "benchmark"))


def epochs(args: argparse.Namespace, vocabulary: int) -> Iterator[list[torch.Tensor]]:
    """Give the same examples in a new order, epoch after epoch."""
    generator = torch.Generator().manual_seed(0)
    size = args.steps * args.batch
    examples = torch.randint(vocabulary, (size, args.length), generator=generator)
    for _ in range(args.epochs):
        yield list(examples[torch.randperm(size, generator=generator)].split(args.batch))


def compare(args: argparse.Namespace, factory: HuggingFace, first: int) -> None:
    """Print one line."""
    with tempfile.TemporaryDirectory() as folder:
        plain, served = side(factory, first, None), side(factory, first, PrefixStore(Path(folder), 1 << 34))
        vocabulary = next(plain.adapted.model.module.parameters()).shape[0]
        for number, batches in enumerate(epochs(args, vocabulary)):
            pair = (plain, served) if number % 2 else (served, plain)
            for each in pair:
                each.epoch(batches)
    if plain.losses != served.losses:
        raise SystemExit(f"freeze.first={first}: the losses differ")
    ratios = [own / other for own, other in zip(served.epochs[1:], plain.epochs[1:], strict=True)]
    print(
        f"{first:5d} {1e3 * statistics.median(plain.epochs[1:]):9.2f} "
        f"{1e3 * statistics.median(served.epochs[1:]):9.2f} {statistics.median(ratios):7.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}) {served.epochs[0] / plain.epochs[0]:7.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="batches an epoch")
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    factory = HuggingFace(str(args.model))
    count = len(factory.blocks(factory.outline([]).module))
    print(f"{args.model.name}, {args.batch}x{args.length}, threads: {torch.get_num_threads()}")
    print("first  plain ms  served ms  ratio (its range)     ratio of the first epoch, which fills the store")
    for first in range(1, count):
        compare(args, factory, first)


if __name__ == "__main__":
    main()
