"""Events between processes that share a file system alone: one writes lines to a file, which others read."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from myosotis.events import Event

STEP_SECONDS = 1.0
"""Of a trial's steps, one in so long is told."""


@dataclass(frozen=True)
class Ended:
    """All that was to run has ended, and nothing more will be told.

    Attributes:
        reason: why as a whole, where it did not come to its end.
        passing: whether it may go well another time.
    """

    reason: str = ""
    passing: bool = True


class Teller:
    """Writes what befalls trials to a file, at its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Tell an event."""
        now = time.monotonic()
        if event.kind == "step":
            if now - self._last.get(event.trial, -STEP_SECONDS) < STEP_SECONDS:
                return
            self._last[event.trial] = now
        self._write("event", event)

    def end(self, ended: Ended) -> None:
        """Tell that all has ended."""
        self._write("ended", ended)

    def _write(self, kind: str, what: Event | Ended) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({kind: asdict(what)}, ensure_ascii=False, default=float) + "\n")


class Listener:
    """Reads what has been told since the last time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    def heard(self) -> list[Event | Ended]:
        """Give what is new, in order; a line that is still being written comes the next time."""
        try:
            # Opened anew each time: a network file system shows what is new to who opens the file.
            with self.path.open("rb") as file:
                file.seek(self._read)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read += len(whole) + len(newline)
        return [_made(json.loads(line)) for line in whole.splitlines()]


def _made(line: dict[str, dict[str, object]]) -> Event | Ended:
    if "ended" in line:
        return Ended(**line["ended"])  # type: ignore[arg-type]
    return Event(**line["event"])  # type: ignore[arg-type]
