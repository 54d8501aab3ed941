"""What of a trial survives a kill: what training changed, its methods' state, where it is, what it has cost.

    checkpoints/stage1-end-<digest>.pt       the end of stage 1
    checkpoints/stage2-step40-<digest>.pt    40 optimizer steps into stage 2

The name holds the digest of the content, so that a torn or altered file is known and the one before it
is taken. Each trial has its own: trials can train together and apart.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from myosotis.adaptation import Adapted
from myosotis.interfaces import Method
from myosotis.ledger import file_hash
from myosotis.storage import stored

KEPT = 2
"""Checkpoints of each kind that stay: the newest, and the one before it."""

logger = logging.getLogger(__name__)


@dataclass
class Costs:
    """What a trial has taken so far, over all the processes that it ran in.

    Attributes:
        realised: the share of each stage's rows that each task had.
        realised_tokens: the same of its tokens.
        evaluation_seconds: without the base's row, which trials share.
    """

    seconds: float = 0.0
    training_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    tokens: int = 0
    steps: int = 0
    realised: dict[str, dict[str, float]] = field(default_factory=dict)
    realised_tokens: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """A stage that is not over yet.

    Attributes:
        rows: rows trained on in the stage, by task.
        tokens: their tokens, by task.
        optimizer: the optimizer's state, by the parameters' names.
        unlogged: the losses since the last entry of the training log.
        generator: the state of the methods' own source of randomness.
        random: the states of the process's generators.
        early_stopping: what early stopping has seen.
        others: where several processes train the trial, the states of the generators of those after the first.
    """

    rows: Mapping[str, int]
    tokens: Mapping[str, int]
    seconds: float
    optimizer: Mapping[str, Mapping[str, Any]]
    unlogged: list[float]
    generator: torch.Tensor
    random: Mapping[str, Any]
    early_stopping: Mapping[str, Any]
    others: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, order=True)
class Position:
    """How far a trial has come: optimizer steps into a stage; the stage's end is `END` steps in."""

    stage: int
    step: int


END = 2**31
START = Position(0, END)
"""Before the first stage."""


@dataclass(frozen=True)
class Checkpoint:
    """A trial at one moment.

    Attributes:
        changed: parameters that train in any stage and buffers, by name.
        methods: each method's state.
        training: what only a stage that is not over has.
    """

    position: Position
    changed: Mapping[str, torch.Tensor]
    methods: Mapping[str, dict[str, Any]]
    costs: Costs
    training: Training | None = None

    @classmethod
    def of(
        cls,
        position: Position,
        adapted: Adapted,
        methods: Mapping[str, Method],
        costs: Costs,
        training: Training | None = None,
    ) -> Checkpoint:
        """Take a trial's state."""
        changed = {name: value.detach().cpu() for name, value in changing(adapted).items()}
        states = {name: method.state_dict() for name, method in methods.items()}
        return cls(position, changed, states, costs, training)

    def restore(self, adapted: Adapted, methods: Mapping[str, Method]) -> None:
        """Give a trial that was set up anew its state back."""
        current = changing(adapted)
        with torch.no_grad():
            for name, value in self.changed.items():
                current[name].copy_(value)
        for name, method in methods.items():
            method.load_state_dict(self.methods[name])


def changing(adapted: Adapted) -> dict[str, torch.Tensor]:
    """Give what training changes: parameters that train in any stage, and buffers that are saved."""
    module = adapted.model.module
    trained = adapted.ever_trainable()
    persistent = (
        module.state_dict(keep_vars=True).keys()
        - dict(module.named_parameters(remove_duplicate=False)).keys()
    )
    buffers = {name: value for name, value in module.named_buffers() if name in persistent}
    return {**{name: parameter.data for name, parameter in trained.items()}, **buffers}


class CheckpointFolder:
    """A trial's checkpoints: each is there whole or not at all, and only the newest stay.

    Args:
        folder: where they lie.
        device: where the trial computes; what was on such a device is read back to it.
    """

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        self.folder = folder
        self.device = device or torch.device("cpu")

    def positions(self) -> dict[Position, Path]:
        """List what there is, the oldest first."""
        found = {}
        for path in self.folder.glob("*.pt"):
            match = re.fullmatch(r"stage(\d+)-(?:end|step(\d+))-[0-9a-f]{32}\.pt", path.name)
            if match:
                found[Position(int(match[1]), int(match[2] or END))] = path
        return dict(sorted(found.items()))

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then remove those that nothing needs any more."""
        position = checkpoint.position
        where = "end" if position.step == END else f"step{position.step}"
        temporary = self.folder / f".stage{position.stage}-{where}.partial"
        with stored(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    torch.save(_plain(checkpoint), file)
                    file.flush()
                    os.fsync(file.fileno())
                written = self.folder / f"stage{position.stage}-{where}-{file_hash([temporary])}.pt"
                temporary.replace(written)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        for older in self.folder.glob(f"stage{position.stage}-{where}-*.pt"):
            if older != written:
                older.unlink(missing_ok=True)
        self._rotate(position)

    def _rotate(self, newest: Position) -> None:
        ends = [position for position in self.positions() if position.step == END]
        steps = [position for position in self.positions() if position.step != END]
        # A stage is begun again from the end of the one before it.
        needed = {*ends[-KEPT:], *[each for each in steps if each.stage == newest.stage][-KEPT:]}
        for position, path in self.positions().items():
            if position not in needed:
                path.unlink(missing_ok=True)

    def resumable(self) -> list[Position]:
        """List the positions from which the trial can go on, the newest first.

        In the middle of a stage that takes the end of the stage before it, too.
        """
        whole = [position for position in self.positions() if self._is_whole(position)]
        ends = {START.stage, *[position.stage for position in whole if position.step == END]}
        return [each for each in reversed(whole) if each.step == END or each.stage - 1 in ends]

    def _is_whole(self, position: Position) -> bool:
        path = self.positions()[position]
        if file_hash([path]) == path.stem.rpartition("-")[2]:
            return True
        logger.warning("%s is not what was written (its checksum differs); the one before it is used", path)
        return False

    def read(self, at: Position) -> Checkpoint:
        """Read a checkpoint; nothing in it can run code."""
        state = torch.load(self.positions()[at], map_location=self._place, weights_only=True)
        return Checkpoint(
            at,
            state["changed"],
            state["methods"],
            Costs(**state["costs"]),
            Training(**state["training"]) if state["training"] else None,
        )

    def _place(self, storage: Any, location: str) -> Any:
        """Put a tensor where it was: what a method keeps on the CPU may be more than the device has room for."""
        device = "cpu" if location == "cpu" else str(self.device)
        return torch.serialization.default_restore_location(storage, device)  # type: ignore[no-untyped-call]

    def remove(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _plain(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "changed": dict(checkpoint.changed),
        "methods": dict(checkpoint.methods),
        "costs": asdict(checkpoint.costs),
        "training": dict(vars(checkpoint.training)) if checkpoint.training else None,
    }
