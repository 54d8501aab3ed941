"""Stages, shares, and which rows each batch holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pytest

from myosotis.batches import stage_batches
from myosotis.curriculum import (
    CurriculumConfig,
    MixtureSampler,
    Part,
    build_stages,
    draws,
    mix_shares,
    ordered,
    tempered,
)
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Share, Stage, StoppingStrategy
from myosotis.schema import TrainerConfig

TASKS = ("a", "b", "c")


def stages(
    mix: Mapping[str, float] | None = None, tasks: Sequence[str] = TASKS, seed: int = 0, **settings: Any
) -> list[dict[str, tuple[float, float]]]:
    """Lay out stages, as each task's share at the first and the last step."""
    built = build_stages(CurriculumConfig(**settings), mix or {}, tasks, seed)
    assert [stage.index for stage in built] == list(range(1, len(built) + 1))
    return [{task: (share.start, share.end) for task, share in stage.shares.items()} for stage in built]


def sampler(shares: Sequence[tuple[float, float]], sizes: Sequence[int], **settings: Any) -> MixtureSampler:
    parts = [
        Part(task, size, Share(*share)) for task, size, share in zip("abcdefgh", sizes, shares, strict=False)
    ]
    return MixtureSampler(parts, **{"batch_size": 8, "batches": 50, "seed": 3, **settings})


def test_sequential_is_a_stage_a_task() -> None:
    assert stages() == [{"a": (1, 1)}, {"b": (1, 1)}, {"c": (1, 1)}]
    assert stages(order=["c", "a", "b"]) == [{"c": (1, 1)}, {"a": (1, 1)}, {"b": (1, 1)}]


