"""A study's data as its model sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from myosotis.config import composer, explained
from myosotis.data_check import findings, record
from myosotis.data_record import DataRecord, SplitRecord
from myosotis.errors import ConfigurationError, located
from myosotis.interfaces import Model, Piece, Rows, Task
from myosotis.plugins import load_registry
from myosotis.points import expand
from myosotis.resolve import SPLITS, Resolver, TrialConfig
from myosotis.rows import encoded, first
from myosotis.storage import replacing
from myosotis.study_data import StudyData
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
            rows = first(loaded.rows(task, split if task.role == "task" else "test"), 10 * count)
            examples = limited(encoded(task.objective, rows, loaded.model), count)
            for number, example in enumerate(examples, 1):
                pieces = task.objective.pieces(example, loaded.model)
                yield ShownRow(task.name, number, task.objective.tokens(example), pieces)


def checked(overrides: Sequence[str]) -> DataRecord:
    """Look at all that the first trial that overrides describe trains on and is scored on.

    Raises:
        ConfigurationError: the trial's configuration or its rows are not what they must be.
    """
    loaded = _Loaded.of(overrides)
    splits = StudyData(loaded.workspace, lambda config: loaded.model, most=None).splits(loaded.config)
    return DataRecord([record(each) for each in splits], list(findings(splits)))


def draw_lengths(splits: Sequence[SplitRecord], path: Path) -> None:
    """Draw how long rows are before they are cut, a histogram a split; `.svg` or `.png`.

    Raises:
        ConfigurationError: the file's name ends otherwise, or no rows are texts.
    """
    from myosotis.report.data import lengths
    from myosotis.report.pictures import Picture, png, svg

    if path.suffix not in (".svg", ".png"):
        raise ConfigurationError(f"--picture must end in .svg or .png, but got {path}")
    charts = list(lengths(splits))
    if not charts:
        raise ConfigurationError("--picture must have rows that are texts, but there are none")
    drawn = svg(Picture("lengths", "data", "Lengths", charts))
    with replacing(path) as temporary:
        temporary.write_bytes(png(drawn) if path.suffix == ".png" else drawn.encode())


def lines(row: ShownRow) -> Iterator[tuple[str, str]]:
    """Give runs of tokens that are trained on, or only shown, each with which of the two it is."""
    for trained, run in groupby(row.pieces, key=lambda piece: piece.trained):
        text = "|".join(_visible(piece) for piece in run)
        yield (TRAINED if trained else SHOWN), text


def _visible(piece: Piece) -> str:
    text = piece.text.translate(VISIBLE)
    return f"{text}→{piece.note}" if piece.note else text
