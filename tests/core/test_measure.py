"""What trials cost: held against sleeps of known length, arrays of known size, and what runs write."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from myosotis import measure
from myosotis.config import composer
from myosotis.evaluation import choose_runtime
from myosotis.measure import Peak, Stopwatch, free_memory, measure_training, measure_trial, memory
from myosotis.plugins import load_registry
from myosotis.points import expand
from myosotis.resolve import Resolver, TrialConfig
from myosotis.workspace import Workspace
from tests.core.commands import SLOW, run_at, toy

CPU = choose_runtime("cpu", "32-true")


def trials(*overrides: str) -> tuple[list[TrialConfig], Workspace]:
    """Give the trials that a command means, and what they share."""
    registry = load_registry()
    with composer() as compose:
        found = expand(compose, "config", toy(*overrides), {}, {})
        resolver = Resolver(registry)
        configs = [resolver.resolve(compose.compose("config", point.overrides)) for point in found]
    return configs, Workspace(Path("studies"), registry)


def test_seconds_of_steps_and_evaluations_are_measured(write_plugin: Any) -> None:
    write_plugin("slow_method", SLOW)
    (config,), workspace = trials("method=[plain,slow]")
    cost = measure_trial(config, workspace)
    assert 0.05 <= cost.step_seconds < 0.08
    assert cost.evaluation_seconds.keys() == {"right", "up", "side"}
    for seconds in cost.evaluation_seconds.values():
        assert 0.1 <= seconds < 0.3


def test_time_of_intervals_grows_with_the_resamples() -> None:
    seconds = {}
    for resamples in (100, 10_000):
        (config,), workspace = trials(f"evaluation.resamples={resamples}")
        seconds[resamples] = sum(measure_trial(config, workspace).evaluation_seconds.values())
    assert seconds[10_000] > 20 * seconds[100]


@pytest.mark.parametrize("batch", [1, 5])
def test_tokens_of_a_step_are_its_rows(batch: int) -> None:
    (config,), workspace = trials(f"trainer.batch_size={batch}", "trainer.accumulate_grad_batches=2")
    assert measure_trial(config, workspace).step_tokens == 2 * batch


@pytest.mark.parametrize("method", ["plain", "still", "side"])
def test_saved_bytes_are_those_that_a_run_keeps(
    method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MYOSOTIS_PLUGINS", "tests.toy,tests.core.hazards")
    (config,), workspace = trials(f"method=[{method}]")
    record = run_at(
        tmp_path, *toy(f"method=[{method}]", "study=kept"), modules="tests.toy,tests.core.hazards"
    )
    kept = sum(path.stat().st_size for path in (record.folder / config.id / "adapter").iterdir())
    header = 700  # names and shapes, which are not worth counting where all weights are
    assert kept - header <= measure_trial(config, workspace).saved_bytes <= kept


def test_nothing_saved_takes_no_room() -> None:
    (config,), workspace = trials("trainer.save=false")
    assert measure_trial(config, workspace).saved_bytes == 0


def test_a_trial_that_trains_nothing_has_no_steps() -> None:
    (config,), workspace = trials("curriculum=stages", "curriculum.stages=[{}]")
    assert measure_training([config], workspace) is None
    cost = measure_trial(config, workspace)
    assert cost.step_seconds == cost.step_tokens == 0
    assert sum(cost.evaluation_seconds.values()) > 0


def test_measuring_leaves_nothing_behind(tmp_path: Path) -> None:
    (config,), workspace = trials("method=[still]")
    runtime = choose_runtime("cpu", "32-true")
    before = [each.clone() for each in workspace.base(config, runtime).module.parameters()]
    measure_trial(config, workspace)
    after = workspace.base(config, runtime).module.parameters()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert list(tmp_path.iterdir()) == []


def test_peak_is_what_was_held_meanwhile() -> None:
    peak, before = Peak(CPU), memory(CPU)
    held = np.ones(200_000_000 // 8)
    seen = peak.bytes()
    del held
    assert seen - before == pytest.approx(200_000_000, rel=0.1)
    if peak.counts:
        assert peak.bytes() == pytest.approx(seen, rel=0.02)
        assert Peak(CPU).bytes() < seen - 150_000_000


def test_peak_without_the_systems_count_is_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_forget_peak", lambda: False)
    monkeypatch.setattr(measure, "_process_peak", lambda: 10**15)
    peak = Peak(CPU)
    held = np.ones(100_000_000 // 8)
    seen = peak.bytes()
    del held
    assert peak.bytes() == seen < 10**12


def test_more_than_there_is_is_refused_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    (config,), workspace = trials()
    needed = 4 * 3 * sum(each.numel() for each in workspace.base(config, CPU).module.parameters())
    monkeypatch.setattr(measure, "free_memory", lambda runtime: needed)
    measure_trial(config, workspace)
    (config,), workspace = trials()
    monkeypatch.setattr(measure, "free_memory", lambda runtime: needed - 1)
    with pytest.raises(MemoryError):
        measure_trial(config, workspace)


def test_stopwatch_takes_the_median_without_the_first() -> None:
    assert Stopwatch(5, [0.0, 9.0, 10.0, 12.0, 15.0]).seconds() == 2.0
    assert Stopwatch(5, [0.0, 9.0]).seconds() == 9.0
    assert Stopwatch(5, [0.0]).seconds() == 0.0


def test_trials_together_are_as_many_steps_as_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYOSOTIS_PLUGINS", "tests.toy,tests.core.hazards")
    configs, workspace = trials("method=[side]", "method.side.width=1,3", "trainer.max_steps=6,9")
    started = time.perf_counter()
    cost = measure_training(configs, workspace)
    assert cost is not None
    assert cost.steps == 9
    assert 0 < cost.step_seconds < time.perf_counter() - started
    assert cost.free_bytes == pytest.approx(free_memory(CPU), rel=0.2)
