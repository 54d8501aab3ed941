"""The prose and the code of the standard library: held apart, clean and the same everywhere."""

import ast
import io
import subprocess
import sys
import tokenize
from collections import Counter
from itertools import combinations
from typing import get_args

import pytest

from myosotis_plugins.datasets import standard_library
from myosotis_plugins.datasets.standard_library import Part

DOCUMENTED = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
PARTS: tuple[Part, ...] = get_args(Part)
TASK_PARTS: tuple[Part, ...] = ("train", "validation", "test")


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("argparse", "pretraining"),
        ("asyncio.events", "pretraining"),
        ("pathlib", "train"),
        ("statistics", "train"),
        ("email", "test"),
        ("subprocess", "test"),
    ],
)
def test_the_split_never_moves(module: str, part: Part) -> None:
    assert standard_library.part_of(module) == part


def test_reads_the_standard_library_and_nothing_else() -> None:
    read = {row["module"] for part in PARTS for row in standard_library.code(part)}
    assert {module.partition(".")[0] for module in read} <= sys.stdlib_module_names
    assert not any({"test", "tests", "idle_test"} & set(module.split(".")) for module in read)


def test_parts_have_about_the_stated_shares() -> None:
    counts = Counter(standard_library.part_of(f"package.module{number}") for number in range(10_000))
    shares = {part: round(counts[part] / 10_000, 2) for part in PARTS}
    assert shares == pytest.approx(
        {"pretraining": 0.55, "train": 0.23, "validation": 0.05, "test": 0.17}, abs=0.015
    )


@pytest.mark.parametrize(("one", "other"), list(combinations(PARTS, 2)))
def test_no_module_is_in_two_parts(one: Part, other: Part) -> None:
    for rows in (standard_library.docs, standard_library.code):
        assert {row["module"] for row in rows(one)}.isdisjoint(row["module"] for row in rows(other))


@pytest.mark.parametrize(("one", "other"), list(combinations(PARTS, 2)))
def test_no_text_is_in_two_parts(one: Part, other: Part) -> None:
    assert _sentences(one).isdisjoint(_sentences(other))
    assert _texts(one).isdisjoint(_texts(other))


@pytest.mark.parametrize("part", TASK_PARTS)
def test_pretraining_holds_no_sentence_of_a_task(part: Part) -> None:
    read = {
        sentence
        for text in standard_library.pretraining_texts()
        for sentence in standard_library.sentences(text)
    }
    assert read.isdisjoint(_sentences(part))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_code_holds_neither_docstrings_nor_comments(part: Part) -> None:
    for row in standard_library.code(part):
        tree = ast.parse(row["text"])
        assert not any(ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, DOCUMENTED))
        tokens = tokenize.generate_tokens(io.StringIO(row["text"]).readline)
        assert not any(token.type == tokenize.COMMENT for token in tokens)


def test_code_is_stripped_and_nothing_else() -> None:
    source = '''"""Doc."""
import os  # why
@wrapped
def path(name):  # what
    """Doc."""
    return "#" + name

class Empty:
    """Doc."""
'''
    assert standard_library.parse("module", source).code == (
        "import os",
        '@wrapped\ndef path(name):\n    return "#" + name',
        "class Empty:\n    pass",
    )


def test_labels_are_balanced_in_train_and_test() -> None:
    train, test = (
        Counter(row["label"] for row in standard_library.modules(part)) for part in ("train", "test")
    )
    assert train.keys() == test.keys() == set(standard_library.PACKAGES)
    assert all(10 <= count <= 80 for count in train.values())
    assert all(15 <= count <= 40 for count in test.values())


def test_there_is_enough_of_everything() -> None:
    for rows in (standard_library.docs, standard_library.code, standard_library.modules):
        assert len(rows("test")) >= 200
        assert len(rows("train")) >= 300
    for rows in (standard_library.docs, standard_library.code):
        assert sum(len(row["text"]) for row in rows("test")) > 60_000
        assert sum(len(row["text"]) for row in rows("train")) > 200_000


def _sentences(part: Part) -> set[str]:
    return {
        sentence
        for row in standard_library.docs(part)
        for sentence in standard_library.sentences(row["text"])
    }


def _texts(part: Part) -> set[str]:
    return {row["text"] for row in standard_library.code(part)}


def test_comments_are_those_of_the_parts_modules() -> None:
    rows = standard_library.comments("test")
    assert len(rows) > 500
    assert len({row["text"] for row in rows}) == len(rows)
    assert {standard_library.part_of(row["module"]) for row in rows} == {"test"}


def test_comments_are_what_the_tokenizer_calls_so() -> None:
    rows = [row["text"] for row in standard_library.comments("test") if row["module"] == "subprocess"]
    with tokenize.open(subprocess.__file__) as file:
        tokens = tokenize.generate_tokens(file.readline)
        comments = " ".join(token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT)
    words = " ".join(comments.split())
    assert rows
    for row in rows:
        assert all(paragraph in words for paragraph in row.split("\n\n")), row


def test_shuffling_keeps_the_rows_and_mixes_the_modules() -> None:
    rows = standard_library.docs("test")
    shuffled = standard_library.shuffled(rows)
    assert sorted(row["text"] for row in shuffled) == sorted(row["text"] for row in rows)
    first = Counter(row["module"] for row in shuffled[:100])
    # In the modules' order the first hundred rows come from a few; here no module has a quarter of them.
    assert max(first.values()) < 25 < len(first)


# Functions and their summaries


@pytest.mark.parametrize(("one", "other"), list(combinations(PARTS, 2)))
def test_no_function_and_no_summary_is_in_two_parts(one: Part, other: Part) -> None:
    rows = {part: standard_library.summaries(part) for part in (one, other)}
    for column in ("source", "target"):
        texts = [{row[column] for row in rows[part]} for part in (one, other)]  # type: ignore[literal-required]
        assert texts[0].isdisjoint(texts[1])


@pytest.mark.parametrize("part", TASK_PARTS)
def test_a_summary_is_its_functions_and_the_code_does_not_tell_it(part: Part) -> None:
    rows = standard_library.summaries(part)
    assert len(rows) > 200
    for row in rows:
        [function] = ast.parse(row["source"]).body
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        assert ast.get_docstring(function) is None
        assert 20 <= len(row["target"]) <= 80
        assert row["target"] not in row["source"]


def test_the_summary_of_a_known_function() -> None:
    import statistics

    [row] = [each for each in standard_library.summaries("train") if each["source"].startswith("def fmean(")]
    assert row["target"] == (statistics.fmean.__doc__ or "").strip().split("\n")[0]
