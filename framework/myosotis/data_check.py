"""What is wrong with a study's data, found before anything trains."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from zlib import crc32

import numpy as np

from myosotis.data_record import Bar, Finding, SplitRecord
from myosotis.interfaces import Model, Rows, Task
from myosotis.ledger import content_hash
from myosotis.rows import encoded, spread

COMPARED = 5_000
"""Rows of a split that are looked at for near duplicates; all are looked at for exact ones."""
SHINGLE = 5
"""Letters in the pieces of text whose share two near duplicates have in common."""
NEAR = 0.7
"""The least such share, estimated."""
PERMUTATIONS = 128
SCARCE = 0.001
"""A script with a smaller share of all letters is named."""
RARE_LABEL = 0.02
FEW_ROWS = 50
BARS = 40
"""In the picture of a split's lengths."""
MISREAD = re.compile(r"[ÂÃ][^\x00-\x7f]|â[€\x80][^\x00-\x7f]")
"""Bytes of UTF-8, each read as a letter: of accented letters, and of quotation marks and dashes."""


@dataclass(frozen=True)
class CheckedSplit:
    """A split of a task with what is compared.

    Attributes:
        name: the task's and the split's.
        trains: whether it is trained on.
        texts: each row that is looked at as one text; empty where rows are no text.
        tokens: how long each row is before it is cut; empty where rows are not cut one by one.
        lost: how many tokens of each are cut off.
        labels: those of the rows, where they have some.
        rows: how many the split has; None where all are looked at.
    """

    name: str
    trains: bool
    texts: Sequence[str]
    tokens: Sequence[int] = ()
    lost: Sequence[int] = ()
    labels: Counter[str] = field(default_factory=Counter)
    rows: int | None = None

    @cached_property
    def digests(self) -> Sequence[str]:
        """A hash of each text, whatever the case of its letters and its spaces."""
        return [content_hash(" ".join(text.lower().split())) for text in self.texts]

    @cached_property
    def signatures(self) -> Mapping[int, Any]:
        """By which near duplicates are found, of the first texts; without short ones, which are alike by chance."""
        return _signatures(self.texts[:COMPARED])

    @cached_property
    def index(self) -> Any:
        """The signatures, to be asked for those that are like another."""
        from datasketch import MinHashLSH

        index = MinHashLSH(NEAR, PERMUTATIONS)
        for number, signature in self.signatures.items():
            index.insert(number, signature)
        return index


def checked_split(
    task: Task, name: str, rows: Rows, trains: bool, model: Model, most: int | None = None
) -> CheckedSplit:
    """Read and encode a split.

    Args:
        task: the task.
        name: the split's.
        rows: all its rows.
        trains: whether it is trained on.
        model: what rows are encoded for; its outline is enough.
        most: rows that are looked at, evenly spread; all where not given.

    Raises:
        DataError: a row is not what its objective reads.
    """
    chosen = spread(rows, len(rows) if most is None else most)
    read = [chosen[index] for index in range(len(chosen))]
    texts = [list(_texts(row)) for row in read]
    tokens, lost = _lengths(task, chosen, model)
    return CheckedSplit(
        f"{task.name} ({name})",
        trains,
        ["\n".join(each) for each in texts] if any(texts) else [],
        tokens,
        lost,
        Counter(label for row in read for label in _labels(row)),
        len(rows),
    )


