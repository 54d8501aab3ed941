"""A study's data as its model sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from myosotis.check import TrialCheck, check_length
from myosotis.config import composer, plain
from myosotis.data_check import findings
from myosotis.data_record import DataRecord, SplitRecord, joined
from myosotis.data_split import record, texts_of
from myosotis.errors import ConfigurationError, located
from myosotis.explained import explained
from myosotis.interfaces import Piece
from myosotis.own_texts import marked
from myosotis.plugins import load_registry
from myosotis.points import expand, whole
from myosotis.resolve import SPLITS, Resolver, TrialConfig
from myosotis.rows import encoded, first
from myosotis.storage import replacing
from myosotis.study_data import StudyData, data_key
from myosotis.workspace import Workspace, limited, place_of

VISIBLE = str.maketrans({"\n": "⏎", "\t": "⇥", "\r": "␍"})
TRAINED, SHOWN, TEMPLATE = "trained on", "shown", "template"


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
    """A study's trials, one of each that has other data."""

    configs: Sequence[TrialConfig]
    workspace: Workspace

    @classmethod
    def of(cls, overrides: Sequence[str]) -> _Loaded:
        registry = load_registry()
        resolver = Resolver(registry)
        with composer() as compose, explained():
            arguments, master = whole(compose, overrides, "config")
            arms, params = plain(master.arms) or {}, plain(master.hydra.sweeper.get("params")) or {}
            points = expand(compose, "config", arguments, arms, params, ends=True)
            different: dict[str, TrialConfig] = {}
            for point in points:
                config = resolver.resolve(compose.compose("config", point.overrides))
                different.setdefault(data_key(config, None), config)
        return cls(list(different.values()), Workspace(Path(), registry))


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
    config = loaded.configs[0]
    model = config.model.outline(config.objectives)
    for task in config.tasks.values():
        with located(place_of(task)):
            name = split if task.role == "task" else "test"
            rows = first(loaded.workspace.rows(task, config.identities[task.name], name), 10 * count)
            examples = encoded(task.objective, rows, model)
            one_each = task.objective.row_by_row and len(examples) == len(rows)
            for index, example in enumerate(limited(examples, count)):
                pieces = task.objective.pieces(example, model)
                known = marked(pieces, list(texts_of(rows[index]))) if one_each else pieces
                yield ShownRow(task.name, index + 1, task.objective.tokens(example), known)


def checked(overrides: Sequence[str]) -> tuple[DataRecord, int]:
    """Look at all that the trials that overrides describe train on and are scored on.

    Returns:
        What was found, and how many different data the trials have.

    Raises:
        ConfigurationError: a trial's configuration or its rows are not what they must be.
    """
    loaded = _Loaded.of(overrides)
    check = TrialCheck(loaded.workspace)
    data = StudyData(loaded.workspace, check.outline, most=None)
    records = []
    for config in loaded.configs:
        for task in config.tasks.values():
            with located(place_of(task)):
                check_length(task.objective, check.outline(config))
        splits = data.splits(config)
        records.append(DataRecord([record(each) for each in splits], list(findings(splits))))
    return joined(records), len(records)


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
    """Give runs of tokens that are trained on, only shown, or of the template, each with which it is."""
    for what, run in groupby(row.pieces, key=_what):
        yield what, "|".join(_visible(piece) for piece in run)


def _what(piece: Piece) -> str:
    if piece.trained:
        return TRAINED
    return TEMPLATE if piece.template else SHOWN


def _visible(piece: Piece) -> str:
    text = piece.text.translate(VISIBLE)
    return f"{text}→{piece.note}" if piece.note else text
