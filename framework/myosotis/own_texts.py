"""Which pieces of an encoded row are of its own texts, and which stand around them: a template, special tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from myosotis.interfaces import Piece

LEAST = 8
"""Letters by which a text is known that was cut."""
UNREAD = "\ufffd"
"""What a token is read as that is a part of a letter."""


def marked(pieces: Sequence[Piece], texts: Sequence[str]) -> list[Piece]:
    """Say of each piece whether a template wrote it; of none where a text is not found.

    A short text that a template's words before it hold, too, may be taken for those.

    Args:
        pieces: of one row, in their order.
        texts: the row's own, in their order.
    """
    unread = any(UNREAD in piece.text for piece in pieces)
    read = _without_repeated([_letters(piece.text, unread) for piece in pieces])
    ends = list(accumulate(map(len, read)))
    whole, place, own = "".join(read), 0, [False] * len(pieces)
    for text in filter(None, (_letters(each, unread) for each in texts)):
        found = _find(text, whole, place, {0, *ends})
        if found is None:
            return list(pieces)
        start, place = found
        for number, end in enumerate(ends):
            begin = end - len(read[number])
            follows = begin == end and UNREAD in pieces[number].text and own[number - 1]
            own[number] |= (begin < place and end > start) or follows
    return [replace(piece, template=not each) for piece, each in zip(pieces, own, strict=True)]


def _letters(text: str, unread: bool) -> str:
    """Leave out what tokenizers do not keep: case, spaces, marks of a word's further pieces, letters in parts."""
    kept = re.sub(r"[\s#▁]", "", text).lower()
    return re.sub(r"[^\x00-\x7f]+", UNREAD, kept) if unread else kept


def _without_repeated(read: Sequence[str]) -> list[str]:
    """Let letters that pieces have together be one."""
    ended = [False, *(each.endswith(UNREAD) for each in read)]
    return [each.removeprefix(UNREAD) if before else each for each, before in zip(read, ended, strict=False)]


def _find(text: str, whole: str, start: int, boundaries: set[int]) -> tuple[int, int] | None:
    """Find where a text stands, or what is left of it where its end or its beginning was cut.

    Of several places, the first at which pieces begin and end with it.
    """
    places = [each.start() for each in re.finditer(f"(?={re.escape(text)})", whole) if each.start() >= start]
    if places:
        at = next((each for each in places if {each, each + len(text)} <= boundaries), places[0])
        return at, at + len(text)
    for size in range(len(text) - 1, LEAST - 1, -1):
        for part in (text[:size], text[-size:]):
            if (at := whole.find(part, start)) >= 0:
                return at, at + size
    return None
