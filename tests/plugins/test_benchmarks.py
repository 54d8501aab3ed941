"""Published data sets: rows from files in their layout, from the Hub's columns, and what is told without."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from myosotis.errors import ConfigurationError, DataError
from myosotis.interfaces import Model, Row, Split, TaskDataset
from myosotis.rows import encoded
from myosotis.testing import ByteTokenizer, TaskDatasetTestSuite
from myosotis_plugins.datasets.benchmark import Benchmark
from myosotis_plugins.datasets.gsm8k import GSM8K
from myosotis_plugins.datasets.hub_commit import commit
from myosotis_plugins.datasets.multi30k import Multi30k
from myosotis_plugins.datasets.quotes import Quotes
from myosotis_plugins.datasets.scitldr import SciTLDR
from myosotis_plugins.datasets.sst2 import SST2
from myosotis_plugins.datasets.stories import Stories
from myosotis_plugins.datasets.topics import (
    AGNews,
    Amazon,
    AmazonPolarity,
    DBpedia,
    Yahoo,
    Yelp,
    YelpPolarity,
)
from myosotis_plugins.datasets.wnut17 import TAGS, WNUT17
from myosotis_plugins.datasets.xquad import XQuAD
from myosotis_plugins.models.nano import Nano
from myosotis_plugins.objectives.instruction import Instruction
from myosotis_plugins.objectives.token_classification import TokenClassification
from tests.plugins.encoders import loaded
from tests.test_stories import SHARED, needs_shared

DATA = SHARED / "data"
COUNTS: Mapping[type[Benchmark], tuple[str, Mapping[str, int]]] = {
    SST2: ("sst2", {"train": 6920, "validation": 872, "test": 1821}),
    AGNews: ("cl5_text_classification/agnews", {"train": 2000, "test": 500}),
    Amazon: ("cl5_text_classification/amazon", {"train": 2000, "test": 500}),
    DBpedia: ("cl5_text_classification/dbpedia", {"train": 2000, "test": 500}),
    Yahoo: ("cl5_text_classification/yahoo", {"train": 2000, "test": 500}),
    Yelp: ("cl5_text_classification/yelp", {"train": 1200, "test": 500}),
    WNUT17: ("ner/wnut17", {"train": 3394, "validation": 1009, "test": 1287}),
    GSM8K: ("gsm8k", {"train": 5000, "test": 1319}),
    Multi30k: ("multi30k", {"train": 4000, "validation": 1014, "test": 1000}),
    SciTLDR: ("scitldr", {"train": 1100, "validation": 250, "test": 250}),
    Quotes: ("quotes", {"train": 2258, "test": 250}),
    XQuAD: ("xquad", {"train": 952, "test": 238}),
    Stories: ("tinystories_sample", {"train": 2016, "test": 300}),
}


@needs_shared
@pytest.mark.parametrize("cls", COUNTS)
def test_files_in_the_published_layout_give_their_rows(cls: type[Benchmark]) -> None:
    folder, counts = COUNTS[cls]
    dataset = cls(path=str(DATA / folder))
    splits: tuple[Split, ...] = ("train", "validation", "test")
    found = {name: rows for name in splits if (rows := dataset.split(name)) is not None}
    assert {name: len(rows) for name, rows in found.items()} == counts


@needs_shared
@pytest.mark.parametrize("cls", [AGNews, Amazon, DBpedia, Yahoo, Yelp])
def test_labels_are_those_that_the_rows_have(cls: type[Benchmark]) -> None:
    folder = DATA / COUNTS[cls][0]
    _, parameters = cls(path=str(folder)).objective()
    assert list(parameters["labels"]) == json.loads((folder / "labels.json").read_text())


@needs_shared
def test_tags_are_those_that_the_rows_have() -> None:
    assert list(TAGS) == json.loads((DATA / "ner" / "wnut17" / "labels.json").read_text())


class OfRows(TaskDatasetTestSuite):
    """A few rows in a folder, as each data set has them."""

    cls: type[Benchmark] = SST2
    raw: tuple[Mapping[str, Any], ...] = tuple(
        {"text": f"film {number}", "label": number % 2} for number in range(40)
    )

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        names = list(self.cls.files.values())
        for number, name in enumerate(dict.fromkeys(names)):
            rows = self.raw if len(set(names)) == 1 else self.raw[number :: len(names)]
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.folder = tmp_path

    def make(self) -> TaskDataset:
        return self.cls(path=str(self.folder))


class TestSST2(OfRows):
    pass


class TestYelp(OfRows):
    cls = Yelp
    raw = tuple({"text": f"place {number}", "label": "neutral"} for number in range(40))


class TestYelpPolarity(OfRows):
    cls = YelpPolarity
    raw = tuple({"text": f"place {number}", "label": "very positive"} for number in range(40))


class TestWNUT17(OfRows):
    cls = WNUT17
    raw = tuple({"tokens": ["in", f"x{number}"], "tags": ["O", "B-location"]} for number in range(40))

    def model(self) -> Model:
        return loaded("gpt2", self.folder, TokenClassification(TAGS))


class TestGSM8K(OfRows):
    cls = GSM8K
    raw = tuple({"question": f"1 + {n}?", "answer": f"#### {n + 1}"} for n in range(40))


class TestMulti30k(OfRows):
    cls = Multi30k
    raw = tuple({"en": f"dog {n}", "de": f"Hund {n}", "fr": f"chien {n}"} for n in range(40))


class TestQuotes(OfRows):
    cls = Quotes
    raw = tuple({"quote": f"“Be {n} yourself; everyone else is already taken.”" * 4} for n in range(40))


# The Hub


HUB: Mapping[type[Benchmark], tuple[Mapping[str, Any], Row]] = {
    SST2: ({"idx": 1, "sentence": "fine", "label": 1}, {"text": "fine", "label": "positive"}),
    AGNews: ({"text": "match", "label": 1}, {"text": "match", "label": "Sports"}),
    Amazon: ({"id": "en_1", "text": "good", "label": 4}, {"text": "good", "label": "very positive"}),
    DBpedia: (
        {"label": 12, "title": "Alien", "content": "is a film"},
        {"text": "Alien\nis a film", "label": "Film"},
    ),
    Yahoo: (
        {"topic": 2, "question_title": "Flu?", "question_content": "", "best_answer": "Rest."},
        {"text": "Flu?\nRest.", "label": "Health"},
    ),
    Yelp: ({"label": 0, "text": "cold"}, {"text": "cold", "label": "very negative"}),
    WNUT17: (
        {"id": "0", "tokens": ["in", "Rome"], "ner_tags": [0, 7]},
        {"tokens": ["in", "Rome"], "tags": ["O", "B-location"]},
    ),
    GSM8K: ({"question": "2?", "answer": "#### 2"}, {"prompt": "2?", "response": "#### 2"}),
    Multi30k: ({"en": "dog", "de": "Hund"}, {"source": "dog", "target": "Hund"}),
    SciTLDR: (
        {"source": ["We show.", "It works."], "target": ["Works.", "Shown."]},
        {"source": "We show. It works.", "target": "Works."},
    ),
    Quotes: ({"quote": "Be.", "author": "O. W.", "tags": []}, {"text": "Be."}),
    XQuAD: (
        {"context": "…", "question": "Who?", "answers": {"text": ["He"], "answer_start": [1]}},
        {"prompt": "Who?", "response": "He"},
    ),
    Stories: ({"text": "Once"}, {"text": "Once"}),
}


@pytest.mark.parametrize("cls", HUB)
def test_rows_of_the_hub_are_read_by_its_columns(
    cls: type[Benchmark], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, expected = HUB[cls]
    asked = []

    def load(*given: Any, **named: Any) -> list[Mapping[str, Any]]:
        asked.append((given, named))
        return [raw] * 20

    monkeypatch.setattr("datasets.load_dataset", load)
    rows = cls().split("test")
    assert rows is not None
    assert rows[0] == expected
    [(given, named)] = asked
    assert given == (cls.hub, cls.hub_name)
    assert named == {"split": cls.hub_splits["test"], "revision": cls.hub_revision}


def test_paragraphs_are_those_of_the_hub_or_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = [{"context": text, "question": "?", "answers": {"text": ["a"]}} for text in ("one", "two", "one")]
    monkeypatch.setattr("datasets.load_dataset", lambda *given, **named: raw)
    assert XQuAD().corpus() == ["one", "two"]
    (tmp_path / "qa_en.jsonl").write_text('{"question": "?", "answer": "a"}\n')
    dataset = XQuAD(path=str(tmp_path))
    assert list(dataset.corpus()) == []
    closed = dataset.fingerprint()
    (tmp_path / "corpus_en.jsonl").write_text('{"text": "one"}\n')
    assert list(dataset.corpus()) == ["one"]
    assert dataset.fingerprint() != closed


def test_without_a_network_the_folder_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*given: Any, **named: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(
        DataError, match=r"folder with train.jsonl.*Couldn't reach the Hub. Without a network"
    ):
        SST2().split("train")


def test_an_unreachable_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    commit.cache_clear()
    with pytest.raises(
        DataError, match=r"folder with train.jsonl.*does not: .*Without a network, give path="
    ):
        SST2().fingerprint()


# Mistakes


def test_a_row_with_other_columns_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 0}\n{"body": "a", "label": 0}\n')
    with pytest.raises(
        DataError, match=r"train.jsonl:2: a row of SST2 must have other columns .* body, label"
    ):
        SST2(path=str(tmp_path)).split("train")


FILES: Mapping[type[Benchmark], Mapping[str, Any]] = {
    SST2: {"text": "fine", "label": 1},
    **{cls: {} for cls in (AGNews, DBpedia, Yahoo)},
    **{cls: {"text": "good", "label": "positive"} for cls in (Amazon, Yelp, AmazonPolarity, YelpPolarity)},
    WNUT17: {"tokens": ["in", "Rome"], "tags": ["O", "B-location"]},
    GSM8K: {"question": "2?", "answer": "#### 2"},
    Multi30k: {"en": "dog", "de": "Hund"},
    SciTLDR: {"document": "We show.", "summary": "Works."},
    Quotes: {"quote": "Be."},
    XQuAD: {"question": "Who?", "answer": "He"},
    Stories: {"text": "Once"},
}
FILES = {
    cls: row or {"text": "some", "label": cls().objective()[1]["labels"][0]} for cls, row in FILES.items()
}
NOT_READ = ("idx", "id", "author", "context")
"""Columns of the Hub that say nothing about the task; nor does a quotation's `tags`."""


