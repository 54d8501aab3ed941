"""Seconds a step (forward and backward) of several LoRA trials: one by one by PEFT, and stacked on one base.

Three ways in turn each round, so that a drift of the machine meets all; medians with their spread:

- one by one: each trial's own PEFT model over its own rows;
- generic: stacked, each trial's layers called one by one;
- fast: stacked, the method's own operation a layer.

    python experiments/benchmarks/stacking.py --model DIR
    python experiments/benchmarks/stacking.py --ranks 8,8,8,8,8,8,8,8 --threads 1 --shapes 2x64
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from myosotis.interfaces import Context, Model, Stage
from myosotis.stacking import Branch, Stack, obstacle
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.models.huggingface import HuggingFace
from myosotis_plugins.models.nano import Nano

RANKS = (1, 2, 4, 8, 16, 32, 48, 64)


def context(model: Model) -> Context:
    """Make a context of nothing but a model."""
    return Context(
        model=model,
        tasks={},
        stage=Stage(0, {}),
        step=0,
        steps=0,
        generator=torch.Generator(),
        frozen=frozenset(),
        outline=False,
        training_loss=lambda module, batch: torch.zeros(()),
        training_batches=lambda size: iter(()),
    )


class Trials:
    """One LoRA a rank on one base."""

    def __init__(self, base: nn.Module, ranks: Sequence[int]) -> None:
        self.base = base
        self.branches = [Branch(base) for _ in ranks]
        models = [Model(branch.module) for branch in self.branches]
        self.modules = [
            LoRA(rank=rank).adapt(model, context(model)) for rank, model in zip(ranks, models, strict=True)
        ]
        assert not any(map(obstacle, self.branches, self.modules))
        self.generic = Stack(base, self.branches)
        self.fast = Stack(base, self.branches, [LoRA])

    def one_by_one(self, rows: Sequence[Tensor]) -> None:
        for module, own in zip(self.modules, rows, strict=True):
            mean_loss(module(input_ids=own, use_cache=False).logits, own).backward()

    def stacked(self, stack: Stack, rows: Sequence[Tensor]) -> None:
        sizes = [len(own) for own in rows]
        with stack.rows(sizes):
            logits = stack.module(input_ids=torch.cat(list(rows)), use_cache=False).logits
        losses = [mean_loss(each, own) for each, own in zip(logits.split(sizes), rows, strict=True)]
        torch.stack(losses).sum().backward()

    def seconds(self, step: Callable[[], None], steps: int) -> float:
        """Give the seconds of one step, its gradients thrown away."""
        begun = time.perf_counter()
        for _ in range(steps):
            step()
            for module in self.modules:
                module.zero_grad()
        return (time.perf_counter() - begun) / steps


def mean_loss(logits: Tensor, ids: Tensor) -> Tensor:
    shifted = functional.pad(ids[:, 1:], (0, 1), value=-100)
    return functional.cross_entropy(logits.flatten(0, 1), shifted.flatten(), ignore_index=-100)


def compare(trials: Trials, rows: int, length: int, rounds: int, steps: int) -> None:
    """Time the three ways in turn and print them."""
    vocabulary = trials.base.get_input_embeddings().num_embeddings  # type: ignore[operator]
    batches = [torch.randint(0, vocabulary, (rows, length)) for _ in trials.modules]
    ways: dict[str, Callable[[], None]] = {
        "one by one": lambda: trials.one_by_one(batches),
        "generic": lambda: trials.stacked(trials.generic, batches),
        "fast": lambda: trials.stacked(trials.fast, batches),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            seconds = trials.seconds(way, steps)
            if number:  # the first round warms up
                measured[name].append(seconds)
    for name, seconds in measured.items():
        ratios = [mine / alone for mine, alone in zip(seconds, measured["one by one"], strict=True)]
        print(
            f"{rows}x{length} threads={torch.get_num_threads()} {name:10}"
            f" {1000 * statistics.median(seconds):7.1f} ms a step, ratio {statistics.median(ratios):.3f}"
            f" ({min(ratios):.3f} to {max(ratios):.3f}), n = {len(ratios)}",
            flush=True,
        )


def shape(text: str) -> tuple[int, int]:
    rows, _, length = text.partition("x")
    return int(rows), int(length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder; the embedded model where there is none")
    parser.add_argument("--ranks", default=RANKS, type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--shapes", nargs="+", type=shape, default=[(2, 64), (8, 128)])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="steps a way in a round")
    args = parser.parse_args()
    factory = HuggingFace(str(args.model)) if args.model else Nano()
    trials = Trials(factory.load([]).module, args.ranks)
    print(f"{len(args.ranks)} trials, ranks {', '.join(map(str, args.ranks))}")
    for threads in args.threads:
        torch.set_num_threads(threads)
        for rows, length in args.shapes:
            compare(trials, rows, length, args.rounds, args.steps)


if __name__ == "__main__":
    main()