def test_joint_shares_equally() -> None:
    third = (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert stages(name="joint") == [dict.fromkeys(TASKS, third)]


def test_joint_gives_the_others_what_is_left() -> None:
    left = (pytest.approx(0.05), pytest.approx(0.05))
    assert stages({"b": 0.9}, name="joint") == [{"a": left, "b": (0.9, 0.9), "c": left}]


def test_joint_leaves_out_a_task_without_share() -> None:
    assert stages({"b": 0, "a": 1}, name="joint") == [{"a": (1, 1)}]


def test_progressive_ramps_the_new_task_up() -> None:
    half = (pytest.approx(0.4), pytest.approx(0.05))
    assert stages(name="progressive", start=0.2, end=0.9) == [
        {"a": (1, 1)},
        {"a": (pytest.approx(0.8), pytest.approx(0.1)), "b": (0.2, 0.9)},
        {"a": half, "b": half, "c": (0.2, 0.9)},
    ]


def test_a_linear_ramp_is_a_line() -> None:
    assert [Share(0.2, 0.9).at(place / 7) for place in range(8)] == pytest.approx(np.linspace(0.2, 0.9, 8))


def test_a_cosine_ramp_is_half_a_wave() -> None:
    progress = np.linspace(0, 1, 13)
    wave = 0.2 + (0.9 - 0.2) * (1 - np.cos(np.pi * progress)) / 2
    assert [Share(0.2, 0.9, "cosine").at(each) for each in progress] == pytest.approx(wave)
    assert Share(0.2, 0.9, "cosine").at(1 / 3) == pytest.approx(0.2 + 0.7 / 4)  # cos 60° is one half


def test_a_step_ramp_has_equal_plateaus() -> None:
    shares = [Share(0.2, 0.8, "step", plateaus=3).at(batch / 11) for batch in range(12)]
    assert shares == pytest.approx([0.2] * 4 + [0.5] * 4 + [0.8] * 4)


@pytest.mark.parametrize("ramp", ["linear", "step", "cosine"])
def test_progressive_draws_along_its_ramp(ramp: Any) -> None:
    config = CurriculumConfig("progressive", start=0.1, end=0.7, ramp=ramp, plateaus=5)
    _, stage = build_stages(config, {}, ("a", "b"), 0)
    assert stage.shares == {"a": Share(0.9, pytest.approx(0.3), ramp, 5), "b": Share(0.1, 0.7, ramp, 5)}
    parts = [Part(task, 64, share) for task, share in stage.shares.items()]
    drawn = np.cumsum([sum(part for part, _ in batch) for batch in MixtureSampler(parts, 8, 40, seed=3)])
    due = np.cumsum([8 * Share(0.1, 0.7, ramp, 5).at(batch / 39) for batch in range(40)])
    assert np.abs(drawn - due).max() < 1
    assert due[-1] == pytest.approx(8 * 40 * 0.4)  # every ramp brings in as much by its end


def test_stages_are_as_written_out() -> None:
    written = [{"a": 1}, {"b": 0.8, "a": 0.2}, {}]
    assert stages(name="stages", stages=written) == [{"a": (1, 1)}, {"b": (0.8, 0.8), "a": (0.2, 0.2)}, {}]


def test_random_order_comes_from_the_seed() -> None:
    tasks = tuple("abcdefgh")
    orders = [ordered("random", tasks, seed) for seed in range(20)]
    assert orders == [ordered("random", tasks, seed) for seed in range(20)]
    assert len(set(orders)) == 20
    assert all(sorted(order) == list(tasks) for order in orders)


@pytest.mark.parametrize("order", [["a"], ["a", "b", "x"], ["a", "b", "c", "c"], "rndom", 3])
def test_order_that_is_no_permutation_is_refused(order: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be 'random' or name each task once"):
        ordered(order, TASKS, 0)


@pytest.mark.parametrize(
    ("mix", "text"),
    [
        ({"a": -0.1}, "mix.a must not be negative"),
        ({"a": 0.7, "b": 0.4}, "must sum to at most 1, but sum to 1.1"),
        ({"a": 1.5}, "must sum to at most 1, but sum to 1.5"),
        (
            {"a": 0.5, "b": 0.2, "c": 0.2},
            "names every task, so its shares must sum to 1, but they sum to 0.9",
        ),
        ({"d": 0.5}, "there is no task named 'd'"),
        ({"a": "much"}, "mix.a must be a number, but got 'much'"),
        ({"a": True}, "mix.a must be a number"),
        ({"a": float("nan")}, "mix.a must be a number"),
        ({"a": float("inf")}, "mix.a must be a number"),
    ],
)
def test_shares_that_cannot_be_are_refused(mix: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text.replace("(", r"\(")):
        mix_shares(mix, TASKS)


def test_unknown_task_gives_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"Did you mean code_a\? Known: code_a, prose"):
        mix_shares({"code_b": 0.5}, ("code_a", "prose"))


def test_rounding_of_shares_is_forgiven() -> None:
    assert mix_shares({"a": 0.1, "b": 0.2, "c": 0.7000000001}, TASKS)["c"] == 0.7000000001
    assert mix_shares({"a": 0.1, "b": 0.9}, TASKS)["c"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"name": "mixed"}, "no curriculum named 'mixed'"),
        ({"name": "sequential", "mix": {"a": 0.5}}, "mix.* gives the shares of a joint stage"),
        ({"name": "progressive", "start": -0.1}, "curriculum.start must be between 0 and 1"),
        ({"name": "progressive", "end": 1.1}, "curriculum.end must be between 0 and 1"),
        ({"name": "progressive", "ramp": "cosin"}, "curriculum.ramp: .* Did you mean cosine"),
        ({"name": "progressive", "ramp": "step", "plateaus": 1}, "curriculum.plateaus must be at least 2"),
        ({"name": "joint", "by": "token"}, "curriculum.by: .* Did you mean tokens"),
        ({"name": "joint", "stopping_strategy": "first"}, "curriculum.stopping_strategy: .* first_exhausted"),
        ({"name": "joint", "temperature": 0}, "curriculum.temperature must be greater than 0, but got 0"),
        ({"name": "joint", "temperature": float("nan")}, "temperature must be greater than 0, but got nan"),
        (
            {"name": "joint", "temperature": 2, "mix": {"a": 0.5}},
            r"curriculum.temperature gives all shares of a joint stage, but mix.\* gives some; leave one",
        ),
        (
            {"name": "progressive", "temperature": 2},
            "curriculum.temperature gives all shares of a joint stage, but curriculum=progressive",
        ),
        ({"name": "sequential", "tasks": ()}, "must have a task to train on"),
        ({"name": "stages", "stages": None}, "must be a list with one mapping a stage"),
        ({"name": "stages", "stages": "a"}, "must be a list with one mapping a stage"),
        ({"name": "stages", "stages": ["a"]}, r"curriculum.stages\[0\] must map tasks to shares"),
        (
            {"name": "stages", "stages": [{"a": 1}, {"b": 0.5}]},
            r"curriculum.stages\[1\] must sum to 1, but sum to 0.5",
        ),
        ({"name": "stages", "stages": [{"x": 1}]}, "no task named 'x'"),
        ({"name": "stages", "stages": [{"a": -1, "b": 2}]}, "must not be negative"),
    ],
)
def test_curriculum_that_cannot_be_is_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        stages(**settings)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("evenness", [0.3, 1e6])
def test_realised_shares_are_within_one_row_at_every_moment(count: int, evenness: float) -> None:
    generator = np.random.default_rng(count)
    for _ in range(20):
        start, end = generator.dirichlet(np.full(count, evenness), size=2)
        mixture = sampler(list(zip(start, end, strict=True)), [7] * count, batches=30)
        drawn, due = np.zeros(count), np.zeros(count)
        for number, batch in enumerate(mixture):
            for part, _ in batch:
                drawn[part] += 1
                due += start + (end - start) * number / 29
                assert np.abs(drawn - due).max() < 1
        assert drawn.sum() == 240


