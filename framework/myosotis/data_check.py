"""What is wrong with a study's data, found before anything trains."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from myosotis.interfaces import Model, Rows, Task
from myosotis.ledger import content_hash

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


@dataclass(frozen=True)
class Finding:
    """Something about the data that the user should know.

    Attributes:
        where: the tasks and splits.
        what: what was found, with numbers and an example.
        advice: what to do about it.
    """

    where: str
    what: str
    advice: str


@dataclass(frozen=True)
class CheckedSplit:
    """A split of a task with what is compared.

    Attributes:
        name: the task's and the split's.
        trains: whether it is trained on.
        texts: each row as one text.
        tokens: how long each row is before it is cut; empty where rows are not cut one by one.
        lost: how many tokens of each are cut off.
        labels: those of the rows, where they have some.
    """

    name: str
    trains: bool
    texts: Sequence[str]
    tokens: Sequence[int] = ()
    lost: Sequence[int] = ()
    labels: Counter[str] = field(default_factory=Counter)

    def digests(self) -> list[str]:
        """Hash each text, whatever the case of its letters and its spaces."""
        return [content_hash(" ".join(text.lower().split())) for text in self.texts]


def checked_split(task: Task, name: str, rows: Rows, trains: bool, model: Model) -> CheckedSplit:
    """Read and encode a split."""
    read = [rows[index] for index in range(len(rows))]
    labels = Counter(label for row in read for label in _labels(row))
    tokens, lost = _lengths(task, read, model)
    return CheckedSplit(f"{task.name} ({name})", trains, [_text(row) for row in read], tokens, lost, labels)


def _text(value: Any) -> str:
    """Join all texts of a row but its label."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "\n".join(_text(each) for key, each in value.items() if key not in ("label", "tags", "role"))
    if isinstance(value, Sequence):
        return " ".join(_text(each) for each in value)
    return ""


def _labels(row: Mapping[str, Any]) -> Sequence[str]:
    label = row.get("label")
    return [str(label)] if label is not None else [str(tag) for tag in row.get("tags", ())]


def _lengths(task: Task, rows: Sequence[Any], model: Model) -> tuple[list[int], list[int]]:
    free = task.objective.unlimited()
    if free is task.objective:
        return [], []
    whole = [free.tokens(each) for each in free.encode(rows, model)]
    cut = [task.objective.tokens(each) for each in task.objective.encode(rows, model)]
    return whole, [before - after for before, after in zip(whole, cut, strict=True)]


def findings(splits: Sequence[CheckedSplit]) -> Iterator[Finding]:
    """Look at every split, and at every two of which one is trained on."""
    for split in splits:
        yield from _empty(split)
        yield from _duplicates(split)
        yield from _cut(split)
        yield from _unbalanced(split)
        yield from _characters(split)
    signatures = {split.name: _signatures(split) for split in splits}
    for train in (each for each in splits if each.trains):
        for other in (each for each in splits if not each.trains):
            yield from _overlap(train, other, signatures)
            if train.name.split(" ")[0] == other.name.split(" ")[0]:
                yield from _labels_apart(train, other)
    for split in splits:
        yield from _near_duplicates(split, signatures[split.name])


def _empty(split: CheckedSplit) -> Iterator[Finding]:
    empty = [number for number, text in enumerate(split.texts, 1) if not text.strip()]
    if empty:
        yield Finding(
            split.name, f"{len(empty)} rows are empty, such as row {empty[0]}", "take them out of the file"
        )
    if len(split.texts) < FEW_ROWS:
        yield Finding(
            split.name,
            f"there are only {len(split.texts)} rows",
            "scores of so few have wide intervals, and a model learns them by heart; look at the intervals",
        )


def _duplicates(split: CheckedSplit) -> Iterator[Finding]:
    counts = Counter(split.digests())
    again = len(split.texts) - len(counts)
    if again:
        digest, times = counts.most_common(1)[0]
        text = split.texts[split.digests().index(digest)]
        yield Finding(
            split.name,
            f"{again} rows ({_percent(again, split)}) are there before; {_quoted(text)} {times} times",
            "they weigh more than others, and are learned by heart; take them out unless that is meant",
        )


def _near_duplicates(split: CheckedSplit, signatures: Mapping[int, Any]) -> Iterator[Finding]:
    pairs = list(_alike(split, signatures, split, signatures))
    if pairs:
        one, other = pairs[0]
        yield Finding(
            split.name,
            f"{len({first for first, _ in pairs})} of {len(signatures)} rows are nearly the same as an earlier "
            f"one, such as {_quoted(split.texts[one])} and {_quoted(split.texts[other])}",
            "look whether they are templates or copies with small changes, and keep one of each",
        )


