"""Replay's share, measured from the batches that training sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from scipy import stats

from myosotis.batches import BatchLoader, EncodedPart
from myosotis.curriculum import MixtureSampler, Part
from myosotis.errors import ConfigurationError, PluginError
from myosotis.interfaces import Component, Context, Method, Mixture, Rows, Share, Stage
from myosotis.ledger import read_json
from myosotis.testing import MethodTestSuite
from myosotis_plugins.methods.replay import Replay
from myosotis_plugins.methods.row_buffer import Balance, RowBuffer, evenly
from tests.plugins import linear, tiny

TASKS = {name: tiny.text_task(name, tiny.POEM, length=4) for name in ("old", "older", "new", "probe")}
WHOLE = Share(1, 1)
BATCHES = 25
BATCH_SIZE = 8


def rows(name: str) -> Rows:
    found = TASKS[name].dataset.split("train")
    assert found is not None
    return found


def mixture(replay: Replay, seen: Sequence[str], share: Share = WHOLE, seed: int = 0) -> Mixture:
    stage = Stage(len(seen) + 1, {"new": share})
    generator = torch.Generator().manual_seed(seed)
    context: Context = replace(tiny.context(tiny.model(), tasks=TASKS), stage=stage, generator=generator)
    own = (Component("new", rows("new"), share),)
    return replay.training_data(stage, own, {name: rows(name) for name in seen}, context)


def counted(data: Mixture) -> list[Counter[str]]:
    """Count the rows of each task in what the loader has given after each batch."""
    model = tiny.model()
    parts = [
        EncodedPart(TASKS[each.task], TASKS[each.task].objective.encode(each.rows, model)) for each in data
    ]
    sampled = [
        Part(each.task, len(part.examples), each.share) for each, part in zip(data, parts, strict=True)
    ]
    loader = BatchLoader(parts, MixtureSampler(sampled, BATCH_SIZE, BATCHES, seed=3), model)
    given: Counter[str] = Counter()
    counts = []
    for batch in loader:
        given.update(task for task, _ in batch.rows)
        counts.append(given.copy())
    return counts


class TestReplay(MethodTestSuite):
    def make(self) -> Method:
        return Replay(share=0.5, buffer=6)

    def make_neutral(self) -> Method:
        return Replay(share=0)


class TestReplayOfClasses(MethodTestSuite):
    def make(self) -> Method:
        return Replay(share=0.5, buffer=5, balance="class")


class TestReplayOfAReservoir(MethodTestSuite):
    def make(self) -> Method:
        return Replay(share=0.5, buffer=5, balance="none")


class TestReplayOfANamedDataset(MethodTestSuite):
    def make(self) -> Method:
        return Replay(share=0.25, dataset="first")


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_the_share_is_within_one_row_at_every_moment(share: float) -> None:
    for batches, counts in enumerate(counted(mixture(Replay(share=share), ["old"])), 1):
        assert counts["old"] == pytest.approx(share * batches * BATCH_SIZE, abs=1)


def test_earlier_tasks_share_equally() -> None:
    counts = counted(mixture(Replay(share=0.3), ["older", "old"]))[-1]
    total = BATCHES * BATCH_SIZE
    assert counts["older"] == pytest.approx(0.15 * total, abs=1)
    assert counts["old"] == pytest.approx(0.15 * total, abs=1)
    assert counts["new"] == pytest.approx(0.7 * total, abs=1)


def test_the_first_stage_has_nothing_to_replay() -> None:
    assert mixture(Replay(share=0.5), []) == mixture(Replay(share=0), [])


def test_a_share_of_zero_changes_nothing() -> None:
    own = mixture(Replay(share=0), ["old"])
    assert [component.task for component in own] == ["new"]
    assert own[0].share == Share(1, 1)
    assert counted(own)[-1] == Counter(new=BATCHES * BATCH_SIZE)


def test_a_buffer_keeps_as_many_rows_in_their_order() -> None:
    kept = mixture(Replay(share=0.2, buffer=3), ["old"])[1].rows
    texts = [kept[index]["text"] for index in range(len(kept))]
    assert len(texts) == 3
    assert texts == [text for text in tiny.POEM if text in texts]


def test_a_buffer_larger_than_the_task_keeps_all() -> None:
    kept = mixture(Replay(share=0.2, buffer=100), ["old"])[1].rows
    assert [kept[index]["text"] for index in range(len(kept))] == list(tiny.POEM)


def test_a_named_dataset_is_replayed_in_every_stage_in_place_of_earlier_tasks() -> None:
    for seen in ([], ["old"]):
        counts = counted(mixture(Replay(share=0.25, dataset="probe"), seen))[-1]
        assert counts == Counter(new=150, probe=50)


@pytest.mark.parametrize("buffer", [None, 4])
def test_a_task_that_is_trained_again_is_not_replayed_beside_itself(buffer: int | None) -> None:
    found = mixture(Replay(share=0.25, buffer=buffer), ["old", "new"])
    assert [each.task for each in found] == ["new", "old"]
    assert [each.share.start for each in found] == [0.75, 0.25]


def test_a_task_that_alone_was_seen_and_is_trained_again_has_nothing_to_replay() -> None:
    assert mixture(Replay(share=0.25), ["new"]) == mixture(Replay(share=0), [])


def test_a_ramp_keeps_its_shape() -> None:
    ramp = mixture(Replay(share=0.2), ["old"], Share(0.5, 1, "cosine"))[0].share
    assert (ramp.start, ramp.end) == (pytest.approx(0.4), pytest.approx(0.8))
    assert ramp.at(1 / 3) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"share": 1}, "share must be at least 0 and less than 1, but got 1"),
        ({"share": -0.1}, "share must be at least 0"),
        ({"buffer": 0}, "buffer must be at least 1 row, but got 0"),
        ({"balance": "rows"}, "balance must be none, task or class, but got 'rows'"),
    ],
)
def test_values_out_of_range_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Replay(**parameters)


def test_an_unknown_dataset_is_refused_with_those_there_are() -> None:
    model = tiny.model()
    with pytest.raises((ConfigurationError, PluginError), match="Did you mean older or old"):
        Replay(dataset="olde").adapt(model, tiny.context(model, tasks=TASKS))


# The buffer, over the stages

SIZES = {"first": 4, "second": 12, "third": 8}
LABELS = "aaab"
"""Of four rows: three of one class, one of another."""


def labelled(task: str) -> list[dict[str, Any]]:
    return [{"text": f"{task} {index}", "label": LABELS[index % 4]} for index in range(SIZES[task])]


def stages(balance: Balance, size: int | None = 6, seed: int = 0) -> list[list[list[tuple[str, int]]]]:
    """Give the groups that are kept once one task has come, two, and three."""
    buffer = RowBuffer(size, balance)
    names = list(SIZES)
    kept = []
    for count in range(1, 4):
        generator = torch.Generator().manual_seed(1000 * seed + count)
        kept.append(buffer.kept({name: labelled(name) for name in names[:count]}, generator))
    return kept


@pytest.mark.parametrize("balance", ["none", "task", "class"])
def test_the_buffer_holds_so_many_rows_of_all_tasks_and_none_comes_back(balance: Balance) -> None:
    for seed in range(20):
        kept = [{place for group in groups for place in group} for groups in stages(balance, seed=seed)]
        assert [len(each) for each in kept] == [4, 6, 6]
        for earlier, later, task in zip(kept, kept[1:], ["second", "third"], strict=False):
            assert all(place in earlier or place[0] == task for place in later)


def test_a_reservoir_keeps_every_row_alike() -> None:
    counts = [
        Counter(place for [group] in [stages("none", 5, seed)[2]] for place in group) for seed in range(3000)
    ]
    total = sum(counts, Counter[tuple[str, int]]())
    assert set(total) == {(task, index) for task, size in SIZES.items() for index in range(size)}
    # Draws without replacement vary less than the test takes them to: by (24 - 5) / (24 - 1).
    statistic = stats.chisquare(list(total.values())).statistic / (19 / 23)
    assert stats.chi2.sf(statistic, 23) > 1e-3
    assert stats.chi2.sf(statistic, 23) < 1 - 1e-3


def test_tasks_have_equal_parts_and_rows_within_them_are_alike() -> None:
    third = [stages("task", 6, seed)[2] for seed in range(2000)]
    assert all([len(group) for group in groups] == [2, 2, 2] for groups in third)
    counts = Counter(place for groups in third for place in groups[1])
    assert len(counts) == 12
    statistic = stats.chisquare(list(counts.values())).statistic / (10 / 11)
    assert stats.chi2.sf(statistic, 11) > 1e-3


def test_classes_have_equal_parts_as_far_as_they_have_rows() -> None:
    one, two, three = stages("class", 10)
    assert [len(group) for group in one] == [3, 1]
    # Classes of 3, 1, 9 and 3 rows: the one row, then 3 of each of the others.
    assert [len(group) for group in two] == [3, 1, 3, 3]
    # With two more, of 6 and 2 rows: ten among six, the smallest first, which have what is left of a whole.
    assert [len(group) for group in three] == [2, 1, 2, 2, 2, 1]
    for groups in (one, two, three):
        for group in groups:
            assert len({(task, LABELS[index % 4]) for task, index in group}) == 1


def test_parts_are_as_equal_as_sizes_allow() -> None:
    assert evenly(9, [100, 100, 100]) == [3, 3, 3]
    assert evenly(10, [1, 100, 4]) == [1, 5, 4]
    assert evenly(10, [2, 3]) == [2, 3]
    assert evenly(2, [5, 5, 5]) == [0, 1, 1]
    for total in range(40):
        parts = evenly(total, [7, 1, 12, 3])
        assert sum(parts) == min(total, 23)
        full = [part for part, size in zip(parts, [7, 1, 12, 3], strict=True) if part < size]
        assert not full or max(parts) - min(full) <= 1


def test_everything_is_kept_where_no_buffer_is_given() -> None:
    assert [[len(group) for group in groups] for groups in stages("task", None)] == [[4], [4, 12], [4, 12, 8]]


# What is replayed


class Labelled(tiny.Texts):
    """Texts with labels."""

    def split(self, name: Any) -> Any:
        rows: Any = super().split(name)
        return rows and [{**row, "label": LABELS[index % 4]} for index, row in enumerate(rows)]


def replayed(replay: Replay, sizes: dict[str, int]) -> Counter[tuple[str, str]]:
    """Count what the loader gives of each task and label, the new task's rows left out."""
    tasks = {
        name: replace(
            tiny.text_task(name, [], length=4), dataset=Labelled([f"{name} {index}" for index in range(size)])
        )
        for name, size in {**sizes, "new": 8}.items()
    }
    context = replace(tiny.context(tiny.model(), tasks=tasks), stage=Stage(len(sizes) + 1, {"new": WHOLE}))
    data: Any = {name: task.dataset.split("train") for name, task in tasks.items()}
    own = (Component("new", data.pop("new"), WHOLE),)
    found = replay.training_data(context.stage, own, data, context)
    parts = [
        EncodedPart(tasks[each.task], [dict(each.rows[i]) for i in range(len(each.rows))]) for each in found
    ]
    sampler = MixtureSampler(
        [Part(each.task, len(each.rows), each.share) for each in found], BATCH_SIZE, BATCHES, seed=3
    )
    counts: Counter[tuple[str, str]] = Counter()
    for places in sampler:
        counts.update((parts[part].task.name, parts[part].examples[index]["label"]) for part, index in places)
    return Counter({(task, label): count for (task, label), count in counts.items() if task != "new"})


