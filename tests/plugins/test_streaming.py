"""Data on disk give the numbers of data in memory; what cannot be trained on is refused before any work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

import myosotis
from myosotis.errors import ConfigurationError, DataError
from myosotis.interfaces import Model
from myosotis.rows import place_of, streamed
from myosotis.testing import ByteTokenizer
from myosotis_plugins.datasets.file import File
from myosotis_plugins.datasets.hub_commit import commit
from myosotis_plugins.datasets.topics import YelpPolarity
from myosotis_plugins.objectives.classification import Classification
from myosotis_plugins.objectives.language_modeling import LanguageModeling

WORDS = (
    "rose",
    "red",
    "violet",
    "blue",
    "sugar",
    "sweet",
    "brook",
    "thorn",
    "gold",
    "forget",
    "me",
    "not",
    "May",
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYOSOTIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("myosotis.report.write_report", lambda record: None)
    lines = [
        " ".join(WORDS[number * step % len(WORDS)] for step in range(1, 14)) for number in range(1, 2500)
    ]
    Path("plays.txt").write_text("\n".join(lines), encoding="utf-8")


def command(*overrides: str) -> list[str]:
    """Give the command of a short study on one text; later overrides stand for earlier ones."""
    setting = {
        "dataset": "[]",
        "+dataset@dataset.plays": "file",
        "dataset.plays.train": "plays.txt",
        "dataset.plays.length": "32",
        "probe": "[]",
        "trainer.max_steps": "3",
        "evaluation.limit": "4",
        "evaluation.resamples": "100",
        "logger": "none",
    }
    given = dict(each.split("=", 1) for each in overrides)
    return [f"{key}={value}" for key, value in {**setting, **given}.items()]


def test_blocks_of_a_stream_are_cut_from_all_rows_in_a_row() -> None:
    rows = File(train="plays.txt").split("train")
    assert rows is not None
    model = Model(torch.nn.Identity(), ByteTokenizer())
    found = list(streamed(LanguageModeling(length=48), rows, model))
    texts = [rows[index]["text"] for index in range(len(rows))]
    ids = [token for each in model.tokenizer(texts)["input_ids"] for token in each]
    assert [each["input_ids"].tolist() for each in found] == [
        ids[start : start + 48] for start in range(0, len(ids) - 47, 48)
    ]


def test_examples_do_not_depend_on_how_many_rows_are_encoded_at_once() -> None:
    rows = [{"text": "a" * (number % 90), "label": "xy"[number % 2]} for number in range(2100)]
    objective, model = Classification(labels=("x", "y")), Model(torch.nn.Identity(), ByteTokenizer())
    assert list(streamed(objective, rows, model)) == list(objective.encode(rows, model))


@pytest.mark.parametrize("source", ["file", "hub"])
def test_a_trial_on_disk_has_the_bits_of_one_in_memory(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    Path("plays").mkdir()
    Path("plays.txt").rename("plays/train.txt")
    given = {
        "file": ["dataset.plays.train=plays/train.txt"],
        "hub": ["+dataset@dataset.plays=hub", "dataset.plays.path=plays", "dataset.plays.train=train"],
    }[source]
    memory = myosotis.run(command(*given, "study=memory", "dataset.plays.streaming=false"))
    disk = myosotis.run(command(*given, "study=disk", "force=true", "dataset.plays.streaming=true"))
    assert list(memory.trials.trial) == list(disk.trials.trial)
    assert memory.scores.equals(disk.scores)
    one, other = (next(each.folder.glob("*/adapter/*.safetensors")) for each in (memory, disk))
    assert one != other
    assert one.read_bytes() == other.read_bytes()
    [stored] = [path for path in Path("cache", "examples").iterdir() if path.is_file()]
    assert stored.stat().st_size > 0


ROWS: dict[str, list[dict[str, Any]]] = {
    "sst2": [{"text": f"film {' so' * (n % 7)} {n}", "label": n % 2} for n in range(60)],
    "agnews": [{"text": f"match {n}", "label": ("World", "Sports")[n % 2]} for n in range(60)],
    "gsm8k": [{"question": f"{n} and 1?", "answer": f"so {n + 1}\n#### {n + 1}"} for n in range(60)],
    "quotes": [{"quote": f"Be {n} yourself; everyone else is already taken."} for n in range(120)],
    "yelp_polarity": [
        {"text": f"place {n}", "label": ("negative", "neutral", "positive")[n % 3]} for n in range(60)
    ],
    "classification": [{"text": f"film {n}", "label": "xy"[n % 2]} for n in range(60)],
    "instruction": [{"prompt": f"after {n}?", "response": str(n + 1)} for n in range(60)],
}
BENCHMARKS = ("sst2", "topics", "gsm8k", "quotes")
"""The modules of those among them that are published."""
FROM_THE_HUB = {"sst2": "sentence", "gsm8k": "question"}
"""Benchmarks, and what the Hub calls their first column."""


@pytest.mark.parametrize("source", [*ROWS, *(f"{each} of the hub" for each in FROM_THE_HUB)])
def test_rows_on_disk_have_the_bits_of_those_in_memory(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every kind of row, from files and from the Hub, of which none is a block of running text."""
    name, _, hub = source.partition(" ")
    loaded = [os.environ["MYOSOTIS_PLUGINS"], *(f"myosotis_plugins.datasets.{each}" for each in BENCHMARKS)]
    monkeypatch.setenv("MYOSOTIS_PLUGINS", ",".join(loaded))
    rows = ROWS[name]
    if hub:
        first = next(iter(rows[0]))
        table = Dataset.from_list(
            [{FROM_THE_HUB[name] if k == first else k: v for k, v in each.items()} for each in rows]
        )
        monkeypatch.setattr("datasets.load_dataset", lambda *given, **named: table)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        commit.cache_clear()
    Path("folder").mkdir()
    for file in ("train.jsonl", "test.jsonl", "dev.jsonl", "english_quotes.jsonl"):
        Path("folder", file).write_text("".join(json.dumps(each) + "\n" for each in rows))
    own = "file" if name in ("classification", "instruction") else name
    given = {
        "dataset": "[]",
        "+dataset@dataset.rows": own,
        **({} if own == "file" or hub else {"dataset.rows.path": "folder"}),
        **(
            {"dataset.rows.train": "folder/train.jsonl", "dataset.rows.objective": name}
            if own == "file"
            else {}
        ),
        "dataset.rows.length": "32" if name == "quotes" else "64",
        "probe": "[]",
        "trainer.max_steps": "3",
        "evaluation.limit": "4",
        "evaluation.resamples": "100",
        "logger": "none",
    }
    overrides = [f"{key}={value}" for key, value in given.items()]
    memory = myosotis.run([*overrides, "study=memory", "dataset.rows.streaming=false"])
    assert not [
        path
        for path in Path("cache").rglob("*")
        if path.parent.name in ("rows", "examples") and path.is_file()
    ]
    disk = myosotis.run([*overrides, "study=disk", "force=true", "dataset.rows.streaming=true"])
    assert list(memory.trials.trial) == list(disk.trials.trial)
    assert memory.scores.equals(disk.scores)
    one, other = (next(each.folder.glob("*/adapter/*.safetensors")) for each in (memory, disk))
    assert one.read_bytes() == other.read_bytes()
    assert any(path.is_file() for path in Path("cache", "examples").iterdir())
    assert hub or any(path.is_file() for path in Path("cache", "rows").iterdir())


