"""Characters in a study's data that look wrong: of other scripts, of no script, misread, or not to be seen."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from myosotis.data_record import Finding
from myosotis.data_split import CheckedSplit, counted, listed, quoted, rows_of

FEW = 0.05
"""A script of letters in a smaller share of the rows is named."""
NAMED = 4
"""Scripts that are named, those in the most rows."""
MISREAD = re.compile(r"[ÂÃ][^\x00-\x7f]|â[€\x80][^\x00-\x7f]")
"""Bytes of UTF-8, each read as a letter: of accented letters, and of quotation marks and dashes."""
SIGNS = frozenset("ªºµ")
"""Letters that stand as signs in texts of any script."""
SOFT_HYPHEN = "\u00ad"
JOINERS = frozenset("\u200b\u200c\u200d\u2060")
"""Spaces of no width and joiners, which some scripts and emoji are written with."""
MARKS = frozenset("\u200e\u200f\u061c")
"""Marks of direction, which belong to texts that run from right to left."""
UNJOINED = frozenset({"LATIN", "GREEK", "CYRILLIC", "COMBINING"})


def characters(split: CheckedSplit) -> Iterator[Finding]:
    """Look at all characters of a split."""
    letters: Counter[str] = Counter()
    for text in split.texts:
        letters.update(text)
    yield from _odd(split, [letter for letter in letters if _is_odd(letter)])
    yield from _misread(split)
    yield from _unseen(split, {each for each in letters if unicodedata.category(each) == "Cf"})
    yield from _scripts(split, letters)


def _odd(split: CheckedSplit, odd: Sequence[str]) -> Iterator[Finding]:
    if odd:
        rows = Counter(letter for text in split.texts for letter in odd if letter in text)
        letter, count = rows.most_common(1)[0]
        example = next(text for text in split.texts if letter in text)
        yield Finding(
            split.name,
            f"{counted(len(odd), 'character stands', 'characters stand')} for none, such as U+{ord(letter):04X} "
            f"in {counted(count, 'row', 'rows')}: {quoted(example, around=letter)}",
            "the file was probably read in the wrong encoding, or holds control characters; make it anew",
        )


def _is_odd(letter: str) -> bool:
    """Tell the replacement character, controls but for spaces, private and unassigned characters."""
    return letter == "\ufffd" or (
        unicodedata.category(letter) in ("Cc", "Co", "Cn") and letter not in "\n\t\r"
    )


def _misread(split: CheckedSplit) -> Iterator[Finding]:
    found = [(text, meant) for text in split.texts if (meant := _meant(text))]
    if found:
        text, (letters, right) = found[0]
        yield Finding(
            split.name,
            f"{rows_of(split, len(found), 'holds', 'hold')} UTF-8 that was read as another encoding, such as "
            f"{letters!r} for {right!r}: {quoted(text, around=letters)}",
            "read what the file was made of as UTF-8, and make it anew",
        )


def _meant(text: str) -> tuple[str, str] | None:
    """Find letters that were read one byte at a time, and what they were."""
    for found in MISREAD.finditer(text):
        for encoding in ("cp1252", "latin-1"):
            with suppress(UnicodeError):
                return found[0], found[0].encode(encoding).decode("utf-8")
    return None


def _unseen(split: CheckedSplit, formats: set[str]) -> Iterator[Finding]:
    """Look for characters that are not seen: of no width, or that turn the direction of reading."""
    suspects = formats - {SOFT_HYPHEN}
    found = {
        index: letter
        for index, text in enumerate(split.texts)
        if not suspects.isdisjoint(text) and (letter := _out_of_place(text, suspects))
    }
    if found:
        index, letter = next(iter(found.items()))
        yield Finding(
            split.name,
            f"{rows_of(split, len(found), 'holds', 'hold')} characters that are not seen, such as "
            f"U+{ord(letter):04X} ({unicodedata.name(letter, 'unnamed').lower()}) in row {split.number(index)}: "
            f"{quoted(split.texts[index], around=letter)}",
            "take them out: a model reads other tokens where people read the same text",
        )


def _out_of_place(text: str, suspects: set[str]) -> str | None:
    runs_left = any(each.isalpha() and unicodedata.bidirectional(each) in ("R", "AL") for each in text)
    for before, letter in zip(" " + text, text, strict=False):
        at_home = (letter in MARKS and runs_left) or (letter in JOINERS and _joins(before))
        if letter in suspects and not at_home and _script(letter) != "ARABIC":
            return letter
    return None


def _joins(before: str) -> bool:
    """Tell whether a joiner may follow: a letter of a script that has them, or an emoji."""
    return before > "\x7f" and unicodedata.category(before)[0] in "LMS" and _script(before) not in UNJOINED


def _scripts(split: CheckedSplit, letters: Mapping[str, int]) -> Iterator[Finding]:
    """Look for scripts beside the main one whose letters are in few rows."""
    of = {each: _script(each) for each in letters if _is_letter(each)}
    counts: Counter[str] = Counter()
    for letter, script in of.items():
        counts[script] += letters[letter]
    main = max(counts, key=lambda script: counts[script], default="")
    foreign = {letter for letter, script in of.items() if script != main}
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(split.texts):
        for script in {of[letter] for letter in foreign.intersection(text)}:
            rows[script].append(index)
    few = sorted(
        (script for script, found in rows.items() if len(found) < FEW * len(split.texts)),
        key=lambda script: (-len(rows[script]), script),
    )
    if few:
        named = [f"{name.title()} in {len(rows[name])} ({listed(split, rows[name])})" for name in few[:NAMED]]
        example = split.texts[rows[few[0]][0]]
        letter = next(each for each in example if of.get(each) == few[0])
        more = ", …" if len(few) > NAMED else ""
        yield Finding(
            split.name,
            f"letters of {counted(len(few), 'script', 'scripts')} are in few rows: {', '.join(named)}{more}; as in "
            f"{quoted(example, around=letter)}",
            "look whether they belong there, or stand for letters that look alike",
        )


def _is_letter(character: str) -> bool:
    """Tell letters of a script, without those that only modify others."""
    return character.isalpha() and character not in SIGNS and unicodedata.category(character) != "Lm"


def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split(" ")[0].split("-")[0]
