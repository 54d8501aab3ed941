"""A study's data as its model sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from myosotis.config import composer, explained
from myosotis.errors import ConfigurationError, located
from myosotis.interfaces import Piece
from myosotis.plugins import load_registry
from myosotis.points import expand
from myosotis.resolve import SPLITS, Resolver
from myosotis.workspace import Workspace, limited

VISIBLE = str.maketrans({"\n": "⏎", "\t": "⇥", "\r": "␍"})
TRAINED, SHOWN = "trained on", "shown"


@dataclass(frozen=True)
class ShownRow:
    """An encoded row.

    Attributes:
        task: the task or probe that it is of.
        number: counted from 1.
        tokens: how many it has.
        pieces: its tokens.
    """

    task: str
    number: int
    tokens: int
    pieces: Sequence[Piece]


def shown_rows(overrides: Sequence[str], split: str, count: int) -> Iterator[ShownRow]:
    """Encode the first rows of every task and probe of the first trial that overrides describe.

    Args:
        overrides: as for `run`.
        split: train, validation or test; a probe without it is shown by its test split.
        count: rows of each.

    Raises:
        ConfigurationError: the trial's configuration is not what it must be, or its rows are no text.
    """
    if split not in SPLITS:
        raise ConfigurationError(f"--split must be one of {', '.join(SPLITS)}, but got {split}")
    registry = load_registry()
    with composer() as compose, explained():
        point = expand(compose, "config", list(overrides), {}, {})[0]
        config = Resolver(registry).resolve(compose.compose("config", point.overrides))
    workspace = Workspace(Path(), registry)
    model = config.model.outline(config.objectives)
    for task in config.tasks.values():
        with located(f"{'dataset' if task.role == 'task' else task.role}.{task.name}"):
            rows = workspace.rows(
                task, config.identities[task.name], split if task.role == "task" else "test"
            )
            first = [rows[index] for index in range(min(len(rows), 10 * count))]
            for number, example in enumerate(limited(task.objective.encode(first, model), count), 1):
                pieces = task.objective.pieces(example, model)
                yield ShownRow(task.name, number, task.objective.tokens(example), pieces)


def lines(row: ShownRow) -> Iterator[tuple[str, str]]:
    """Give runs of tokens that are trained on, or only shown, each with which of the two it is."""
    for trained, run in groupby(row.pieces, key=lambda piece: piece.trained):
        text = "|".join(_visible(piece) for piece in run)
        yield (TRAINED if trained else SHOWN), text


def _visible(piece: Piece) -> str:
    text = piece.text.translate(VISIBLE)
    return f"{text}→{piece.note}" if piece.note else text
