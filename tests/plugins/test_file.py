"""One's own files: what is read from them, and how mistakes in them are told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

from myosotis.errors import ConfigurationError, DataError
from myosotis.interfaces import Model, Rows, TaskDataset
from myosotis.rows import Placed, encoded
from myosotis.testing import ByteTokenizer, TaskDatasetTestSuite
from myosotis_plugins.datasets.file import File
from myosotis_plugins.objectives.instruction import Instruction

LABELS = ("even", "odd")
TEXT = "one\ntwo\n\n  three  \nfour\n\n\nfive\n"


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def json_lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def listed(rows: Rows | None) -> list[Any]:
    assert rows is not None
    return [rows[index] for index in range(len(rows))]


def texts(rows: Rows | None) -> list[str]:
    return [row["text"] for row in listed(rows)]


class InAFolder(TaskDatasetTestSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path


class TestPlainText(InAFolder):
    def make(self) -> TaskDataset:
        lines = "".join(f"line {number} of a file\n" for number in range(40))
        return File(train=written(self.folder, "a.txt", lines))


class TestInstructions(InAFolder):
    def make(self) -> TaskDataset:
        rows = [{"prompt": f"{number}?", "response": str(number)} for number in range(20)]
        return File(
            train=written(self.folder, "a.jsonl", json_lines(*rows[:10])),
            validation=written(self.folder, "b.jsonl", json_lines(*rows[10:12])),
            test=written(self.folder, "c.jsonl", json_lines(*rows[12:])),
            objective="instruction",
        )


class TestLabels(InAFolder):
    def make(self) -> TaskDataset:
        table = "text,label\n" + "".join(f"row {number},{LABELS[number % 2]}\n" for number in range(30))
        return File(train=written(self.folder, "a.csv", table), objective="classification")


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("line", ["one", "two", "three", "four", "five"]),
        ("paragraph", ["one\ntwo", "three  \nfour", "five"]),
        ("file", [TEXT]),
    ],
)
def test_units_of_plain_text(unit: Any, expected: list[str], tmp_path: Path) -> None:
    assert texts(File(test=written(tmp_path, "a.txt", TEXT), unit=unit).split("test")) == expected


def test_windows_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + "één\r\n\r\ntwee\r\n".encode()
    for unit in ("line", "paragraph"):
        found = texts(File(test=written(tmp_path, "a.txt", content), unit=unit).split("test"))  # type: ignore[arg-type]
        assert found == ["één", "twee"]


def test_running_text_holds_out_its_last_tenth(tmp_path: Path) -> None:
    dataset = File(train=written(tmp_path, "a.txt", "".join(f"{number}\n" for number in range(25))))
    assert texts(dataset.split("test")) == ["23", "24"]
    assert texts(dataset.split("train")) == [str(number) for number in range(23)]
    assert dataset.split("validation") is None


def test_other_rows_hold_out_every_tenth(tmp_path: Path) -> None:
    rows = [{"prompt": str(number), "response": "x"} for number in range(25)]
    dataset = File(train=written(tmp_path, "a.jsonl", json_lines(*rows)), objective="instruction")
    assert [row["prompt"] for row in listed(dataset.split("test"))] == ["9", "19"]
    assert len(listed(dataset.split("train"))) == 23


def test_a_few_rows_hold_out_one(tmp_path: Path) -> None:
    rows = [{"prompt": str(number), "response": "x"} for number in range(3)]
    dataset = File(train=written(tmp_path, "a.jsonl", json_lines(*rows)), objective="instruction")
    assert [row["prompt"] for row in listed(dataset.split("test"))] == ["2"]
    assert [row["prompt"] for row in listed(dataset.split("train"))] == ["0", "1"]


def test_a_file_for_test_leaves_the_training_rows_whole(tmp_path: Path) -> None:
    dataset = File(train=written(tmp_path, "a.txt", "a\nb\n"), test=written(tmp_path, "b.txt", "c\n"))
    assert texts(dataset.split("train")) == ["a", "b"]
    assert texts(dataset.split("test")) == ["c"]


def test_columns_under_other_names(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv", "body\tkind\nx, y\tsea\nz\tland\n")
    dataset = File(test=path, objective="classification", columns={"text": "body", "label": "kind"})
    assert listed(dataset.split("test")) == [{"text": "x, y", "label": "sea"}, {"text": "z", "label": "land"}]
    name, parameters = dataset.objective()
    assert (name, parameters["labels"]) == ("classification", ["land", "sea"])


def test_a_table_may_quote_commas_and_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'text,n\n"a, ""b""\nc",1\n')
    assert texts(File(test=path).split("test")) == ['a, "b"\nc']


def test_only_line_ends_end_a_row_of_a_table(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text,n\na\u2028b\x0cc,1\r\nd,2\r\n")
    assert texts(File(test=path).split("test")) == ["a\u2028b\x0cc", "d"]


def test_whole_numbers_may_be_labels(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", json_lines({"text": "x", "label": 1}, {"text": "y", "label": 0}))
    assert [row["label"] for row in listed(File(test=path, objective="classification").split("test"))] == [
        "1",
        "0",
    ]


def test_a_fingerprint_follows_the_content_not_the_place(tmp_path: Path) -> None:
    one, other = written(tmp_path, "a.txt", "a\n"), written(tmp_path, "b.txt", "b\n")
    assert File(train=one).fingerprint() == File(train=one).fingerprint()
    assert File(train=one).fingerprint() != File(train=other).fingerprint()
    (tmp_path / "b.txt").write_text("a\n")
    assert (
        File(train=one).fingerprint().split("=")[1][:8] == File(train=other).fingerprint().split("=")[1][:8]
    )


MISTAKES: list[tuple[str, str | bytes, dict[str, Any], str]] = [
    ("a.txt", "", {}, "a.txt must have at least one row, but is empty"),
    ("a.txt", "\n \n", {}, "a.txt must have at least one row, but has none"),
    ("a.txt", "fine\ncaf\xe9\n".encode("latin-1"), {}, "a.txt:2: must be UTF-8, but byte 8 is 0xe9"),
    ("a.jsonl", '{"text": "a"}\n\n{"text": "b"\n', {}, "a.jsonl:3: must be one JSON object a line, but: "),
    ("a.jsonl", '{"text": "a"}\n["b"]\n', {}, "a.jsonl:2: must be a JSON object, but is '[\"b\"]'"),
    (
        "a.jsonl",
        '{"text": "a"}\n{"txt": "b", "n": 1}\n',
        {},
        "a.jsonl:2: must have a column 'text', but has: txt, n",
    ),
    ("a.jsonl", '{"text": 3}\n', {}, "a.jsonl:1: column 'text' must be text, but is int: 3"),
    ("a.jsonl", '{"text": null}\n', {}, "a.jsonl:1: column 'text' must be text, but is NoneType: None"),
    ("a.csv", "text,n\na,1\nb\n", {}, "a.csv:3: must have 2 fields as the header, but has 1"),
    ("a.csv", "text,n\na,1\nb,2,3\n", {}, "a.csv:3: must have 2 fields as the header, but has 3"),
    ("a.csv", 'text\n"a\n', {}, "must be CSV, but: "),
    ("a.csv", "body,n\na,1\n", {}, "a.csv:2: must have a column 'text', but has: body, n"),
    ("a.csv", "text\n", {}, "a.csv must have at least one row, but has none"),
    (
        "a.txt",
        "a\n",
        {"objective": "instruction"},
        "a.txt must be .jsonl, .csv, .tsv or .parquet for instruction",
    ),
    (
        "a.csv",
        "text,label\na,yes\nb,yess\n",
        {"objective": "classification", "labels": ["yes", "no"]},
        "a.csv:3: there is no label named 'yess'. Did you mean yes? Known: no, yes",
    ),
]


@pytest.mark.parametrize(("name", "content", "parameters", "message"), MISTAKES)
def test_a_mistake_in_a_file_is_told_with_its_line(
    name: str, content: str | bytes, parameters: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        File(train=written(tmp_path, name, content), **parameters).split("train")


@pytest.mark.parametrize("use", [File.fingerprint, lambda dataset: dataset.split("train")])
def test_a_file_that_is_not_there_is_refused_with_the_nearest(
    use: Callable[[File], Any], tmp_path: Path
) -> None:
    written(tmp_path, "plays.txt", "x")
    with pytest.raises(DataError, match=r"'play\.txt'. Did you mean plays\.txt"):
        use(File(train=str(tmp_path / "play.txt")))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "a file dataset must have a file"),
        ({"train": "a", "objective": "instructions"}, "Did you mean instruction?"),
        ({"train": "a", "columns": {"label": "x"}}, "columns must name those of language_modeling (text)"),
        ({"train": "a", "length": 0}, "length must be at least 1"),
    ],
)
def test_parameters_that_cannot_be_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        File(**parameters)


# Other kinds of rows


CONLL = "-DOCSTART- -X- O O\n\nIn\tO\nNew\tB-place\nYork\tI-place\n\n\nRain\tO\n"


def test_conll_gives_sentences_with_their_tags(tmp_path: Path) -> None:
    path = written(tmp_path, "a.conll", CONLL)
    dataset = File(test=path, objective="token_classification", labels=None)
    assert listed(dataset.split("test")) == [
        {"tokens": ["In", "New", "York"], "tags": ["O", "B-place", "I-place"]},
        {"tokens": ["Rain"], "tags": ["O"]},
    ]
    assert dataset.objective() == (
        "token_classification",
        {"length": 128, "tags": ["B-place", "I-place", "O"]},
    )


def test_a_line_of_conll_without_a_tag_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, "a.conll", "In\tO\nNew\n")
    with pytest.raises(DataError, match=re.escape(f"{path}:2: must have a word and, last, its tag")):
        File(test=path, objective="token_classification").split("test")


def test_an_unknown_tag_is_told_with_its_sentence(tmp_path: Path) -> None:
    path = written(tmp_path, "a.conll", CONLL)
    dataset = File(test=path, objective="token_classification", labels=["O", "B-place"])
    with pytest.raises(DataError, match=re.escape(f"{path}:3: there is no label named 'I-place'")):
        dataset.split("test")


def test_parquet_is_read_as_json_lines_are(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b"], "tags": ["O", "B-x"]}, {"tokens": ["c"], "tags": ["O"]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    other = written(tmp_path, "a.jsonl", json_lines(*rows))
    for path in (str(tmp_path / "a.parquet"), other):
        assert listed(File(test=path, objective="token_classification").split("test")) == rows
    broken = written(tmp_path, "b.parquet", "no table")
    with pytest.raises(DataError, match=re.escape(f"{broken} must be Parquet")):
        File(test=broken, objective="token_classification").split("test")


def test_a_conversation_stands_for_prompt_and_response(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    path = written(tmp_path, "a.jsonl", json_lines({"chat": talk}, {"prompt": "a", "response": "b"}))
    dataset = File(test=path, objective="instruction", columns={"messages": "chat"})
    assert listed(dataset.split("test")) == [{"messages": talk}, {"prompt": "a", "response": "b"}]
    wrong = written(tmp_path, "b.jsonl", json_lines({"messages": talk[1:]}))
    with pytest.raises(DataError, match=re.escape(f"{wrong}:1: a chat must begin with the user")):
        File(test=wrong, objective="instruction").split("test")


def test_further_parameters_go_to_the_objective_and_metrics_are_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", json_lines({"source": "a", "target": "b"}))
    dataset = File(
        test=path,
        objective="sequence_to_sequence",
        template="say {source}",
        options={"target_length": 9},
        metrics=["bleu"],
    )
    assert dataset.objective()[1] == {"length": 128, "template": "say {source}", "target_length": 9}
    assert dataset.metrics() == ("bleu",)


@pytest.mark.parametrize(
    ("objective", "row", "told"),
    [
        ("sequence_to_sequence", {"source": ["a"], "target": "b"}, "'source' must be text, but is list"),
        ("token_classification", {"tokens": ["a"], "tags": 3}, "'tags' must be a list of words, but is int"),
    ],
)
def test_a_value_of_another_type_is_told(
    objective: Any, row: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = written(tmp_path, "a.jsonl", json_lines(row))
    with pytest.raises(DataError, match=re.escape(f"{path}:1: column {told}")):
        File(test=path, objective=objective).split("test")


def test_several_files_are_one_split_and_each_row_knows_its_own(tmp_path: Path) -> None:
    one = written(tmp_path, "a.jsonl", json_lines({"text": "1"}, {"text": "2"}))
    other = written(tmp_path, "b.csv", "text\n3\n4\n")
    dataset = File(train=[one, other], test=written(tmp_path, "c.txt", "5\n"))
    rows = dataset.split("train")
    assert texts(rows) == ["1", "2", "3", "4"]
    assert isinstance(rows, Placed)
    assert [rows.place(index) for index in range(4)] == [f"{one}:1", f"{one}:2", f"{other}:2", f"{other}:3"]
    written(tmp_path, "d.jsonl", json_lines({"text": "6"}))
    assert texts(File(test=str(tmp_path / "*.jsonl")).split("test")) == ["1", "2", "6"]
    with pytest.raises(DataError, match=re.escape(f"test: in {tmp_path}: there is no file named 'e*.txt'")):
        File(test=str(tmp_path / "e*.txt"))
    with pytest.raises(ConfigurationError, match="train must name a file, but names none"):
        File(train=[])


def test_one_file_in_a_list_is_the_same_content(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "a\n")
    assert File(train=[path]).fingerprint() == File(train=path).fingerprint()


@pytest.mark.parametrize(
    ("name", "content", "parameters"),
    [
        ("a.txt", TEXT * 9, {"unit": "line"}),
        ("a.txt", TEXT * 9, {"unit": "paragraph"}),
        ("a.csv", 'text,label\n"a\nb",x\nc,y\n' * 1 + "d,x\n" * 30, {"objective": "classification"}),
        (
            "a.jsonl",
            json_lines(
                {"prompt": "a", "response": "b"},
                {"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "!"}]},
            ),
            {"objective": "instruction"},
        ),
        ("a.conll", "In\tO\nRome\tB-x\n\nRain\tO\n", {"objective": "token_classification"}),
    ],
)
def test_rows_on_disk_are_those_in_memory(
    name: str, content: str, parameters: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYOSOTIS_CACHE", str(tmp_path / "cache"))
    path = written(tmp_path, name, content)
    memory, disk = (File(train=path, streaming=each, **parameters) for each in (False, True))
    assert (memory.streams, disk.streams) == (False, True)
    assert memory.objective() == disk.objective()
    for split in ("train", "test"):
        one, other = memory.split(split), disk.split(split)  # type: ignore[arg-type]
        assert listed(one) == listed(other) != []
        assert isinstance(one, Placed)
        assert isinstance(other, Placed)
        assert [one.place(index) for index in range(len(one))] == [
            other.place(index) for index in range(len(other))
        ]
    assert len(list((tmp_path / "cache" / "rows").iterdir())) == 1


def test_large_files_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "a.txt", "a\n" * 10)
    assert not File(train=path).streams
    monkeypatch.setattr("myosotis_plugins.datasets.file.LARGE_BYTES", 19)
    assert File(train=path).streams
    assert not File(train=path, streaming=False).streams


@pytest.mark.parametrize("streaming", [False, True])
def test_labels_that_differ_between_splits_are_told_with_their_line(
    streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYOSOTIS_CACHE", str(tmp_path / "cache"))
    train = written(tmp_path, "a.csv", "text,label\na,yes\nb,no\n")
    test = written(tmp_path, "b.csv", "text,label\na,yes\nb,yess\n")
    message = (
        f"{test}:3: the test split must have the labels of the train split, but: there is no label named 'yess'. "
        "Did you mean yes? Known: no, yes; labels=[…] names those of both"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        File(train=train, test=test, objective="classification", streaming=streaming).split("test")
    known = File(train=train, test=test, objective="classification", labels=["yes", "no", "yess"])
    assert len(listed(known.split("test"))) == 2


def test_tags_that_do_not_match_their_words_are_told_with_their_line(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", json_lines({"tokens": ["a", "b"], "tags": ["O"]}))
    with pytest.raises(
        DataError, match=re.escape(f"{path}:1: every word must have a tag, but there are 2 words")
    ):
        File(test=path, objective="token_classification").split("test")


def test_a_response_that_does_not_fit_is_told_with_its_line(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": "b" * 99}]
    path = written(tmp_path, "a.jsonl", "\n" + json_lines(*rows))
    model = Model(torch.nn.Identity(), ByteTokenizer())
    split = File(test=path, objective="instruction").split("test")
    assert split is not None
    message = f"{path}:3: a response must leave room for its prompt in 64 tokens, but has "
    with pytest.raises(DataError, match=re.escape(message)):
        encoded(Instruction(length=64), split, model)