def spoilt(rows: Mapping[type[Benchmark], Mapping[str, Any]]) -> list[Any]:
    """Give every benchmark with a good row, and with one in which a column is null, of another type, or missing."""
    found = []
    for cls, good in rows.items():
        for column, value in good.items():
            if column in NOT_READ or (cls, column) == (Quotes, "tags"):
                continue
            others = {"null": None, "number": 2.5 if isinstance(value, int) else 7, "list": [None]}
            if column in ("label", "topic") and cls is not SST2:
                del others["number"]  # stands for a label
                others["text"] = ["Sports"]
            changed = {kind: {**good, column: other} for kind, other in others.items()}
            changed["missing"] = {name: other for name, other in good.items() if name != column}
            found += [
                pytest.param(cls, good, bad, id=f"{cls.__name__}-{column}-{kind}")
                for kind, bad in changed.items()
            ]
    return found


@pytest.mark.parametrize(("cls", "good", "bad"), spoilt(FILES))
@pytest.mark.parametrize("streaming", [False, True])
def test_a_bad_value_is_told_with_its_file_and_line(
    cls: type[Benchmark],
    good: Row,
    bad: Row,
    streaming: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MYOSOTIS_CACHE", str(tmp_path / "cache"))
    name = cls.files["train"]
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in (good, good, bad)))
    with pytest.raises(
        DataError, match=rf"/{name}:3: (column '.*' must be|a row of .* must have other columns)"
    ):
        cls(path=str(tmp_path), streaming=streaming).split("train")