@pytest.mark.parametrize("buffer", [None, 12])
def test_each_class_is_replayed_as_often(buffer: int | None) -> None:
    counts = replayed(Replay(share=0.5, buffer=buffer, balance="class"), {"old": 8, "older": 16})
    assert set(counts) == {("old", "a"), ("old", "b"), ("older", "a"), ("older", "b")}
    assert all(count == pytest.approx(0.5 / 4 * BATCHES * BATCH_SIZE, abs=1) for count in counts.values())


@pytest.mark.parametrize("balance", ["none", "task"])
def test_rows_or_tasks_are_replayed_as_often(balance: Literal["none", "task"]) -> None:
    counts = replayed(Replay(share=0.5, balance=balance), {"old": 8, "older": 32})
    tasks = Counter({name: counts[name, "a"] + counts[name, "b"] for name in ("old", "older")})
    share = {"none": 8 / 40, "task": 1 / 2}[balance]
    assert tasks["old"] == pytest.approx(0.5 * share * BATCHES * BATCH_SIZE, abs=1)
    assert tasks.total() == pytest.approx(0.5 * BATCHES * BATCH_SIZE, abs=1)


def test_a_buffer_is_in_all_and_not_for_each_task() -> None:
    data = mixture(Replay(share=0.5, buffer=4), ["older", "old"])
    assert [(each.task, len(each.rows)) for each in data[1:]] == [("older", 2), ("old", 2)]
    assert [each.share.start for each in data] == [0.5, 0.25, 0.25]


