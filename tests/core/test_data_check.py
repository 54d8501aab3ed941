"""What is found in data, each made with exactly one thing wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from myosotis.data_check import findings
from myosotis.data_split import CheckedSplit, record
from myosotis.errors import DataError
from myosotis.study_data import refuse

WORDS = [
    "the",
    "rose",
    "is",
    "red",
    "and",
    "blue",
    "violet",
    "sugar",
    "brook",
    "thorn",
    "gold",
    "forget",
    "me",
]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Make texts that are not alike."""
    generator = np.random.default_rng(seed)
    return [f"{' '.join(generator.choice(WORDS, 12))} {seed} {number}" for number in range(count)]


def split(
    texts: Sequence[str], name: str = "plays (train)", trains: bool = True, **others: object
) -> CheckedSplit:
    return CheckedSplit(name, trains, texts, **others)  # type: ignore[arg-type]


def told(*splits: CheckedSplit) -> list[str]:
    return [f"{each.where}: {each.what}" for each in findings(splits)]


def test_nothing_is_told_of_good_data() -> None:
    train, test = split(sentences(200)), split(sentences(100, seed=1), "plays (test)", trains=False)
    assert told(train, test) == []


def test_copies_within_a_split_whatever_their_letters_and_spaces() -> None:
    rows = sentences(100)
    found = told(split([*rows, rows[3].upper(), f"  {rows[3]}\n", rows[5]]))
    assert found == [
        f"plays (train): 3 rows (2.9%) are there before; '{rows[3][:60].strip()}…' 3 times"
        if len(rows[3]) > 60
        else f"plays (train): 3 rows (2.9%) are there before; {rows[3]!r} 3 times"
    ]


def test_rows_that_are_scored_and_trained_on() -> None:
    rows, probes = sentences(100), sentences(60, seed=2)
    train = split(rows)
    test = split([*sentences(60, seed=1), rows[7], rows[8]], "plays (test)", trains=False)
    probe = split([*probes, rows[9]], "stories (test)", trains=False)
    found = told(train, test, probe)
    assert len(found) == 2
    assert found[0].startswith("plays (train) and plays (test): 2 rows (3.2%) that are scored are trained on")
    assert found[1].startswith(
        "plays (train) and stories (test): 1 rows (1.6%) that are scored are trained on"
    )


@pytest.mark.parametrize("within", [True, False])
def test_small_changes_do_not_hide_a_copy(within: bool) -> None:
    rows = sentences(100)
    changed = rows[4].replace(" ", " , ", 1)
    if within:
        found = told(split([*rows, changed]))
        assert len(found) == 1
        assert "1 of 101 rows are nearly the same as an earlier one" in found[0]
    else:
        found = told(split(rows), split([*sentences(60, seed=1), changed], "plays (test)", trains=False))
        assert len(found) == 1
        assert "1 rows that are scored are nearly the same as one that is trained on" in found[0]


def test_what_is_cut_off_is_counted_in_tokens() -> None:
    rows = sentences(100)
    found = told(split(rows, tokens=[10] * 98 + [30, 50], lost=[0] * 98 + [14, 34]))
    assert found == [
        "plays (train): 2 rows (2.0%) are longer than length and lose 48 tokens, 4.5% of all; the longest has 50"
    ]


def test_labels_that_are_rare_or_never_trained_on() -> None:
    train = split(sentences(100), labels=Counter(good=50, bad=49, odd=1))
    test = split(sentences(60, seed=1), "plays (test)", trains=False, labels=Counter(good=30, bad=28, god=2))
    found = told(train, test)
    assert found == [
        "plays (train) and plays (test): 1 labels are scored and never trained on: god",
        "plays (train): 1 of 3 labels are less than 2% of all each; 'odd' has 1 of 100",
    ]


def test_another_tasks_labels_are_its_own() -> None:
    train = split(sentences(100), labels=Counter(good=50, bad=50))
    probe = split(sentences(60, seed=1), "stories (test)", trains=False, labels=Counter(new=30, old=30))
    assert told(train, probe) == []


def test_empty_and_few_rows() -> None:
    found = told(split([*sentences(20), " \n"]))
    assert found == [
        "plays (train): 1 rows are empty, such as row 21",
        "plays (train): there are only 21 rows",
    ]


def test_characters_that_stand_for_none() -> None:
    rows = [*sentences(100), "caf\ufffd", "a\x00b", "c\x00d"]
    found = told(split(rows))
    assert len(found) == 1
    assert found[0].startswith("plays (train): 2 characters stand for none, such as U+0000 in 2 rows")
    assert told(split([*sentences(100), "tabs\tand\nlines"])) == []


def test_letters_that_only_look_alike() -> None:
    rows = [*sentences(100), "p\u0430ypal"]  # a Cyrillic а
    found = told(split(rows))
    assert len(found) == 1
    assert "letters of 1 scripts are scarce: 1 of " in found[0]
    assert "are Cyrillic, as in 'p\u0430ypal'" in found[0]
    half = [*sentences(50), *(["\u043d\u0435\u0437\u0430\u0431\u0443\u0434\u043a\u0430 " * 5] * 1)]
    assert not any("scripts" in each for each in told(split(half * 2)))


def test_utf8_that_was_read_as_another_encoding() -> None:
    wrong = "caf\u00e9 \u2019".encode().decode("cp1252")
    found = told(split([*sentences(99), wrong]))
    assert len(found) == 1
    assert found[0].startswith("plays (train): 1 rows (1.0%) hold UTF-8 that was read as another encoding, ")
    assert "such as '\u00c3\u00a9' for '\u00e9': " in found[0]
    assert (
        told(split([*sentences(100), "\u00c4hnlich, \u00c9t\u00e9\u00a0\u00bb, \u00c3o, AMANH\u00c3"])) == []
    )


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (split([" "] * 60), split(sentences(60)), "plays (train): every row is empty"),
        (
            split(sentences(60), labels=Counter(good=30, bad=30)),
            split(sentences(60, seed=1), "plays (test)", trains=False, labels=Counter(pos=30, neg=30)),
            "plays (train) and plays (test): no label that is scored is trained on: neg, pos against bad, good",
        ),
    ],
)
def test_what_nothing_should_be_trained_on_stops(
    train: CheckedSplit, test: CheckedSplit, message: str
) -> None:
    stopping = [each for each in findings([train, test]) if each.stops]
    assert [f"{each.where}: {each.what}" for each in stopping] == [message]
    with pytest.raises(DataError, match=re.escape(message)):
        refuse(stopping)


def test_a_split_in_numbers() -> None:
    rows = sentences(100)
    found = record(split(rows, tokens=[10] * 98 + [30, 50], lost=[0] * 98 + [14, 34], rows=2000))
    assert (found.rows, found.looked_at) == (2000, 100)
    assert (found.tokens, found.median, found.longest, found.lost) == (1060, 10, 50, 48)
    assert [(bar.start, bar.end, bar.rows) for bar in found.lengths] == [
        (10, 11.25, 98),
        (30, 31.25, 1),
        (48.75, 50, 1),
    ]
    running = record(split(["abcd", "ab"]))
    assert (running.unit, running.tokens, running.longest) == ("characters", None, None)
    assert [(bar.start, bar.rows) for bar in running.lengths] == [(2, 1), (3, 1)]


def test_rows_without_texts_are_not_compared() -> None:
    assert told(split([], rows=100)) == []
    assert told(split([], rows=7)) == ["plays (train): there are only 7 rows"]