@pytest.mark.parametrize(("cls", "good", "bad"), spoilt({cls: raw for cls, (raw, _) in HUB.items()}))
def test_a_bad_value_of_the_hub_is_told_with_its_row(
    cls: type[Benchmark], good: Row, bad: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda *given, **named: [good, good, bad])
    with pytest.raises(
        DataError,
        match=rf"^{cls.hub}, split \w+, row 3: (column '.*' must be|a row of .* must have other columns)",
    ):
        cls().split("train")


def test_a_solution_that_is_too_long_is_told_with_its_file_and_line(tmp_path: Path) -> None:
    rows = [{"question": "2?", "answer": "one " * count} for count in (1, 1, 300)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = GSM8K(path=str(tmp_path), length=64)
    _, parameters = dataset.objective()
    given = dataset.split("train")
    assert given is not None
    with pytest.raises(DataError, match=r"/train.jsonl:3: a response must leave room .* raise length"):
        encoded(Instruction(**parameters), given, Model(torch.nn.Identity(), ByteTokenizer()))


def test_further_parameters_reach_the_objective() -> None:
    for cls in (GSM8K, XQuAD, Multi30k, SciTLDR):
        assert cls(options={"num_beams": 4}).objective()[1]["num_beams"] == 4


@needs_shared
def test_no_solution_is_too_long_for_the_default() -> None:
    dataset = GSM8K(path=str(DATA / "gsm8k"))
    _, parameters = dataset.objective()
    objective = Instruction(**parameters)
    model = Nano().load([objective])
    for split in ("train", "test"):
        rows = dataset.split(split)
        assert rows is not None
        assert len(objective.encode(rows, model)) == len(rows)


def test_an_unknown_label_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": "Gossip"}\n')
    with pytest.raises(DataError, match=r"train.jsonl:1: .*no label 'Gossip'"):
        AGNews(path=str(tmp_path)).split("train")


def test_a_folder_without_the_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file named 'train.jsonl'"):
        SST2(path=str(tmp_path)).fingerprint()
    assert SST2(path=str(tmp_path)).split("validation") is None


@pytest.mark.parametrize("options", [{"source": "de"}, {"target": "es"}, {"length": 1}])
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be"):
        Multi30k(**options)


def test_a_head_of_its_own_is_called_as_the_task() -> None:
    assert AGNews().objective()[1]["head_name"] == ""
    assert AGNews(own_head=True).objective()[1]["head_name"] == "agnews"


def sst2(folder: Path, **parameters: Any) -> SST2:
    """Give sentences of which every third is positive."""
    for name in SST2.files.values():
        rows = [{"text": f"film {number}", "label": int(number % 3 == 0)} for number in range(30)]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SST2(path=str(folder), **parameters)


@pytest.mark.parametrize(
    ("cls", "row", "last"),
    [
        (SST2, {"sentence": "a fine film", "label": -1}, 1),
        (AGNews, {"text": "rain", "label": -1}, 3),
        (Yahoo, {"question_title": "rain?", "question_content": "", "best_answer": "", "topic": -1}, 9),
        (AmazonPolarity, {"title": "good", "content": "it works", "label": -1}, 1),
        (WNUT17, {"tokens": ["rain"], "ner_tags": [-1]}, 12),
        (SST2, {"text": "a fine film", "label": 2}, 1),
    ],
)
def test_a_number_that_no_label_has_is_refused_with_its_row(
    cls: type[Benchmark], row: Row, last: int, tmp_path: Path
) -> None:
    """A split whose labels are kept back numbers them -1, which Python would take for the last."""
    good = {
        **row,
        **{key: [0] if key == "ner_tags" else 0 for key in row.keys() & {"label", "topic", "ner_tags"}},
    }
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (good, row)))
    told = rf"test.jsonl:2: a label must be a number from 0 to {last}, but is (-1|2); a split without labels"
    with pytest.raises(DataError, match=told):
        cls(path=str(tmp_path)).split("test")


