"""The live view: what it shows at which size, what stays above it, and what it leaves behind."""

from __future__ import annotations

import io
import math
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from myosotis.cohort import Control, run_cohort
from myosotis.course import Course, TrialCourse
from myosotis.events import Event
from myosotis.job import Job
from myosotis.ledger import read_json, read_scores, read_study
from myosotis.live import LiveView, OrderedConsole, progress_of
from myosotis.live_text import frame
from myosotis.plugins import load_registry
from myosotis.progress import PlainLines, Progress
from myosotis.resolve import Resolver
from myosotis.trial_task import whole_config
from myosotis.workspace import Workspace
from tests.core.commands import SLOW, resolved, toy
from tests.core.terminal import HIDE_CURSOR, SHOW_CURSOR, run_in_terminal, screen

URL = "W&B: https://wandb.ai/somebody/myosotis/groups/ranks"


def course(waiting: int = 4) -> Course:
    """One trial is finished and one reused; of those that wait, the first has come far and the second failed."""
    trials = {"old": TrialCourse("old", "finished"), "other": TrialCourse("other", "reused")}
    trials |= {f"t{number}": TrialCourse(f"lora lora.rank={number}", stages=2) for number in range(waiting)}
    made = Course(trials, "ranks")
    made.take(Event("t0", "begins"))
    made.take(Event("t0", "opened", place=URL))
    made.take(Event("t0", "step", done=10, total=120, stage=1, values={"loss": 4.0}))
    made.take(
        Event("t0", "scored", values={"learned": 0.25, "forgotten": math.nan, "forgotten_base": -0.125})
    )
    made.take(
        Event("t0", "step", done=90, total=120, stage=2, values={"loss": 2.34567, "learning_rate": 0.1})
    )
    made.take(Event("t1", "failed", error="ValueError: no"))
    return made