def test_shares_of_tokens_draw_short_rows_more_often() -> None:
    lengths = {"a": 30.0, "b": 10.0, "c": 5.0}
    shares = {"a": 0.5, "b": 0.25, "c": 0.25}
    parts = [Part(task, 9, Share(shares[task], shares[task]), lengths[task]) for task in TASKS]
    drawn = Counter(
        TASKS[part] for batch in MixtureSampler(parts, 10, 110, 3, by="tokens") for part, _ in batch
    )
    # Rows are as share / length: as 1/60, 1/40 and 1/20.
    assert drawn == {"a": 200, "b": 300, "c": 600}
    tokens = {task: drawn[task] * lengths[task] for task in TASKS}
    assert {task: each / sum(tokens.values()) for task, each in tokens.items()} == shares


@pytest.mark.parametrize("by", ["rows", "tokens"])
@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (1, (16 / 21, 4 / 21, 1 / 21)),
        (2, (4 / 7, 2 / 7, 1 / 7)),
        (1 / 2, (256 / 273, 16 / 273, 1 / 273)),
        (math.inf, (1 / 3, 1 / 3, 1 / 3)),
        (1e-3, (1, 0, 0)),
    ],
)
def test_shares_by_temperature(by: Any, temperature: float, expected: Sequence[float]) -> None:
    [stage] = build_stages(CurriculumConfig("joint", by=by, temperature=temperature), {}, TASKS, 0)
    sizes, lengths = ((4, 1, 8), (8.0, 8.0, 0.25)) if by == "tokens" else ((64, 16, 4), (1.0, 9.0, 5.0))
    parts = [
        Part(task, size, stage.shares[task], length)
        for task, size, length in zip(TASKS, sizes, lengths, strict=True)
    ]
    found = tempered(stage, parts)
    assert [part.share.start for part in found] == pytest.approx(expected)
    assert all(part.share.start == part.share.end for part in found)


def test_in_proportion_to_tokens_is_in_proportion_to_rows() -> None:
    stage = Stage(1, {}, by="tokens", temperature=1)
    parts = tempered(stage, [Part("a", 30, Share(0, 0), 7.5), Part("b", 10, Share(0, 0), 2.0)])
    assert draws(parts, "tokens", 0.5) == pytest.approx([0.75, 0.25])


