"""What is on disk: places, reuse, atomic writing, and reading a study back."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from myosotis import ledger
from myosotis.errors import ConfigurationError
from myosotis.ledger import (
    Score,
    TrialEntry,
    content_hash,
    find_study,
    list_attempts,
    place,
    read_entries,
    read_scores,
    read_study,
    status,
    write_json,
    write_scores,
    write_study,
    write_text,
)
from tests.core.commands import COLUMNS

ID = "0123456789ab"


def finished(folder: Path) -> Path:
    write_json(folder / "result.json", {"learned": 0.5, "columns": []})
    return folder


def entry(trial: str = ID, folder: str | None = None, seed: int = 0, **swept: float) -> TrialEntry:
    return TrialEntry(trial, folder or trial, "pull", swept, seed, "right up")


def row(value: float = 0.5, stage: int = 0) -> Score:
    return Score(stage, 12 * stage, "right", "test", "hits", value, 64, value - 0.1, value + 0.1)


def test_new_trial_has_its_id_for_a_place(tmp_path: Path) -> None:
    assert place(tmp_path, "toy", ID) == ID
    assert place(tmp_path, "toy", ID, force=True) == ID


def test_trial_stays_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "toy" / ID).mkdir(parents=True)
    assert place(tmp_path, "toy", ID) == ID
    assert place(tmp_path, "toy", ID, force=True) == ID  # not yet finished: it goes on
    finished(tmp_path / "toy" / ID)
    assert place(tmp_path, "toy", ID) == ID


def test_force_goes_beside_what_is_finished(tmp_path: Path) -> None:
    finished(tmp_path / "toy" / ID)
    assert place(tmp_path, "toy", ID, force=True) == f"{ID}.2"
    finished(tmp_path / "toy" / f"{ID}.2")
    assert place(tmp_path, "toy", ID, force=True) == f"{ID}.3"
    assert place(tmp_path, "toy", ID) == f"{ID}.2"  # the newest


def test_newest_is_by_number(tmp_path: Path) -> None:
    for attempt in ("", *(f".{number}" for number in range(2, 12))):
        finished(tmp_path / "toy" / (ID + attempt))
    assert place(tmp_path, "toy", ID) == f"{ID}.11"


def test_finished_trial_of_another_study_is_reused_by_reference(tmp_path: Path) -> None:
    finished(tmp_path / "first" / ID)
    relative = place(tmp_path, "second", ID)
    assert (tmp_path / "second" / relative).resolve() == (tmp_path / "first" / ID).resolve()
    assert place(tmp_path, "second", ID, force=True) == ID


def test_unfinished_or_other_trial_is_not_reused(tmp_path: Path) -> None:
    write_text(tmp_path / "first" / ID / "error.txt", "failed")
    finished(tmp_path / "first" / f"{ID}c")
    finished(tmp_path / "first" / f"{ID}.x")
    assert place(tmp_path, "second", ID) == ID


def test_one_listing_serves_many_trials(tmp_path: Path) -> None:
    other = "b" * 12
    for study, name in (
        ("first", ID),
        ("first", f"{other}.2"),
        ("second", f"{ID}.10"),
        ("second", f"{ID}.9"),
    ):
        finished(tmp_path / study / name)
    write_text(tmp_path / "second" / f"{ID}.lock", "")
    write_text(tmp_path / "note.txt", "")
    attempts = list_attempts(tmp_path)
    assert {trial: sorted(found) for trial, found in attempts.items()} == {
        ID: [("first", 1, ID), ("second", 9, f"{ID}.9"), ("second", 10, f"{ID}.10")],
        other: [("first", 2, f"{other}.2")],
    }
    for study in ("first", "second", "third"):
        for trial in (ID, other, "c" * 12):
            for force in (False, True):
                assert place(tmp_path, study, trial, force, attempts) == place(tmp_path, study, trial, force)
    assert place(tmp_path, "second", ID, attempts=attempts) == f"{ID}.10"
    assert list_attempts(tmp_path / "none") == {}


def test_status(tmp_path: Path) -> None:
    assert status(tmp_path) == "unfinished"
    write_text(tmp_path / "error.txt", "failed")
    assert status(tmp_path) == "failed"
    assert status(finished(tmp_path)) == "finished"


def test_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")

    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]


def test_value_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    circle: dict[str, object] = {}
    circle["itself"] = [circle]
    with pytest.raises((RecursionError, ValueError)):
        write_json(path, circle)
    assert json.loads(path.read_text()) == {"a": 1}


def test_new_file_is_readable_by_others(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "text")
    assert (tmp_path / "a" / "b.txt").stat().st_mode & 0o777 == 0o644


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    write_json(path, {"a": math.nan, "b": [math.inf, (1.5, -math.inf)], 3: "ü"})
    assert (
        path.read_text(encoding="utf-8")
        == '{\n "a": null,\n "b": [\n  null,\n  [\n   1.5,\n   null\n  ]\n ],\n "3": "ü"\n}\n'
    )


def test_scores_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    scores = [row(0.1 + 0.2), row(math.nan, stage=1)]
    write_scores(path, scores)
    assert json.loads(path.read_text().splitlines()[1])["value"] is None
    first, second = read_scores(path)
    assert first == scores[0]
    assert math.isnan(second.value)
    assert math.isnan(second.low)
    assert (second.stage, second.step, second.n) == (1, 12, 64)
    assert read_scores(tmp_path / "none.jsonl") == []


def test_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert content_hash([1, 2]) != content_hash([2, 1])
    assert len(content_hash("a")) == 12


def test_file_hash_is_of_the_contents(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("one")
    second.write_text("one")
    assert ledger.file_hash([first]) == ledger.file_hash([second])
    second.write_text("two")
    assert ledger.file_hash([first]) != ledger.file_hash([second])
    assert ledger.file_hash([first, second]) != ledger.file_hash([second, first])


def test_study_keeps_the_trials_of_earlier_commands(tmp_path: Path) -> None:
    write_study(tmp_path, ["seed=0"], [entry(seed=0)])
    write_study(tmp_path, ["seed=1"], [entry("b" * 12, seed=1)])
    assert [each.seed for each in read_entries(tmp_path)] == [0, 1]
    # The same point with another id, as after an edit of its plugin, stands in its stead.
    write_study(tmp_path, ["seed=0"], [entry("c" * 12, seed=0)])
    assert [each.id for each in read_entries(tmp_path)] == ["b" * 12, "c" * 12]


def test_study_is_found_by_name_or_path(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    write_study(studies / "toys", [], [])
    assert find_study("toys", studies) == studies / "toys"
    assert find_study(studies / "toys", Path("elsewhere")) == studies / "toys"
    with pytest.raises(ConfigurationError, match=r"no study named 'toy'\. Did you mean toys\?"):
        find_study("toy", studies)


def test_reading_a_study_whose_trials_came_to_different_ends(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    done, failed, begun, new = (letter * 12 for letter in "abcd")
    write_study(
        folder,
        [],
        [entry(done, strength=0.5), entry(failed, strength=1), entry(begun, seed=1), entry(new, seed=2)],
    )
    column = {"task": "right", "role": "task", "metric": "hits", "higher_is_better": True}
    probe = {"task": "side", "role": "probe", "metric": "hits", "higher_is_better": True}
    write_json(
        folder / done / "result.json",
        {
            "learned": 0.25,
            "forgotten": math.nan,
            "metric": "hits",
            "seconds": 2.0,
            "columns": [probe, column],
        },
    )
    write_scores(folder / done / "scores.jsonl", [row(), row(0.75, stage=1)])
    write_text(folder / failed / "error.txt", "NonFiniteLoss: the loss\n\nTraceback")
    write_scores(folder / begun / "scores.jsonl", [row()])
    record = read_study(folder)

    assert record.name == "toy"
    assert list(record.scores.columns) == COLUMNS
    assert record.scores.values.tolist() == [
        [done, "pull", "strength=0.5", 0, "right up", 0, 0, "right", "test", "hits", 0.5, 64, 0.4, 0.6, ""],
        [
            done,
            "pull",
            "strength=0.5",
            0,
            "right up",
            1,
            12,
            "right",
            "test",
            "hits",
            0.75,
            64,
            0.65,
            0.85,
            "",
        ],
        [begun, "pull", "", 1, "right up", 0, 0, "right", "test", "hits", 0.5, 64, 0.4, 0.6, ""],
    ]
    trials = record.trials.set_index("trial")
    assert trials.status.to_dict() == {
        done: "finished",
        failed: "failed",
        begun: "unfinished",
        new: "unfinished",
    }
    assert trials.error[failed] == "NonFiniteLoss: the loss"
    assert trials.learned[done] == 0.25
    assert trials.learned.isna().to_dict() == {done: False, failed: True, begun: True, new: True}
    assert math.isnan(trials.forgotten[done])
    assert trials.configuration[done] == "pull strength=0.5"
    assert trials.swept[done] == {"strength": 0.5}
    assert record.columns.values.tolist() == [
        ["right", "task", "hits", True],
        ["side", "probe", "hits", True],
    ]
