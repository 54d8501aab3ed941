"""What is found in data, each made with exactly one thing wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from myosotis.data_check import findings
from myosotis.data_record import Finding
from myosotis.data_split import CheckedSplit, record
from myosotis.errors import DataError
from myosotis.report.data import balance
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
    assert found[1].startswith("plays (train) and stories (test): 1 row (1.6%) that is scored is trained on")


@pytest.mark.parametrize("within", [True, False])
def test_small_changes_do_not_hide_a_copy(within: bool) -> None:
    rows = sentences(100)
    changed = rows[4].replace(" ", " , ", 1)
    if within:
        found = told(split([*rows, changed]))
        assert len(found) == 1
        assert "1 of 101 rows is nearly the same as an earlier one" in found[0]
    else:
        found = told(split(rows), split([*sentences(60, seed=1), changed], "plays (test)", trains=False))
        assert len(found) == 1
        assert "1 row that is scored is nearly the same as one that is trained on" in found[0]


def test_all_rows_are_looked_at_for_near_copies() -> None:
    copy = f"{' '.join(WORDS)} and so on, and so on"
    short = [str(number) for number in range(6_000)]  # too short to be compared
    found = told(split([copy, *short, copy.replace("so", "no", 1)]))
    assert len(found) == 1
    assert "1 of 2 rows is nearly the same as an earlier one" in found[0]


def test_a_row_within_a_long_text_that_is_trained_on() -> None:
    """Lines of a book are a probe, the whole book a document."""
    lines = sentences(120)
    book = "\n".join(lines)
    train = split([book, *sentences(60, seed=1)])
    probe = split(
        [*sentences(60, seed=2), lines[5].upper() + "!", "the rose is red"], "lines (test)", trains=False
    )
    [found] = told(train, probe)
    assert found.startswith(
        "plays (train) and lines (test): 1 row (1.6%) that is scored stands within longer texts that are trained "
        f"on, such as '{lines[5].upper()[:40]}"
    )
    half = " ".join([*lines[5].split()[:7], *sentences(1, seed=3)[0].split()])
    assert told(train, split([*sentences(60, seed=2), half], "lines (test)", trains=False)) == []


def test_what_is_cut_off_is_counted_in_tokens() -> None:
    rows = sentences(100)
    found = told(split(rows, tokens=[10] * 98 + [30, 50], lost=[0] * 98 + [14, 34]))
    assert found == [
        "plays (train): 2 rows (2.0%) are longer than length and lose 48 tokens, 4.5% of all; the longest has 50"
    ]
    found = told(split(rows, tokens=[10] * 99 + [51], lost=[0] * 99 + [1]))
    assert found == [
        "plays (train): 1 row (1.0%) is longer than length and loses 1 token, 0.1% of all; the longest has 51"
    ]


@pytest.mark.parametrize(
    ("room", "advice"),
    [
        (None, "raise length, if the model and the memory allow it"),
        (100, "raise length, by 100 at most"),
        (0, "the model reads no longer ones: shorten the rows"),
    ],
)
def test_length_is_not_to_be_raised_beyond_what_the_model_reads(room: int | None, advice: str) -> None:
    rows = sentences(100)
    [found] = findings([split(rows, tokens=[10] * 99 + [50], lost=[0] * 99 + [34], room=room)])
    assert found.advice.startswith(advice)


def test_labels_that_are_rare_or_never_trained_on() -> None:
    train = split(sentences(100), labels=Counter(good=50, bad=49, odd=1))
    test = split(sentences(60, seed=1), "plays (test)", trains=False, labels=Counter(good=30, bad=28, god=2))
    found = told(train, test)
    assert found == [
        "plays (train) and plays (test): 1 label is scored and never trained on: god",
        "plays (train): 1 of 3 labels is less than 2% of all; 'odd' has 1 of 100",
    ]


def scored_of(whole: dict[str, int], scored: dict[str, int], **others: object) -> list[Finding]:
    """Tell what is found where some rows of a split are scored."""
    texts = sentences(sum(whole.values()))
    given = split(
        texts, "plays (test)", trains=False, labels=Counter(whole), scored=Counter(scored), **others
    )
    return list(findings([given]))


def test_rows_that_are_scored_must_have_the_labels_of_all() -> None:
    """Of a file that is sorted by its labels, the first 200 rows have one."""
    [found] = scored_of({"good": 500, "bad": 500}, {"good": 200})
    assert found.stops
    assert found.what == "the 200 rows that are scored have no 'bad', which is the label of 50% of all"
    assert "evaluation.rows=spread" in found.advice
    [found] = scored_of({"good": 500, "bad": 500}, {"good": 1})
    assert found.what == "the 1 row that is scored has no 'bad', which is the label of 50% of all"
    # One row in three of which a tenth is missing may be chance: 0.9 ** 20 is 0.12.
    [found] = scored_of({"good": 900, "bad": 100}, {"good": 20})
    assert not found.stops
    assert "have no 'bad'" in found.what
    assert not any("have no" in each.what for each in scored_of({"good": 91, "bad": 9}, {"good": 50}))
    assert scored_of({"good": 500, "bad": 500}, {"good": 100, "bad": 100}) == []


@pytest.mark.parametrize(("good", "told"), [(115, False), (130, False), (131, True), (150, True)])
def test_shares_of_labels_that_are_no_chance(good: int, told: bool) -> None:
    """By the chi-square test of scipy, p is 1.1e-4 with 130 rows of 200, and 6.1e-5 with 131."""
    whole, scored = {"good": 500, "bad": 500}, {"good": good, "bad": 200 - good}
    table = [list(whole.values()), list(scored.values())]
    assert (chi2_contingency(table, correction=False).pvalue < 1e-4) == told
    found = scored_of(whole, scored)
    assert [each.stops for each in found] == [False] * told
    for each in found:
        assert each.what == (
            "the 200 rows that are scored have other shares of labels than all, by more than chance: 'good' "
            f"{good / 200:.0%} against 50%"
        )


def test_what_is_held_out_must_have_the_labels_of_what_is_trained_on() -> None:
    """Of rows whose labels alternate, every tenth has the same."""
    train = split(sentences(540), labels=Counter(even=300, odd=240))
    test = split(sentences(60, seed=1), "plays (test)", trains=False, labels=Counter(odd=60))
    [found] = [each for each in findings([train, test]) if each.where == "plays (train) and plays (test)"]
    assert found.stops
    assert found.what == (
        "the 60 rows of plays (test) have no 'even', which is the label of 56% of those that are trained on"
    )
    few = split(sentences(6, seed=1), "plays (test)", trains=False, labels=Counter(odd=6))
    assert [each.stops for each in findings([train, few]) if "have no 'even'" in each.what] == [False]
    half = split(sentences(200, seed=2), "plays (test)", trains=False, labels=Counter(odd=100, new=100))
    assert [each.stops for each in findings([train, half]) if "never trained on: new" in each.what] == [True]


def test_a_label_that_prevails_is_told() -> None:
    [found] = findings([split(sentences(100), labels=Counter(good=95, bad=5))])
    assert found.what == ("'good' is the label of 95.0% of the rows: who always says it is right as often")
    assert "macro_f1" in found.advice
    assert told(split(sentences(100), labels=Counter(good=90, bad=10))) == []
    assert told(split(sentences(100), labels=Counter({"O": 950, "B-x": 50}), tagged=True)) == []


def test_labels_are_counted_up_to_twenty() -> None:
    few = record(split(sentences(3), labels=Counter(bad=1, good=2)))
    assert (few.labels, list(few.counts.items())) == (2, [("good", 2), ("bad", 1)])
    many = record(split(sentences(3), labels=Counter({f"label {n}": 30 - n for n in range(25)})))
    assert list(balance([few, many])) == [
        "plays (train): good 2, bad 1",
        f"plays (train): {', '.join(f'label {n} {30 - n}' for n in range(20))}, and 5 more",
    ]


def test_another_tasks_labels_are_its_own() -> None:
    train = split(sentences(100), labels=Counter(good=50, bad=50))
    probe = split(sentences(60, seed=1), "stories (test)", trains=False, labels=Counter(new=30, old=30))
    assert told(train, probe) == []


def test_empty_and_few_rows() -> None:
    found = told(split([*sentences(20), " \n"]))
    assert found == [
        "plays (train): 1 row is empty, such as row 21",
        "plays (train): it has only 21 rows",
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
    assert found[0] == (
        "plays (train): letters of 1 script are in few rows: Cyrillic in 1 (row 101); as in 'p\u0430ypal'"
    )


def test_a_phrase_of_another_script_in_few_rows_is_told_with_its_row() -> None:
    phrase = "\u043d\u0435\u0437\u0430\u0431\u0443\u0434\u043a\u0430 " * 3
    [found] = told(split([*sentences(30), phrase, *sentences(23, seed=1)], numbers=range(10, 550, 10)))
    assert found.startswith(
        "plays (train): letters of 1 script are in few rows: Cyrillic in 1 (row 310); as in"
    )
    often = [*sentences(50), *(f"{phrase} {number}" for number in range(6))]
    assert not any("scripts" in each for each in told(split(often)))
    assert told(split([*sentences(100), "5 \u00b5m at 20 \u00ba, the 1\u00aa time"])) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pay\u200bpal", "U+200B (zero width space)"),
        ("p\u200daypal", "U+200D (zero width joiner)"),
        ("invoice \u202efdp.exe", "U+202E (right-to-left override)"),
        ("\ufeffthe rose", "U+FEFF (zero width no-break space)"),
        ("a mark\u200f of direction", "U+200F (right-to-left mark)"),
    ],
)
def test_characters_that_are_not_seen(text: str, name: str) -> None:
    [found] = told(split([*sentences(60), text]))
    assert found.startswith(
        f"plays (train): 1 row (1.6%) holds characters that are not seen, such as {name} in row 61: "
    )


def test_characters_that_are_not_seen_and_belong_there() -> None:
    rows = [
        "soft\u00adhyphen",
        "\U0001f469\u200d\U0001f467 and \U0001f3f3\ufe0f\u200d\U0001f308",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian
        "\u0915\u094d\u200d\u0937",  # Devanagari
        "(\u05e9\u05dc\u05d5\u05dd)\u200f",  # Hebrew
    ]
    assert not any("not seen" in each for each in told(split([*sentences(60), *rows])))


def test_utf8_that_was_read_as_another_encoding() -> None:
    wrong = "caf\u00e9 \u2019".encode().decode("cp1252")
    found = told(split([*sentences(99), wrong]))
    assert len(found) == 1
    assert found[0].startswith("plays (train): 1 row (1.0%) holds UTF-8 that was read as another encoding, ")
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
    assert told(split([], rows=7)) == ["plays (train): it has only 7 rows"]