def test_another_seed_keeps_others() -> None:
    kept = {str(list(mixture(Replay(buffer=2), ["old"], seed=seed)[1].rows)) for seed in range(20)}
    assert len(kept) > 5


def test_rows_without_labels_are_refused_before_their_stage_trains() -> None:
    replay = Replay(balance="class")
    stage = Stage(1, {"new": WHOLE})
    context = replace(
        tiny.context(tiny.model(), tasks=TASKS), stage=stage, stages=(stage, Stage(2, {"old": WHOLE}))
    )
    own = (Component("new", rows("new"), WHOLE),)
    with pytest.raises(ConfigurationError, match="must have rows with a label, but those of new have text"):
        replay.training_data(stage, own, {}, context)
    last = replace(context, stages=(stage,))
    assert replay.training_data(stage, own, {}, last) == own  # none of them will be replayed


def test_a_trial_has_the_share_that_was_asked_for(tmp_path: Path) -> None:
    linear.train(
        tmp_path / "trial",
        {"replay": Replay(share=0.25, buffer=7, balance="class")},
        max_steps=10,
        batch_size=8,
    )
    realised = read_json(tmp_path / "trial" / "manifest.json")["realised_mixture"]
    assert realised["stage 1"] == {"first": 1.0}
    assert realised["stage 2"]["first"] == pytest.approx(0.25, abs=1 / 80)