def drawn(shown: Course, width: int = 120, height: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    return ["".join(segment.text for segment in line).rstrip() for line in frame(shown, console)]


def test_states_numbers_time_and_place_are_shown() -> None:
    shown = course()
    # 100 seconds for one trial that ended and three quarters of another; two and a quarter are left.
    shown.started -= 100
    lines = drawn(shown)
    assert lines[:3] == [
        "study ranks: about 2 min 9 s left",
        "x 1 failed  > 1 running  . 2 waiting  # 1 finished  = 1 reused",
        "#=>x..",
    ]
    assert lines[4].split() == ["trial", "stage", "step", "loss", "learned", "forgotten", "base"]
    row = ["lora", "lora.rank=0", "2/2", "90/120", "━━━━━━━━──", "2.346", "+0.2500", "–", "-0.1250"]
    assert [*lines[5].split(), lines[6]] == [*row, URL]


def test_a_narrow_terminal_has_it_all_in_lines_that_fit() -> None:
    lines = drawn(course(), width=40, height=24)
    assert max(map(len, lines)) <= 40
    text = " ".join(" ".join(lines).split())
    for told in ("stage 2/2 step 90/120", "loss 2.346 learned +0.2500", "forgotten base -0.1250"):
        assert told in text
    assert "forgotten –" not in text
    assert URL.replace(" ", "") in "".join(lines).replace(" ", "")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_hundreds_of_trials_have_a_cell_each(width: int) -> None:
    lines = drawn(course(238), width=width, height=24)
    grid = [line for line in lines if line and set(line) <= set("#=>x. ")]
    assert "".join(grid).replace(" ", "") == "#=>x" + "." * 236
    assert len(lines) < 24


def test_of_thousands_a_cell_is_several_and_shows_what_asks_for_attention() -> None:
    shown = course(4998)
    for number in range(2, 2000):
        shown.take(Event(f"t{number}", "finished"))
    shown.take(Event("t1000", "failed"))
    lines = drawn(shown, width=120, height=40)
    grid = "".join(line for line in lines if line and set(line) <= set("#=>x. ")).replace(" ", "")
    # 110 cells in each of 8 lines are enough where each stands for 6 trials.
    assert "a cell is 6 trials" in lines[1]
    assert len(grid) == math.ceil(5000 / 6)
    assert [place for place, cell in enumerate(grid) if cell == "x"] == [0, 1002 // 6]
    assert grid.count("#") == 2002 // 6 - 2


def test_of_more_running_trials_than_there_is_room_for_some_are_counted() -> None:
    shown = course(30)
    for number in range(2, 30):
        shown.take(Event(f"t{number}", "begins"))
    lines = drawn(shown, width=120, height=20)
    assert len(lines) == 19
    rows = [line for line in lines if line.startswith("lora")]
    assert lines[-2:] == [f"{29 - len(rows)} more running", URL]
    assert drawn(shown, width=120, height=4)[-2:] == ["29 more running", URL]


def test_a_trial_that_is_begun_again_waits_meanwhile() -> None:
    shown = course()
    shown.take(Event("t0", "waits"))
    assert drawn(shown)[2] == "#=.x.."
    shown.take(Event("t0", "begins"))
    # What it had told is still the latest that is known, but its steps count anew.
    assert (shown.trials["t0"].share, shown.trials["t0"].values["loss"]) == (0, 2.34567)


def test_what_ends_badly_is_told_above_and_stays() -> None:
    output = io.StringIO()
    view = LiveView(course(), OrderedConsole(file=output, width=120, height=40, force_terminal=True))
    with view.shown():
        view.note("retrying")
        view.take(Event("t2", "failed", error="OSError: full"))
        view.take(Event("t3", "locked"))
        view.take(Event("t0", "stopped"))
    lines = screen(output.getvalue().replace("\n", "\r\n"))  # as a terminal does
    assert lines[:3] == [
        "retrying",
        "[3/4] lora lora.rank=2: failed, OSError: full",
        "[1/4] lora lora.rank=0: stopped and saved",
    ]
    assert lines[4:] == [
        "x 2 failed  e 1 elsewhere  - 1 stopped  # 1 finished  = 1 reused",
        "#=-xxe",
        URL,
    ]
    assert output.getvalue().rindex(SHOW_CURSOR) > output.getvalue().rindex(HIDE_CURSOR)


@pytest.fixture
def threads_alternate_often() -> Iterator[None]:
    """What goes wrong only where threads meet at a certain place goes wrong at once."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_alternate_often")
def test_lines_printed_while_another_thread_draws_stand_above_the_one_drawing() -> None:
    output = io.StringIO()
    view = LiveView(course(), OrderedConsole(file=output, width=120, height=40, force_terminal=True))
    told = [f"line {number}" for number in range(500)]
    over = threading.Event()

    def draw() -> None:
        while not over.is_set():
            view.draw()

    drawing = threading.Thread(target=draw)
    with view.shown():
        drawing.start()
        for number, line in enumerate(told):
            view.take(Event("t0", ("waits", "begins")[number % 2]))  # the table comes and goes
            view.note(line)
        over.set()
        drawing.join()
    lines = screen(output.getvalue().replace("\n", "\r\n"))
    assert lines[: len(told)] == told
    left, *rest = lines[len(told) :]
    assert (left.partition(":")[0], rest) == ("study ranks", drawn(view.course)[1:])


def test_a_terminal_that_becomes_narrower_is_erased_as_it_wrapped_the_lines() -> None:
    output = io.StringIO()
    console = OrderedConsole(file=output, width=120, height=40, force_terminal=True)
    view = LiveView(course(), console)
    view._live.start()
    view.draw()
    before = drawn(view.course)
    output.truncate(0)
    console.width = 40
    view.draw()
    rows = sum(max(1, math.ceil(len(line) / 40)) for line in before)
    assert output.getvalue().count("\x1b[1A") == rows - 1
    view._live.stop()


@pytest.mark.parametrize(("term", "kind"), [("xterm", LiveView), ("dumb", PlainLines)])
def test_a_terminal_that_cannot_be_drawn_on_has_plain_lines(
    term: str, kind: type[Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pty.openpty()
    with os.fdopen(here), os.fdopen(there, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("TERM", term)
        assert isinstance(progress_of(course()), kind)
        assert isinstance(
            progress_of(Course({"old": TrialCourse("old", "reused")})), PlainLines
        )  # there is nothing to see


def test_a_pipe_has_a_line_as_a_trial_begins_and_ends() -> None:
    output = io.StringIO()
    shown = Course({"old": TrialCourse("old", "finished"), "a": TrialCourse("a"), "b": TrialCourse("b")}, "s")
    lines = PlainLines(shown, output)
    with lines.shown():
        shown.started -= 60
        lines.take(Event("a", "begins"))
        lines.take(Event("a", "step", done=1, total=4))
        lines.take(Event("b", "locked"))
        lines.take(Event("a", "failed", error="ValueError: no"))
        lines.take(Event("b", "finished"))
    assert output.getvalue().splitlines() == [
        "study s: 3 trials, 1 finished, 2 to run",
        "[1/2] a: begins, time left not known yet",
        "[1/2] a: failed, ValueError: no",
        "[2/2] b: done by another command, none left",
    ]


def test_nobody_at_the_terminal_ends_no_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    progress = progress_of(course())
    assert isinstance(progress, PlainLines)
    progress.note("to nobody")
    with Path(os.devnull).open() as gone:  # cannot be written to
        PlainLines(course(), gone).note("to nobody")
        view = LiveView(course(), OrderedConsole(file=gone, force_terminal=True))
        with view.shown():
            view.note("to nobody")


def test_the_headline_so_far_is_of_what_is_trained_so_far(tmp_path: Path) -> None:
    [config] = resolved("seed=3")
    events: list[Event] = []
    job = Job(config.id, "a", tmp_path / "s" / config.id, "s", whole_config(config))
    registry = load_registry()
    run_cohort([job], Resolver(registry), Workspace(tmp_path, registry), Control(events.append))
    after = [event.values for event in events if event.kind == "scored" and event.values]
    value = {
        (each.stage, each.task): each.value
        for each in read_scores(job.folder / "scores.jsonl")
        if each.metric == "hits"
    }
    assert after[0]["learned"] == pytest.approx(value[1, "right"] - value[0, "right"])
    assert math.isnan(after[0]["forgotten"])
    assert after[0]["forgotten_base"] == pytest.approx(value[0, "side"] - value[1, "side"])
    result = read_json(job.folder / "result.json")
    assert after[-1] == {name: result[name] for name in ("learned", "forgotten", "forgotten_base")}
    steps = [(event.stage, event.done, event.total) for event in events if event.kind == "step"]
    assert steps[-1] == (2, 24, 24)


# In a terminal


@pytest.fixture
def slow(tmp_path: Path) -> list[str]:
    """Give the command of a study whose trials take a while and print, in two workers."""
    source = SLOW.replace("        time.sleep(0.1)\n", "        print(f'looking at {task.name}')\n")
    # On a busy machine, too, both are to be seen in each stage.
    source = source.replace("time.sleep(0.05)", "time.sleep(0.2)")
    (tmp_path / "slow.py").write_text(source, encoding="utf-8")
    settings = ("method=[slow]", "seed=0,1,2", "trainer.log_every_n_steps=1", "study=seen")
    workers = ("hydra.launcher.workers=2", "hydra.launcher.cohort=1")
    return ["-m", "myosotis", "run", *toy(*settings, *workers)]


def _gain(folder: Path, task: str, sign: int = 1) -> str:
    """Give what stage 1 of the trial with seed 0 gave on a task, as it is printed."""
    record = read_study(folder / "studies" / "seen")
    scores = (
        record.scores.query(f"seed == 0 and metric == 'hits' and task == {task!r}").set_index("stage").value
    )
    return f"{sign * (scores[1] - scores[0]):+.4f}"


WHOLE_ROW = r"slow seed=0 +2/2 .*?" + r" +([+-]\d+\.\d{4}|–)" * 3
"""A trial in its second stage, with what it has learned, forgotten, and forgotten of the base."""


def test_a_study_in_a_terminal(tmp_path: Path, slow: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")  # what print writes comes in pieces
    seen: list[list[str]] = []

    def watch(output: str, process: subprocess.Popen[bytes]) -> None:
        seen.append(screen(output))

    code, output = run_in_terminal(slow, tmp_path, "tests.toy,slow", watch)
    assert code == 0, output
    grids = {line for lines in seen for line in lines}
    assert {"...", ">>.", "###"} <= grids
    # What was just being written when it was looked at is not whole.
    found = (re.fullmatch(WHOLE_ROW, line) for lines in seen for line in lines)
    rows = [row.groups() for row in found if row is not None]
    assert rows, output
    learned, forgotten, base = rows[0]
    assert (learned, forgotten, base) == (_gain(tmp_path, "right"), "–", _gain(tmp_path, "side", sign=-1))
    assert output.rindex(SHOW_CURSOR) > output.rindex(HIDE_CURSOR)
    end = screen(output)
    # What workers printed stands above, each line whole; the view is there once, then the table.
    assert end.count("looking at up") == 3 * 2
    view = end.index("study seen: none left")
    assert end[view + 1 : view + 3] == ["# 3 finished", "###"]
    assert sum(line.startswith("study seen:") for line in end) == 1
    assert any(line.startswith("report: ") for line in end[view:])


def test_an_interrupt_leaves_the_terminal_as_it_was(tmp_path: Path, slow: list[str]) -> None:
    interrupted = []

    def watch(output: str, process: subprocess.Popen[bytes]) -> None:
        if not interrupted and "/24" in output and ">>." in screen(output):
            interrupted.append(process.pid)
            process.send_signal(signal.SIGINT)

    code, output = run_in_terminal(slow, tmp_path, "tests.toy,slow", watch)
    assert output.rindex(SHOW_CURSOR) > output.rindex(HIDE_CURSOR)
    end = screen(output)
    assert end[-1].startswith("error: stopped; every trial is saved where it was")
    assert code != 0
    assert sum(line.endswith(": stopped and saved") for line in end) == 2
    assert "--." in end