def test_without_a_temperature_shares_stay_as_they_are() -> None:
    [stage] = build_stages(CurriculumConfig("joint"), {"b": 0.9}, TASKS, 0)
    parts = [Part(task, 5, stage.shares[task]) for task in TASKS]
    assert tempered(stage, parts) is parts


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("shares", [(0.5, 0.3, 0.2), (0.2, 0.3, 0.5)])
@pytest.mark.parametrize("size", [1, 7, 8])
def test_a_stage_ends_with_the_passes_of_its_tasks(size: int, shares: Sequence[float], epochs: int) -> None:
    sizes = (40, 90, 25)
    parts = [
        Part(task, count, Share(share, share))
        for task, count, share in zip(TASKS, sizes, shares, strict=True)
    ]
    trainer = TrainerConfig(max_epochs=epochs, batch_size=size)

    def length(strategy: Any) -> int:
        stage = Stage(1, {part.task: part.share for part in parts}, stopping_strategy=strategy)
        return stage_batches(trainer, stage, parts, default=1)

    def exhausted(batches: int) -> list[bool]:
        drawn = Counter(part for batch in MixtureSampler(parts, size, batches, seed=0) for part, _ in batch)
        return [drawn[part] >= epochs * count for part, count in enumerate(sizes)]

    first, every = length("first_exhausted"), length("all_exhausted")
    assert any(exhausted(first))
    assert not any(exhausted(first - 1 - 1 // size))  # a draw comes at most a row early
    assert all(exhausted(every))
    assert not all(exhausted(every - 1 - 1 // size))
    assert length("total") == -(-epochs * sum(sizes) // size)


def test_passes_along_a_ramp() -> None:
    shares = {"a": Share(1, 0), "b": Share(0, 1)}
    parts = [Part("a", 100, shares["a"]), Part("b", 300, shares["b"])]
    trainer = TrainerConfig(max_epochs=1, batch_size=10)
    ends = [
        stage_batches(trainer, Stage(1, shares, stopping_strategy=strategy), parts, default=1)
        for strategy in get_args(StoppingStrategy)
    ]
    assert ends == [40, 20, 60]  # half of all rows are of each


def test_a_task_that_is_not_drawn_ends_no_stage() -> None:
    shares = {"a": Share(1, 1), "b": Share(0, 0)}
    parts = [Part("a", 100, shares["a"]), Part("b", 300, shares["b"])]
    stage = Stage(1, shares, stopping_strategy="all_exhausted")
    assert stage_batches(TrainerConfig(max_epochs=2, batch_size=10), stage, parts, default=1) == 20


def test_rows_of_a_method_end_no_stage() -> None:
    stage = Stage(1, {"a": Share(1, 1)}, stopping_strategy="first_exhausted")
    parts = [Part("a", 80, Share(0.8, 0.8)), Part("kept", 2, Share(0.2, 0.2))]
    assert stage_batches(TrainerConfig(max_epochs=1, batch_size=10), stage, parts, default=1) == 10


@pytest.mark.parametrize(("by", "batches"), [("rows", 20), ("tokens", 50)])
def test_tokens_of_a_stage_are_those_of_its_draws(by: Any, batches: int) -> None:
    # By rows, a batch of 10 has 5 · 90 + 5 · 10 tokens; by tokens, 1 · 90 + 9 · 10 (shares of one half).
    parts = [Part("a", 1000, Share(0.5, 0.5), 90.0), Part("b", 10, Share(0.5, 0.5), 10.0)]
    stage = Stage(1, {"a": Share(0.5, 0.5), "b": Share(0.5, 0.5)}, by=by)
    trainer = TrainerConfig(max_tokens=10_000 if by == "rows" else 9_000, batch_size=10)
    assert stage_batches(trainer, stage, parts, default=1) == batches


def test_shares_are_what_is_drawn() -> None:
    mixture = sampler([(0.75, 0.75), (0.25, 0.25)], [5, 5], batches=100)
    assert Counter(part for batch in mixture for part, _ in batch) == {0: 600, 1: 200}


def test_ramp_goes_from_start_to_end() -> None:
    mixture = sampler([(1.0, 0.0), (0.0, 1.0)], [64, 64], batch_size=100, batches=11)
    new = [sum(part for part, _ in batch) for batch in mixture]
    assert new == [pytest.approx(10 * batch, abs=1) for batch in range(11)]


def test_every_pass_is_whole_and_reshuffled() -> None:
    rows = [index for batch in sampler([(1, 1)], [24], batches=9) for _, index in batch]
    passes = [rows[start : start + 24] for start in (0, 24, 48)]
    assert all(sorted(each) == list(range(24)) for each in passes)
    assert passes[0] != passes[1] != passes[2] != list(range(24))


def test_order_comes_from_the_seed() -> None:
    shares, sizes = [(0.5, 0.5), (0.5, 0.5)], [50, 70]
    first = list(sampler(shares, sizes))
    assert first == list(sampler(shares, sizes))
    assert first != list(sampler(shares, sizes, seed=4))


def test_order_of_a_task_does_not_depend_on_the_others() -> None:
    alone = [index for batch in sampler([(1, 1)], [50], batches=6) for _, index in batch]
    among = [
        index for batch in sampler([(0.5, 0.5), (0.5, 0.5)], [50, 9]) for part, index in batch if part == 0
    ]
    assert among[:48] == alone


def test_length_is_the_batches() -> None:
    mixture = sampler([(1, 1)], [3], batches=7, batch_size=2)
    assert len(mixture) == len(list(mixture)) == 7
    assert all(len(batch) == 2 for batch in mixture)