@pytest.mark.parametrize("parameters", [{}, {"train_rows": 7}])
def test_a_benchmarks_rows_are_the_same_on_disk(parameters: dict[str, Any]) -> None:
    Path("train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in ROWS["yelp_polarity"]))
    found = []
    for streaming in (False, True):
        rows = YelpPolarity(path=".", streaming=streaming, **parameters).split("train")
        assert rows is not None
        found.append([(rows[index], place_of(rows, index)) for index in range(len(rows))])
    assert found[0] == found[1]
    assert len(found[0]) == parameters.get("train_rows", 40)


def test_a_length_that_no_text_fills_is_refused_before_any_work() -> None:
    Path("short.txt").write_text("A rose is a rose.\n" * 12, encoding="utf-8")
    with pytest.raises(
        DataError, match=r"dataset.plays: .* are too short to give one example; give more text"
    ):
        myosotis.run(command("dataset.plays.train=short.txt", "dataset.plays.length=512", "study=a"))
    assert not Path("studies", "a").exists()


def test_a_metric_of_labels_on_running_text_is_refused_before_any_work() -> None:
    told = (
        r"dataset.plays: metrics must be of what LanguageModeling predicts with this model "
        r"\(bytes, loss, tokens\), but accuracy reads label, prediction; take another"
    )
    with pytest.raises(ConfigurationError, match=told):
        myosotis.run(command("dataset.plays.metrics=[accuracy]", "study=a"))
    assert not Path("studies", "a").exists()


def test_a_response_that_does_not_fit_is_refused_with_its_line_before_any_work() -> None:
    rows = [{"prompt": "why", "response": "because " * (300 if number == 50 else 1)} for number in range(60)]
    Path("asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"dataset.plays: asked.jsonl:51: a response must leave room"):
        myosotis.run(
            command("dataset.plays.train=asked.jsonl", "dataset.plays.objective=instruction", "study=a")
        )
    assert not Path("studies", "a").exists()
