"""Passages ranked by the words that they share with a question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


class BM25:
    """Scores passages against a question, by `bm25s`.

    score(q, d) = Σ over the words t of q of idf(t) · f(t, d) / (f(t, d) + k1 (1 − b + b |d| / mean |d|)),
    idf(t) = ln(1 + (N − n(t) + ½) / (n(t) + ½)), where f(t, d) counts t in d, |d| the words of d, N the passages
    and n(t) those with t. It is Lucene's form of Robertson and Zaragoza's weights: without their factor k1 + 1,
    which changes no order, and an idf that is never negative (Kamphuis et al. 2020). Words are in lower case and
    have two letters or digits at least; none is left out or cut to its stem.

    Args:
        passages: what is ranked.
        k1: how much a word counts that comes again.
        b: how much a long passage's words count less, from 0 to 1.
    """

    def __init__(self, passages: Sequence[str], k1: float, b: float) -> None:
        import bm25s

        self.passages = passages
        self._index = bm25s.BM25(method="lucene", k1=k1, b=b)
        self._index.index(_words(passages), show_progress=False)

    def scores(self, question: str) -> Float[np.ndarray, " passages"]:
        """Give each passage's score."""
        [words] = _words([question])
        found: np.ndarray = self._index.get_scores(words)
        return found

    def best(self, question: str, count: int) -> list[str]:
        """Give the passages with the highest scores, the best first; those that share no word are none."""
        scores = self.scores(question)
        # Stable, so that no machine's way of sorting decides between equal ones.
        order = np.argsort(-scores, kind="stable")[:count]
        return [self.passages[number] for number in order if scores[number] > 0]


def _words(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    words: list[list[str]] = bm25s.tokenize(list(texts), stopwords=[], return_ids=False, show_progress=False)
    return words