def test_fewer_training_rows_are_among_more(tmp_path: Path) -> None:
    texts = {
        count: [row["text"] for row in sst2(tmp_path, train_rows=count).split("train") or ()]
        for count in (5, 12)
    }
    assert texts[5] == texts[12][:5]
    assert len({*texts[12]}) == 12
    assert texts[12] != [f"film {number}" for number in range(12)]  # files are often sorted by label
    assert len(sst2(tmp_path, train_rows=5).split("test") or ()) == 30


@pytest.mark.parametrize(
    ("count", "error", "told"),
    [
        (31, DataError, "train_rows must be at most 30, for there are no more, but is 31"),
        (0, ConfigurationError, "train_rows must be at least 1, but got 0"),
    ],
)
def test_training_rows_that_are_not_there_are_told(
    count: int, error: type[Exception], told: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=told):
        sst2(tmp_path, train_rows=count).split("train")


def test_a_sentiment_can_be_asked_for(tmp_path: Path) -> None:
    dataset = sst2(tmp_path, by="instruction")
    assert dataset.objective()[0] == "instruction"
    asked = "Is this sentence of a film review positive or negative?"
    assert list(dataset.split("test") or ())[:2] == [
        {"prompt": f"{asked}\nfilm 0", "response": "positive"},
        {"prompt": f"{asked}\nfilm 1", "response": "negative"},
    ]


def test_an_unknown_way_to_classify_is_told_with_all_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"instructions.*auto, head, instruction, likelihood"):
        SST2(by="instructions")


def test_five_stars_become_two_polarities(tmp_path: Path) -> None:
    stars = ("very negative", "negative", "neutral", "positive", "very positive")
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text(
            "".join(json.dumps({"text": each, "label": each}) + "\n" for each in stars)
        )
    found = {row["text"]: row["label"] for row in YelpPolarity(path=str(tmp_path)).split("train") or ()}
    assert found == {
        "very negative": "negative",
        "negative": "negative",
        "positive": "positive",
        "very positive": "positive",
    }


def test_the_hubs_polarities_are_named() -> None:
    row = AmazonPolarity().row({"title": "Good", "content": "It works.", "label": 1})
    assert row == {"text": "Good\nIt works.", "label": "positive"}