def _overlap(
    train: CheckedSplit, other: CheckedSplit, signatures: Mapping[str, Mapping[int, Any]]
) -> Iterator[Finding]:
    trained = set(train.digests())
    same = [number for number, digest in enumerate(other.digests()) if digest in trained]
    if same:
        yield Finding(
            f"{train.name} and {other.name}",
            f"{len(same)} rows ({_percent(len(same), other)}) that are scored are trained on, such as "
            f"{_quoted(other.texts[same[0]])}",
            "the scores would be too good; take them out of the training rows",
        )
    exact = set(same)
    pairs = _alike(other, signatures[other.name], train, signatures[train.name])
    near = [pair for pair in pairs if pair[0] not in exact]
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
    if unseen:
        yield Finding(
            f"{train.name} and {other.name}",
            f"{len(unseen)} labels are scored and never trained on: {', '.join(unseen[:5])}",
            "look whether they are spelled alike, or split the rows anew",
        )


def _characters(split: CheckedSplit) -> Iterator[Finding]:
    odd = Counter(letter for text in split.texts for letter in set(text) if _is_odd(letter))
    if odd:
        letter, count = odd.most_common(1)[0]
        example = next(text for text in split.texts if letter in text)
        yield Finding(
            split.name,
            f"{len(odd)} characters stand for none, such as U+{ord(letter):04X} in {count} rows: "
            f"{_quoted(example, around=letter)}",
            "the file was probably read in the wrong encoding, or holds control characters; make it anew",
        )
    scripts = Counter(_script(letter) for text in split.texts for letter in text if letter.isalpha())
    total = sum(scripts.values())
    scarce = {name: count for name, count in scripts.items() if count / total < SCARCE}
    if scarce:
        name = max(scarce, key=lambda each: scarce[each])
        letter = next(
            each for text in split.texts for each in text if each.isalpha() and _script(each) == name
        )
        example = next(text for text in split.texts if letter in text)
        yield Finding(
            split.name,
            f"letters of {len(scarce)} scripts are scarce: {scarce[name]} of {total:,} are {name.title()}, as in "
            f"{_quoted(example, around=letter)}",
            "look whether they belong there, or stand for letters that look alike",
        )


def _is_odd(letter: str) -> bool:
    """Tell the replacement character, controls but for spaces, private and unassigned characters."""
    return letter == "\ufffd" or (
        unicodedata.category(letter) in ("Cc", "Co", "Cn") and letter not in "\n\t\r"
    )


def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split(" ")[0].split("-")[0]


def _signatures(split: CheckedSplit) -> dict[int, Any]:
    from datasketch import MinHash

    found = {}
    for number, text in enumerate(split.texts[:COMPARED]):
        letters = " ".join(text.lower().split())
        if len(letters) >= 4 * SHINGLE:  # shorter ones are alike by chance
            signature = MinHash(PERMUTATIONS, seed=1)
            shingles = {letters[start : start + SHINGLE] for start in range(len(letters) - SHINGLE + 1)}
            signature.update_batch([shingle.encode() for shingle in sorted(shingles)])
            found[number] = signature
    return found


def _alike(
    split: CheckedSplit, own: Mapping[int, Any], other: CheckedSplit, others: Mapping[int, Any]
) -> Iterator[tuple[int, int]]:
    """Give pairs of rows that are nearly and not quite the same; within one split, each with an earlier one."""
    from datasketch import MinHashLSH

    index = MinHashLSH(NEAR, PERMUTATIONS)
    mine, theirs = split.digests(), other.digests()
    if split is not other:
        for number, signature in others.items():
            index.insert(number, signature)
    for number, signature in own.items():
        candidates = [each for each in index.query(signature) if theirs[each] != mine[number]]
        found = [each for each in candidates if signature.jaccard(others[each]) >= NEAR]
        if found:
            yield number, min(found)
        if split is other:
            index.insert(number, signature)


def _percent(count: int, split: CheckedSplit) -> str:
    return f"{count / len(split.texts):.1%}"


def _quoted(text: str, around: str | None = None) -> str:
    start = max(0, text.find(around) - 20) if around else 0
    short = " ".join(text[start : start + 60].split())
    return repr(short + ("…" if len(text) > start + 60 else ""))
