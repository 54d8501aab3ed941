"""Replay's share, measured from the batches that training sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from myosotis.batches import BatchLoader, EncodedPart
from myosotis.curriculum import MixtureSampler, Part
from myosotis.errors import ConfigurationError, PluginError
from myosotis.interfaces import Component, Context, Method, Mixture, Rows, Share, Stage
from myosotis.testing import MethodTestSuite
from myosotis_plugins.methods.replay import Replay
from tests.plugins import tiny

TASKS = {name: tiny.text_task(name, tiny.POEM, length=4) for name in ("old", "older", "new", "probe")}
WHOLE = Share(1, 1)
BATCHES = 25
BATCH_SIZE = 8


def rows(name: str) -> Rows:
    found = TASKS[name].dataset.split("train")
    assert found is not None
    return found


def mixture(replay: Replay, seen: Sequence[str], share: Share = WHOLE) -> Mixture:
    stage = Stage(len(seen) + 1, {"new": share})
    context: Context = replace(tiny.context(tiny.model(), tasks=TASKS), stage=stage)
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


def test_a_ramp_keeps_its_shape() -> None:
    ramp = mixture(Replay(share=0.2), ["old"], Share(0.5, 1))[0].share
    assert (ramp.start, ramp.end) == (pytest.approx(0.4), pytest.approx(0.8))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"share": 1}, "share must be at least 0 and less than 1, but got 1"),
        ({"share": -0.1}, "share must be at least 0"),
        ({"buffer": 0}, "buffer must be at least 1 row, but got 0"),
    ],
)
def test_values_out_of_range_are_refused(parameters: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Replay(**parameters)  # type: ignore[arg-type]


def test_an_unknown_dataset_is_refused_with_those_there_are() -> None:
    model = tiny.model()
    with pytest.raises((ConfigurationError, PluginError), match="Did you mean older or old"):
        Replay(dataset="olde").adapt(model, tiny.context(model, tasks=TASKS))
