"""A terminal to run the command line in, and what is then to be seen on it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tests.core.commands import search_path

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


def run_in_terminal(
    arguments: Sequence[str],
    folder: Path,
    modules: str = "tests.toy",
    watch: Callable[[str, subprocess.Popen[bytes]], None] = lambda output, process: None,
) -> tuple[int, str]:
    """Run Python in a terminal of its own; give the exit code and all that was written to it.

    Args:
        watch: called with the output so far and the process, whenever there is more.
    """
    path = os.pathsep.join([str(folder), search_path()])
    variables = {"PYTHONPATH": path, "MYOSOTIS_PLUGINS": modules, "TERM": "xterm"}
    process, here = _start([sys.executable, *arguments], folder, variables)
    output = b""
    while part := _read(here):
        output += part
        watch(output.decode(errors="replace"), process)
    os.close(here)
    return process.wait(), output.decode()


def type_in_terminal(
    command: Sequence[str], folder: Path, variables: Mapping[str, str], typed: Iterable[tuple[str, str]]
) -> str:
    """Start a shell in a terminal of its own, type, and end it; give all that was written to the terminal.

    Args:
        variables: of the environment, beside those that are there.
        typed: keys, and what must then come to be seen before the next are typed.

    Raises:
        AssertionError: something did not come within two minutes.
    """
    process, here = _start(command, folder, variables)
    output = ""
    try:
        for keys, awaited in typed:
            os.write(here, keys.encode())
            seen, end = "", time.monotonic() + 120
            while awaited not in seen:
                ready, _, _ = select.select([here], [], [], max(0, end - time.monotonic()))
                assert ready, f"{keys!r} must show {awaited!r}, but shows {seen!r}"
                seen += _read(here).decode(errors="replace")
            output += seen
    finally:
        process.kill()
        process.wait()
        os.close(here)
    return output


def _start(
    command: Sequence[str], folder: Path, variables: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a program in a terminal; give it, and the terminal's other side."""
    # pytest-xdist's workers have these, of no terminal at all, and they would go before this one's size.
    inherited = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**inherited, **variables},
        stdin=there,
        stdout=there,
        stderr=there,
    )
    os.close(there)
    return process, here


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # all that wrote to it have ended
        return b""


def screen(output: str) -> list[str]:
    """Give the lines that are to be seen after some output, on a terminal wide enough for all of them."""
    lines, row, column = [""], 0, 0
    for number, code, text in re.findall(r"\x1b\[\??([0-9;]*)([A-Za-z])|([\r\n]|[^\x1b\r\n]+)", output):
        if code == "A":
            row -= int(number)
        elif code == "K":
            lines[row] = ""
        elif text == "\r":
            column = 0
        elif text == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif text:
            lines[row] = lines[row].ljust(column)[:column] + text + lines[row][column + len(text) :]
            column += len(text)
    return "\n".join(line.rstrip() for line in lines).rstrip("\n").split("\n")
