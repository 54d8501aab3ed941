"""A live view of a study, in a terminal: its trials as a grid, and what those that run are at."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, final

from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment, SegmentLines
from rich.text import Text

from myosotis.course import Course, TrialCourse
from myosotis.events import Event
from myosotis.live_text import frame
from myosotis.progress import PlainLines, Progress, ending

DRAW_SECONDS = 0.5
"""How often it is drawn: drawing takes a few milliseconds of this process, which may be training."""


def progress_of(course: Course) -> Progress:
    """Give the live view where there is something to see and a terminal to see it in, else plain lines."""
    console = OrderedConsole(stderr=True, highlight=False)
    terminal = sys.stderr is not None and sys.stderr.isatty() and console.is_interactive
    return LiveView(course, console) if terminal and course.to_run else PlainLines(course)


@final
class OrderedConsole(Console):
    """A console on which threads take turns: where a drawing is to be erased depends on what was written before.

    Without turns, what one thread prints may be written between another's finding that place and its writing, and
    a drawing that is not the last one stays. The turn is taken before any other lock, and so in one order.
    """

    def __init__(self, **options: Any) -> None:
        self._turn = threading.RLock()
        super().__init__(**options)

    def __enter__(self) -> Console:
        self._turn.acquire()
        return super().__enter__()

    def __exit__(self, *raised: object) -> None:
        try:
            super().__exit__(*raised)
        finally:
            self._turn.release()


@final
class LiveView(Progress):
    """Draws a study again and again in the last lines of a terminal; what is printed meanwhile stands above.

    Args:
        course: the study's.
        console: the terminal.
    """

    def __init__(self, course: Course, console: OrderedConsole) -> None:
        self.course = course
        self.console = console
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._widths: list[int] = []
        self._live = Live(
            console=console,
            auto_refresh=False,
            # What goes elsewhere than to this terminal must still go there.
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )

    def add(self, trials: Mapping[str, TrialCourse], unknown: int) -> None:
        """Take further trials in, and how many more will come."""
        with self._lock:
            self.course.add(trials, unknown)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw until the context ends, and leave the last drawing."""
        thread = threading.Thread(target=self._keep_drawing, daemon=True)
        with suppress(OSError), self.console:
            self._live.start()
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            try:
                thread.join()
                self.draw()
            finally:  # whatever comes, the terminal gets its cursor back
                with suppress(OSError), self.console:
                    self._live.stop()

    def note(self, text: str) -> None:
        """Print a line above."""
        with suppress(OSError, ValueError):  # nobody may be looking
            self.console.print(Text(text), soft_wrap=True)

    def take(self, event: Event) -> None:
        """Follow what befalls a trial; what must not be missed stays."""
        with self._lock:
            self.course.take(event)
        if event.kind in {"failed", "stopped"}:
            self.note(ending(self.course, event))

    def draw(self) -> None:
        """Draw it as it is now; whatever goes wrong with that, the study goes on."""
        with suppress(Exception):
            with self._lock:
                lines = frame(self.course, self.console)
            with self.console:
                self._erase_wrapped()
                self._live.update(SegmentLines(lines, new_lines=True), refresh=True)
            self._widths = [Segment.get_line_length(line) for line in lines]

    def _erase_wrapped(self) -> None:
        """Erase the rows that a terminal which became narrower has made of the last drawing's lines."""
        width = self.console.width
        rows = sum(max(1, math.ceil(each / width)) - 1 for each in self._widths)
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
        if rows:
            self.console.control(Control((ControlType.ERASE_IN_LINE, 2), *up * rows))

    def _keep_drawing(self) -> None:
        while not self._over.is_set():
            self.draw()
            self._over.wait(DRAW_SECONDS)
