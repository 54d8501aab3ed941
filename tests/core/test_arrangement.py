"""How many at once: the arrangement in which a study is over first, of those that this machine can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from myosotis import arranger
from myosotis.arrangement import START_SECONDS, Arrangement, Measured, Memory, choose, seconds
from myosotis.course import Course
from myosotis.grouping import divided, shape
from myosotis.launching import Launch
from myosotis.layout import PlannedTrial
from myosotis.ledger import TrialEntry
from myosotis.measure import Cost
from myosotis.options import Options
from myosotis.plugins import load_registry
from myosotis.progress import PlainLines
from myosotis.resolve import Resolver
from myosotis.trial_task import job_of
from myosotis.workspace import Workspace
from tests.core.commands import resolved

ALONE = Measured(Arrangement(1, 2, 1), 0.1)
FOUR = Measured(Arrangement(1, 2, 4), 0.2)
WORKERS = Measured(Arrangement(2, 1, 1), 0.12)
WORKERS_OF_FOUR = Measured(Arrangement(2, 1, 4), 0.3)


@pytest.mark.parametrize(
    ("measured", "trials", "expected"),
    [
        (ALONE, 8, 8 * 0.1 * 100),
        (FOUR, 8, 2 * 0.2 * 100),
        (FOUR, 6, 2 * 0.2 * 3 / 4 * 100),  # two cohorts of three
        (WORKERS, 8, START_SECONDS + 4 * 0.12 * 100),
        (WORKERS_OF_FOUR, 8, START_SECONDS + 0.3 * 100),
        (WORKERS_OF_FOUR, 2, START_SECONDS + 0.3 / 4 * 100),  # one in each
    ],
)
def test_seconds_are_those_of_the_rounds(measured: Measured, trials: int, expected: float) -> None:
    assert seconds(measured, trials, 100) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("trials", "steps", "expected"),
    [
        (8, 100, WORKERS_OF_FOUR),
        (8, 5, FOUR),  # too little to start workers for
        (1, 100, FOUR),  # as measured, one of four takes a quarter of their time
        (2, 100, FOUR),
    ],
)
def test_what_is_over_first_is_chosen(trials: int, steps: int, expected: Measured) -> None:
    assert choose([ALONE, FOUR, WORKERS, WORKERS_OF_FOUR], trials, steps) == expected.arrangement


def test_what_is_slower_together_trains_one_at_a_time() -> None:
    slow = [Measured(Arrangement(1, 2, 2), 0.25), Measured(Arrangement(2, 1, 1), 0.3)]
    assert choose([ALONE, *slow], 8, 1000) == ALONE.arrangement


def test_groups_are_divided_evenly_and_every_worker_has_one() -> None:
    groups = [["a", "b", "c", "d", "e"], ["f"]]
    assert divided(groups, 4, 1) == [("a", "c", "e"), ("b", "d"), ("f",)]
    assert divided([["a", "b", "c", "d"]], 4, 2) == [("a", "c"), ("b", "d")]


def launch(folder: Path, memory: Memory, **settings: Any) -> Launch:
    """Give the launch of 32 trials that train alone."""
    configs = resolved(f"seed={','.join(map(str, range(32)))}", "trainer.max_steps=1000")
    registry = load_registry()
    planned = [
        PlannedTrial(TrialEntry(each.id, each.id, "plain", {}, each.seed, ""), each, ()) for each in configs
    ]
    return Launch(
        folder / "study",
        [job_of(each, folder / "study") for each in planned],
        configs,
        dict.fromkeys((each.id for each in configs), False),
        Resolver(registry),
        Workspace(folder, registry),
        PlainLines(Course({})),
        Options(),
        memory=memory,
        **settings,
    )


@pytest.mark.parametrize(("cores", "workers"), [(2, 2), (1, 1)])
def test_more_workers_than_there_are_cores_now_are_not_recalled(
    cores: int, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(tmp_path)
    [config, *_] = resolved("trainer.max_steps=1000")
    memory.remember(shape(config), [ALONE, WORKERS])
    monkeypatch.setattr(arranger, "available_cores", lambda: cores)
    assert launch(tmp_path, memory, measures=False).form().workers == workers


@pytest.mark.parametrize(
    ("step_seconds", "tried", "chosen"),
    [
        ({8: 0.8, 4: 0.3, 2: 0.4}, [8, 4, 2], 4),
        ({8: 0.3, 4: 0.4}, [8, 4], 8),
        ({8: None, 4: 0.5, 2: 0.2}, [8, 4, 2], 2),  # so many do not fit into the memory
        ({8: 8.0, 4: 8.0}, [8, 4], 1),  # none is faster than this process by itself
    ],
)
def test_fewer_workers_are_tried_for_as_long_as_that_is_no_loss(
    step_seconds: dict[int, float | None],
    tried: list[int],
    chosen: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed = []

    def time(self: Launch, arrangement: Arrangement, jobs: Any) -> Cost:
        if arrangement.workers == 1:
            return Cost(0.2, 0, 1, 1000)
        timed.append(arrangement.workers)
        seconds = step_seconds[arrangement.workers]
        if seconds is None:
            raise MemoryError
        return Cost(seconds, 0, 1, 1000)

    monkeypatch.setattr(arranger, "available_cores", lambda: 8)
    monkeypatch.setattr(Launch, "_time", time)
    assert launch(tmp_path, Memory(tmp_path)).form().workers == chosen
    assert timed == tried
