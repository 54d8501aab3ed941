"""How many at once: the arrangement in which a study is over first, of those that this machine can have."""

from __future__ import annotations

from pathlib import Path

import pytest

from myosotis import launching
from myosotis.arrangement import START_SECONDS, Arrangement, Measured, Memory, choose, seconds
from myosotis.grouping import divided, shape
from myosotis.launching import Launch
from myosotis.ledger import TrialEntry
from myosotis.options import Options
from myosotis.plugins import load_registry
from myosotis.progress import Progress
from myosotis.resolve import Resolver
from myosotis.study import PlannedTrial, _job
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


@pytest.mark.parametrize(("cores", "workers"), [(2, 2), (1, 1)])
def test_more_workers_than_there_are_cores_now_are_not_recalled(
    cores: int, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = resolved("seed=0,1,2,3", "trainer.max_steps=1000")
    memory = Memory(tmp_path)
    memory.remember(shape(configs[0]), [ALONE, WORKERS])
    monkeypatch.setattr(launching, "available_cores", lambda: cores)
    registry = load_registry()
    planned = [
        PlannedTrial(TrialEntry(each.id, each.id, "plain", {}, each.seed, ""), each, ()) for each in configs
    ]
    launch = Launch(
        tmp_path / "study",
        [_job(each, tmp_path / "study") for each in planned],
        configs,
        dict.fromkeys((each.id for each in configs), False),
        Resolver(registry),
        Workspace(tmp_path, registry),
        Progress({}),
        Options(),
        memory=memory,
        measures=False,
    )
    assert launch.cohorts()[1] == workers
