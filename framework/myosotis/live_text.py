"""What the live view of a study looks like, in a terminal of any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from rich.console import Console, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from myosotis.course import Course, State, TrialCourse
from myosotis.progress import left

Line = list[Segment]

CELLS: dict[State, tuple[str, str]] = {
    "failed": ("x", "bold red"),
    "running": (">", "bold yellow"),
    "elsewhere": ("e", "magenta"),
    "stopped": ("-", "yellow"),
    "waiting": (".", "dim"),
    "finished": ("#", "green"),
    "pruned": ("/", "blue"),
    "reused": ("=", "cyan"),
}
"""Each state's cell and its style; a cell that stands for several trials shows the first of these that is there."""
BLOCK = 10
"""Cells between two gaps."""
GRID_LINES = 8
"""The most lines that the grid has."""
TABLE_WIDTH = 100
"""Columns from which on the running trials are a table."""
TABLE_HEADER = 2
"""Lines of its header."""
BAR = 10
"""Columns of a bar."""
INDENT = GAP = "  "
HEADLINE = ("learned", "forgotten", "forgotten_base")


def frame(course: Course, console: Console) -> list[Line]:
    """Draw how far a study has come, in lines that fit the console."""

    def lines(part: RenderableType) -> list[Line]:
        return console.render_lines(part, pad=False)

    width, height = console.size
    head = lines(Group(Text(f"study {course.study}: {left(course)}", "bold"), *_grid(course, width, height)))
    foot = lines(Text(course.place, overflow="fold")) if course.place else []
    running = [each for each in course.trials.values() if each.state == "running"]
    # The cursor is in the last line, and another would scroll.
    room = max(0, height - len(head) - len(foot) - 1)
    return [*head, *_running(running, width, room, lines), *foot]


# The grid


def _grid(course: Course, width: int, height: int) -> list[RenderableType]:
    """Draw a cell a trial, under how many there are of each state."""
    states = [each.state for each in course.trials.values()]
    a_line = max(1, (width + 1) // (BLOCK + 1)) * BLOCK
    lines = max(1, min(GRID_LINES, height // 3))
    together = math.ceil(len(states) / (a_line * lines))
    counts = course.counts()
    legend = [_count(state, counts[state]) for state in CELLS if counts[state]]
    if together > 1:
        legend.append(Text(f"a cell is {together} trials"))
    order = list(CELLS)
    cells = [min(group, key=order.index) for group in _parts(states, together)]
    return [*_packed(legend, width), *map(_cells, _parts(cells, a_line))]


def _count(state: State, number: int) -> Text:
    cell, style = CELLS[state]
    return Text.assemble((cell, style), f" {number:,} {state}")


def _cells(states: Sequence[State]) -> Text:
    """Draw cells, with a gap after every block."""
    return Text(" ").join(map(_joined, _parts(states, BLOCK)))


def _joined(states: Sequence[State]) -> Text:
    runs = [(state, len(list(same))) for state, same in groupby(states)]
    return Text.assemble(*((CELLS[state][0] * length, CELLS[state][1]) for state, length in runs))


def _parts(states: Sequence[State], length: int) -> Iterator[Sequence[State]]:
    return (states[start : start + length] for start in range(0, len(states), length))


# The trials that run


def _running(
    trials: Sequence[TrialCourse], width: int, room: int, lines: Callable[[RenderableType], list[Line]]
) -> list[Line]:
    """Draw as many of the running trials as there is room for."""
    blocks: list[list[Line]]
    kept: list[Line] = []
    if trials and width >= TABLE_WIDTH:
        table = lines(_table(trials[:room]))
        kept, blocks = table[:TABLE_HEADER], [[line] for line in table[TABLE_HEADER:]]
    else:
        blocks = [lines(_block(each, width)) for each in trials[:room]]
    shown = 0
    for block in blocks:
        more = shown + 1 < len(trials)
        if len(kept) + len(block) + more > room:
            break
        kept += block
        shown += 1
    hidden = len(trials) - shown
    return [*kept, *lines(Text(f"{hidden} more running", "dim"))] if hidden else kept


def _table(trials: Sequence[TrialCourse]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("trial", no_wrap=True, overflow="ellipsis", ratio=1)
    for header in ("stage", "step", "", "loss", *(name.replace("_", "\n") for name in HEADLINE)):
        table.add_column(header, justify="right", no_wrap=True)
    for each in trials:
        table.add_row(
            Text(each.name),
            _of(each.stage, each.stages),
            _of(each.done, each.total),
            _bar(each),
            _number(each, "loss"),
            *(_number(each, name) for name in HEADLINE),
        )
    return table


def _block(trial: TrialCourse, width: int) -> Group:
    """Draw a trial in a few lines: its name, then what is known of it."""
    told = [f"stage {_of(trial.stage, trial.stages)}", f"step {_of(trial.done, trial.total)}"]
    told.append(f"loss {_number(trial, 'loss')}")
    for name in HEADLINE:
        if not math.isnan(trial.values.get(name, math.nan)):
            told.append(f"{name.replace('_', ' ')} {_number(trial, name)}")
    lines = _packed([_bar(trial), *map(Text, told)], width - len(INDENT))
    return Group(Text(trial.name, "bold"), *(Text(INDENT).append_text(line) for line in lines))


def _bar(trial: TrialCourse) -> Text:
    done = round(BAR * trial.share)
    return Text.assemble(("━" * done, "green"), ("─" * (BAR - done), "dim"))


def _of(part: int, whole: int) -> str:
    return f"{part}/{whole}" if part else "–"


def _number(trial: TrialCourse, name: str) -> str:
    value = trial.values.get(name, math.nan)
    if math.isnan(value):
        return "–"
    return f"{value:+.4f}" if name in HEADLINE else f"{value:.4g}"


def _packed(phrases: Sequence[Text], width: int) -> list[Text]:
    """Put phrases into lines, as many into each as fit."""
    lines: list[Text] = []
    for phrase in phrases:
        if lines and lines[-1].cell_len + len(GAP) + phrase.cell_len <= width:
            lines[-1] = Text(GAP).join([lines[-1], phrase])
        else:
            lines.append(phrase)
    return lines