def record(split: CheckedSplit) -> SplitRecord:
    """Give a split in numbers."""
    rows = len(split.texts) if split.rows is None else split.rows
    looked_at = max(len(split.texts), len(split.tokens)) or rows
    labels = len(split.labels)
    if not split.tokens:
        bars = _bars([len(text) for text in split.texts])
        return SplitRecord(split.name, rows, looked_at, labels=labels, lengths=bars, unit="characters")
    return SplitRecord(
        split.name,
        rows,
        looked_at,
        tokens=sum(split.tokens),
        median=sorted(split.tokens)[len(split.tokens) // 2],
        longest=max(split.tokens),
        lost=sum(split.lost),
        labels=labels,
        lengths=_bars(split.tokens),
    )


def _bars(lengths: Sequence[int]) -> list[Bar]:
    if not lengths:
        return []
    most = max(1, *lengths)
    counts, edges = np.histogram(lengths, bins=min(BARS, most), range=(0, most))
    bars = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    return [Bar(*each) for each in bars if each[2]]


def _texts(value: Any) -> Iterator[str]:
    """Give all texts of a row but its label."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key not in ("label", "tags", "role"):
                yield from _texts(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _texts(each)


def _labels(row: Mapping[str, Any]) -> Sequence[str]:
    label = row.get("label")
    return [str(label)] if label is not None else [str(tag) for tag in row.get("tags", ())]


def _lengths(task: Task, rows: Rows, model: Model) -> tuple[list[int], list[int]]:
    free = task.objective.unlimited()
    if free is task.objective:
        return [], []
    whole = [free.tokens(each) for each in encoded(free, rows, model)]
    cut = [task.objective.tokens(each) for each in encoded(task.objective, rows, model)]
    return whole, [before - after for before, after in zip(whole, cut, strict=True)]


def findings(splits: Sequence[CheckedSplit]) -> Iterator[Finding]:
    """Look at every two splits of which one is trained on, and at every split; near copies within one come last."""
    for train in (each for each in splits if each.trains):
        for other in (each for each in splits if not each.trains):
            yield from _overlap(train, other)
            if train.name.split(" ")[0] == other.name.split(" ")[0]:
                yield from _labels_apart(train, other)
    for split in splits:
        yield from _empty(split)
        yield from _duplicates(split)
        yield from _cut(split)
        yield from _unbalanced(split)
        yield from _characters(split)
    for split in splits:
        yield from _near_duplicates(split)


def _empty(split: CheckedSplit) -> Iterator[Finding]:
    empty = [number for number, text in enumerate(split.texts, 1) if not text.strip()]
    if empty and len(empty) == len(split.texts):
        yield Finding(
            split.name, "every row is empty", "look whether columns names the right one", stops=True
        )
    elif empty:
        yield Finding(
            split.name, f"{len(empty)} rows are empty, such as row {empty[0]}", "take them out of the file"
        )
    rows = len(split.texts) if split.rows is None else split.rows
    if rows < FEW_ROWS:
        yield Finding(
            split.name,
            f"there are only {rows} rows",
            "scores of so few have wide intervals, and a model learns them by heart; look at the intervals",
        )


def _duplicates(split: CheckedSplit) -> Iterator[Finding]:
    counts = Counter(split.digests)
    again = len(split.texts) - len(counts)
    if again:
        digest, times = counts.most_common(1)[0]
        text = split.texts[split.digests.index(digest)]
        yield Finding(
            split.name,
            f"{again} rows ({_percent(again, split)}) are there before; {_quoted(text)} {times} times",
            "they weigh more than others, and are learned by heart; take them out unless that is meant",
        )


def _near_duplicates(split: CheckedSplit) -> Iterator[Finding]:
    pairs = list(_alike(split, split))
    if pairs:
        one, other = pairs[0]
        yield Finding(
            split.name,
            f"{len({first for first, _ in pairs})} of {len(split.signatures)} rows are nearly the same as an "
            f"earlier one, such as {_quoted(split.texts[one])} and {_quoted(split.texts[other])}",
            "look whether they are templates or copies with small changes, and keep one of each",
        )


def _overlap(train: CheckedSplit, other: CheckedSplit) -> Iterator[Finding]:
    trained = set(train.digests)
    same = [number for number, digest in enumerate(other.digests) if digest in trained]
    if same:
        yield Finding(
            f"{train.name} and {other.name}",
            f"{len(same)} rows ({_percent(len(same), other)}) that are scored are trained on, such as "
            f"{_quoted(other.texts[same[0]])}",
            "the scores would be too good; take them out of the training rows",
        )
    exact = set(same)
    near = [pair for pair in _alike(other, train) if pair[0] not in exact]
    if near:
        scored, known = near[0]
        yield Finding(
            f"{train.name} and {other.name}",
            f"{len({pair[0] for pair in near})} rows that are scored are nearly the same as one that is trained "
            f"on, such as {_quoted(other.texts[scored])} and {_quoted(train.texts[known])}",
            "the scores may be too good; take them out of the training rows if they are copies",
        )


def _cut(split: CheckedSplit) -> Iterator[Finding]:
    cut = [number for number, lost in enumerate(split.lost) if lost]
    if cut:
        lost, all_tokens = sum(split.lost), sum(split.tokens)
        yield Finding(
            split.name,
            f"{len(cut)} rows ({_percent(len(cut), split)}) are longer than length and lose {lost:,} tokens, "
            f"{lost / all_tokens:.1%} of all; the longest has {max(split.tokens):,}",
            "raise length, if the model and the memory allow it, or shorten the rows",
        )


def _unbalanced(split: CheckedSplit) -> Iterator[Finding]:
    total = sum(split.labels.values())
    rare = {label: count for label, count in split.labels.items() if count / total < RARE_LABEL}
    if rare:
        label = min(rare, key=lambda each: (rare[each], each))
        yield Finding(
            split.name,
            f"{len(rare)} of {len(split.labels)} labels are less than {RARE_LABEL:.0%} of all each; "
            f"{label!r} has {rare[label]} of {total:,}",
            "accuracy hardly sees them: look at macro_f1 or entity_f1 too",
        )


def _labels_apart(train: CheckedSplit, other: CheckedSplit) -> Iterator[Finding]:
    unseen = sorted(set(other.labels) - set(train.labels))
    if unseen and train.labels and len(unseen) == len(other.labels):
        yield Finding(
            f"{train.name} and {other.name}",
            f"no label that is scored is trained on: {', '.join(unseen[:5])} against "
            f"{', '.join(sorted(train.labels)[:5])}",
            "give both splits the same labels, or take the one as a probe of its own",
            stops=True,
        )
    elif unseen:
        yield Finding(
            f"{train.name} and {other.name}",
            f"{len(unseen)} labels are scored and never trained on: {', '.join(unseen[:5])}",
            "look whether they are spelled alike, or split the rows anew",
        )


def _characters(split: CheckedSplit) -> Iterator[Finding]:
    letters: Counter[str] = Counter()
    for text in split.texts:
        letters.update(text)
    yield from _odd(split, [letter for letter in letters if _is_odd(letter)])
    yield from _misread(split)
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        if letter.isalpha():
            scripts[_script(letter)] += count
    total = sum(scripts.values())
    scarce = {name: count for name, count in scripts.items() if count / total < SCARCE}
    if scarce:
        name = max(scarce, key=lambda each: scarce[each])
        own = {each for each in letters if each.isalpha() and _script(each) == name}
        example = next(text for text in split.texts if not own.isdisjoint(text))
        letter = next(each for each in example if each in own)
        yield Finding(
            split.name,
            f"letters of {len(scarce)} scripts are scarce: {scarce[name]} of {total:,} are {name.title()}, as in "
            f"{_quoted(example, around=letter)}",
            "look whether they belong there, or stand for letters that look alike",
        )


def _odd(split: CheckedSplit, odd: Sequence[str]) -> Iterator[Finding]:
    if odd:
        rows = Counter(letter for text in split.texts for letter in odd if letter in text)
        letter, count = rows.most_common(1)[0]
        example = next(text for text in split.texts if letter in text)
        yield Finding(
            split.name,
            f"{len(odd)} characters stand for none, such as U+{ord(letter):04X} in {count} rows: "
            f"{_quoted(example, around=letter)}",
            "the file was probably read in the wrong encoding, or holds control characters; make it anew",
        )


def _misread(split: CheckedSplit) -> Iterator[Finding]:
    found = [(text, meant) for text in split.texts if (meant := _meant(text))]
    if found:
        text, (letters, right) = found[0]
        yield Finding(
            split.name,
            f"{len(found)} rows ({_percent(len(found), split)}) hold UTF-8 that was read as another encoding, such "
            f"as {letters!r} for {right!r}: {_quoted(text, around=letters)}",
            "read what the file was made of as UTF-8, and make it anew",
        )


def _meant(text: str) -> tuple[str, str] | None:
    """Find letters that were read one byte at a time, and what they were."""
    for found in MISREAD.finditer(text):
        for encoding in ("cp1252", "latin-1"):
            with suppress(UnicodeError):
                return found[0], found[0].encode(encoding).decode("utf-8")
    return None


def _is_odd(letter: str) -> bool:
    """Tell the replacement character, controls but for spaces, private and unassigned characters."""
    return letter == "\ufffd" or (
        unicodedata.category(letter) in ("Cc", "Co", "Cn") and letter not in "\n\t\r"
    )


def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split(" ")[0].split("-")[0]


def _signatures(texts: Sequence[str]) -> dict[int, Any]:
    from datasketch import MinHash

    letters = {number: " ".join(text.lower().split()) for number, text in enumerate(texts)}
    long = {number: text for number, text in letters.items() if len(text) >= 4 * SHINGLE}
    made = MinHash.generator(map(_shingles, long.values()), num_perm=PERMUTATIONS, seed=1, hashfunc=crc32)
    return dict(zip(long, made, strict=True))


def _shingles(text: str) -> list[bytes]:
    return [
        each.encode() for each in {text[start : start + SHINGLE] for start in range(len(text) - SHINGLE + 1)}
    ]


def _alike(split: CheckedSplit, other: CheckedSplit) -> Iterator[tuple[int, int]]:
    """Give pairs of rows that are nearly and not quite the same; within one split, each with an earlier one."""
    for number, signature in split.signatures.items():
        found = [
            each
            for each in other.index.query(signature)
            if (split is not other or each < number)
            and other.digests[each] != split.digests[number]
            and signature.jaccard(other.signatures[each]) >= NEAR
        ]
        if found:
            yield number, min(found)


def _percent(count: int, split: CheckedSplit) -> str:
    return f"{count / len(split.texts):.1%}"


def _quoted(text: str, around: str | None = None) -> str:
    start = max(0, text.find(around) - 20) if around else 0
    short = " ".join(text[start : start + 60].split())
    return repr(short + ("…" if len(text) > start + 60 else ""))
