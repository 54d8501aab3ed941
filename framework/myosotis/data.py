"""A study's data as its model sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from myosotis.config import composer, explained
from myosotis.data_check import CheckedSplit, checked_split
from myosotis.errors import ConfigurationError, located
from myosotis.interfaces import Model, Piece, Rows, Task
from myosotis.plugins import load_registry
from myosotis.points import expand
from myosotis.resolve import SPLITS, Resolver, TrialConfig
from myosotis.storage import stored
from myosotis.workspace import Workspace, limited, place_of

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


@dataclass(frozen=True)
class _Loaded:
    """The first trial of a study, with its data and its model's outline."""

    config: TrialConfig
    workspace: Workspace
    model: Model

    @classmethod
    def of(cls, overrides: Sequence[str]) -> _Loaded:
        registry = load_registry()
        with composer() as compose, explained():
            point = expand(compose, "config", list(overrides), {}, {})[0]
            config = Resolver(registry).resolve(compose.compose("config", point.overrides))
        return cls(config, Workspace(Path(), registry), config.model.outline(config.objectives))

    def rows(self, task: Task, split: str) -> Rows:
        return self.workspace.rows(task, self.config.identities[task.name], split)


def shown_rows(overrides: Sequence[str], split: str, count: int) -> Iterator[ShownRow]:
    """Encode the first rows of every task and probe of the first trial that overrides describe.

    Args:
        overrides: as for `run`.
        split: train, validation or test; a probe is shown by its test split.
        count: rows of each.

    Raises:
        ConfigurationError: the trial's configuration is not what it must be, or its rows are no text.
    """
    if split not in SPLITS:
        raise ConfigurationError(f"--split must be one of {', '.join(SPLITS)}, but got {split}")
    loaded = _Loaded.of(overrides)
    for task in loaded.config.tasks.values():
        with located(place_of(task)):
            rows = loaded.rows(task, split if task.role == "task" else "test")
            first = [rows[index] for index in range(min(len(rows), 10 * count))]
            for number, example in enumerate(limited(task.objective.encode(first, loaded.model), count), 1):
                pieces = task.objective.pieces(example, loaded.model)
                yield ShownRow(task.name, number, task.objective.tokens(example), pieces)


def checked_splits(overrides: Sequence[str]) -> list[CheckedSplit]:
    """Read what the first trial that overrides describe trains on and is scored on.

    Raises:
        ConfigurationError: the trial's configuration or its rows are not what they must be.
    """
    loaded = _Loaded.of(overrides)
    found = []
    for task in loaded.config.tasks.values():
        scored = loaded.config.evaluation.split
        splits = ["train", scored] if task.role == "task" and scored != "train" else [scored]
        with located(place_of(task)):
            for split in splits:
                trains = task.role == "task" and split == "train"
                found.append(checked_split(task, split, loaded.rows(task, split), trains, loaded.model))
    return found


def summary(split: CheckedSplit | None) -> tuple[str, ...]:
    """Give a split's row of the table; of None, the header."""
    if split is None:
        return "", "rows", "tokens", "median", "longest", "lost", "labels"
    counts = sorted(split.tokens)
    middle, longest = (counts[len(counts) // 2], counts[-1]) if counts else ("–", "–")
    tokens, lost = (f"{sum(counts):,}", f"{sum(split.lost):,}") if counts else ("–", "–")
    labels = str(len(split.labels)) if split.labels else "–"
    return split.name, f"{len(split.texts):,}", tokens, str(middle), str(longest), lost, labels


def draw_lengths(splits: Sequence[CheckedSplit], path: Path) -> None:
    """Draw how many tokens rows have before they are cut, a histogram a split; `.svg` or `.png`.

    Raises:
        ConfigurationError: the file's name ends otherwise, or no rows are cut one by one.
    """
    import altair as alt
    import pandas as pd

    if path.suffix not in (".svg", ".png"):
        raise ConfigurationError(f"--picture must end in .svg or .png, but got {path}")
    rows = [{"split": split.name, "tokens": tokens} for split in splits for tokens in split.tokens]
    if not rows:
        raise ConfigurationError("--picture must have rows that are cut one by one, but running text is not")
    chart = (
        alt.Chart(pd.DataFrame(rows), width=480, height=120)
        .mark_bar()
        .encode(
            x=alt.X("tokens:Q", bin=alt.Bin(maxbins=40), title="tokens of a row, before it is cut"),
            y=alt.Y("count():Q", title="rows"),
            row=alt.Row("split:N", title=None, header=alt.Header(labelAngle=0, labelAlign="left")),
        )
        .resolve_scale(y="independent")
    )
    with stored(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        chart.save(str(path))


def lines(row: ShownRow) -> Iterator[tuple[str, str]]:
    """Give runs of tokens that are trained on, or only shown, each with which of the two it is."""
    for trained, run in groupby(row.pieces, key=lambda piece: piece.trained):
        text = "|".join(_visible(piece) for piece in run)
        yield (TRAINED if trained else SHOWN), text


def _visible(piece: Piece) -> str:
    text = piece.text.translate(VISIBLE)
    return f"{text}→{piece.note}" if piece.note else text
