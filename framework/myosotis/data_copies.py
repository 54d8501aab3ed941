"""Rows of a study's data that are there twice: within a split, or in what is scored and in what is trained on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from zlib import crc32

import numpy as np

from myosotis.data_record import Finding
from myosotis.data_split import CheckedSplit, counted, quoted, rows_of

SHINGLE = 5
"""Letters in the pieces of text whose share two near duplicates have in common."""
NEAR = 0.7
"""The least such share, estimated."""
PERMUTATIONS = 128
LEAST_WORDS, MOST_WORDS = 8, 13
"""In the sequences of words by which a row is found within another text."""
LEAST_LETTERS = 50
"""Of a row that is looked for within others."""
WITHIN = 0.8
"""The least share of a row's sequences of words that stand in what is trained on."""
FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""An odd number, by which hashes of words become those of their sequences."""


@dataclass(frozen=True)
class Compared:
    """A split with what finds its copies."""

    split: CheckedSplit

    @property
    def texts(self) -> Sequence[str]:
        """The split's."""
        return self.split.texts

    @property
    def digests(self) -> Sequence[str]:
        """The split's."""
        return self.split.digests

    @cached_property
    def signatures(self) -> Mapping[int, Any]:
        """By which near duplicates are found; without short texts, which are alike by chance."""
        return _signatures(self.texts)

    @cached_property
    def index(self) -> Any:
        """The signatures, to be asked for those that are like another."""
        from datasketch import MinHashLSH

        index = MinHashLSH(NEAR, PERMUTATIONS)
        for number, signature in self.signatures.items():
            index.insert(number, signature)
        return index

    @cached_property
    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """A hash of every word of all texts, in their order, and the text that it is of."""
        found = [[crc32(word.encode()) for word in re.findall(r"\w+", text.lower())] for text in self.texts]
        hashes = np.fromiter((word for each in found for word in each), dtype=np.uint64)
        return hashes, np.repeat(np.arange(len(found)), [len(each) for each in found])

    def sequences(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Give a hash of every so many words that follow one another in a text, and the text that they are of."""
        hashes, of = self.words
        count = max(0, len(hashes) - size + 1)
        total = np.zeros(count, dtype=np.uint64)
        for place in range(size):
            total = total * FACTOR + hashes[place : place + count]
        whole = of[:count] == of[len(of) - count :]
        return total[whole], of[:count][whole]


def duplicates(compared: Compared) -> Iterator[Finding]:
    """Look for rows of a split that are the same."""
    split, counts = compared.split, Counter(compared.digests)
    again = len(split.texts) - len(counts)
    if again:
        digest, times = counts.most_common(1)[0]
        text = split.texts[split.digests.index(digest)]
        yield Finding(
            split.name,
            f"{rows_of(split, again, 'is', 'are')} there before; {quoted(text)} {times:,} times",
            "they weigh more than others, and are learned by heart; take them out unless that is meant",
        )


def near_duplicates(compared: Compared) -> Iterator[Finding]:
    """Look for rows of a split that are nearly the same."""
    pairs = list(_alike(compared, compared))
    if pairs:
        one, other = pairs[0]
        of = f"of {len(compared.signatures):,} rows"
        again = counted(len({first for first, _ in pairs}), f"{of} is", f"{of} are")
        yield Finding(
            compared.split.name,
            f"{again} nearly the same as an earlier one, such as {quoted(compared.texts[one])} and "
            f"{quoted(compared.texts[other])}",
            "look whether they are templates or copies with small changes, and keep one of each",
        )


def overlap(train: Compared, other: Compared) -> Iterator[Finding]:
    """Look for what is scored in what is trained on: the same rows, nearly the same, or within longer texts."""
    where = f"{train.split.name} and {other.split.name}"
    trained = set(train.digests)
    same = {number for number, digest in enumerate(other.digests) if digest in trained}
    if same:
        yield Finding(
            where,
            f"{rows_of(other.split, len(same), 'that is scored is', 'that are scored are')} trained on, such as "
            f"{quoted(other.texts[min(same)])}",
            "the scores would be too good; take them out of the training rows",
        )
    near = {scored: known for scored, known in _alike(other, train) if scored not in same}
    if near:
        scored, known = next(iter(near.items()))
        yield Finding(
            where,
            f"{counted(len(near), 'row that is scored is', 'rows that are scored are')} nearly the same as one "
            f"that is trained on, such as {quoted(other.texts[scored])} and {quoted(train.texts[known])}",
            "the scores may be too good; take them out of the training rows if they are copies",
        )
    within = [row for row in _contained(train, other) if row not in same and row not in near]
    if within:
        yield Finding(
            where,
            f"{rows_of(other.split, len(within), 'that is scored stands', 'that are scored stand')} within longer "
            f"texts that are trained on, such as {quoted(other.texts[within[0]])}",
            "the scores may be too good; take those passages out of the training texts",
        )


def _contained(train: Compared, other: Compared) -> list[int]:
    """Give rows most of whose sequences of words are trained on.

    After Brown et al. 2020, arXiv:2005.14165, appendix C: the sequences' length is the 5th percentile of the rows'
    lengths in words, at least 8 and at most 13; a row counts by the share of its sequences, not by one of them.
    """
    lengths = np.bincount(other.words[1], minlength=len(other.texts))
    long = (lengths >= LEAST_WORDS) & (np.array([len(text) for text in other.texts]) >= LEAST_LETTERS)
    if not long.any():
        return []
    size = int(np.clip(np.percentile(lengths[long], 5), LEAST_WORDS, MOST_WORDS))
    sequences, rows = other.sequences(size)
    found = np.isin(sequences, train.sequences(size)[0])
    all_of = np.bincount(rows, minlength=len(long))
    share = np.bincount(rows, found, minlength=len(long)) / np.maximum(all_of, 1)
    rows_within: list[int] = np.flatnonzero(long & (share >= WITHIN)).tolist()
    return rows_within


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


def _alike(one: Compared, other: Compared) -> Iterator[tuple[int, int]]:
    """Give pairs of rows that are nearly and not quite the same; within one split, each with an earlier one."""
    for number, signature in one.signatures.items():
        found = [
            each
            for each in other.index.query(signature)
            if (one is not other or each < number)
            and other.digests[each] != one.digests[number]
            and signature.jaccard(other.signatures[each]) >= NEAR
        ]
        if found:
            yield number, min(found)
