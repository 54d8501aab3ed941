"""Which pieces of a row a template wrote."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from myosotis.interfaces import Piece
from myosotis.own_texts import marked


def own(pieces: Sequence[str], *texts: str) -> str:
    """Give the pieces that no template wrote."""
    return "|".join(
        each.text for each in marked([Piece(text, False) for text in pieces], texts) if not each.template
    )


@pytest.mark.parametrize(
    ("pieces", "texts", "expected"),
    [
        (["Question: ", "a", " rose", "?", "\n", "Answer:"], ["a rose?"], "a| rose|?"),
        (["[CLS]", "for", "##get", "me", "[SEP]"], ["Forget me"], "for|##get|me"),
        (
            ["<s>", "system", "be kind", "user", "hi", "assistant", "hey"],
            ["be kind", "hi", "hey"],
            "be kind|hi|hey",
        ),
        # The template has the same letter before, within a piece.
        (["Question:", "n", "\n"], ["n"], "n"),
        # Letters of which a piece has a part.
        (["Q:", "caf", "\ufffd", "\ufffd", "\n", "A:"], ["caf\u00e9"], "caf|\ufffd|\ufffd"),
        (["Q:", "\ufffd", "\ufffd", "\ufffd", "A:"], ["\u65e5\u672c"], "\ufffd|\ufffd|\ufffd"),
        # What was cut to fit: its end, and its beginning.
        (["a rose is", " a rose", "\nLabel:"], ["a rose is a rose is a rose"], "a rose is| a rose"),
        (["this is", " a rose", "\nAnswer:"], ["a rose is a rose and this is a rose"], "this is| a rose"),
        (["# Title", "\n", "## part"], ["# Title\n## part"], "# Title|\n|## part"),
    ],
)
def test_a_row_s_own_texts_are_found(pieces: list[str], texts: list[str], expected: str) -> None:
    assert own(pieces, *texts) == expected


def test_of_a_text_that_is_not_found_nothing_is_said() -> None:
    pieces = [Piece("something", False), Piece("else", True)]
    assert marked(pieces, ["a rose"]) == pieces
