"""The n-gram baseline against NLTK's, and against the axioms of probability."""

import importlib.util
import itertools
import math
from pathlib import Path
from types import ModuleType

import pytest
from nltk.lm import KneserNeyInterpolated, Vocabulary

SCRIPT = Path(__file__).parents[2] / "experiments" / "nano" / "kneser_ney.py"
START, TOKENS = 0, range(1, 6)
DOCUMENTS = [[1, 2, 3, 1, 2, 4, 5], [1, 2, 4, 1, 2, 3, 5], [3, 1, 2, 5], [4, 4, 1, 3, 5]]
ORDER = 3


@pytest.fixture(scope="module")
def kneser_ney() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kneser_ney", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equals_nltk_at_the_same_discount(kneser_ney: ModuleType) -> None:
    # NLTK does not discount unigrams.
    discount = 0.4
    discounts = [(0.0, 0.0, 0.0), *[(discount,) * 3] * (ORDER - 1)]
    model = kneser_ney.KneserNey(DOCUMENTS, vocabulary_size=6, start=START, order=ORDER, discounts=discounts)
    theirs = KneserNeyInterpolated(ORDER, discount=discount, vocabulary=Vocabulary(["0", *map(str, TOKENS)]))
    theirs.fit(
        [tuple(map(str, gram[begin:])) for gram in model.grams(document) for begin in range(ORDER)]
        for document in DOCUMENTS
    )
    for context in itertools.product([START, *TOKENS], repeat=ORDER - 1):
        for token in TOKENS:
            expected = theirs.score(str(token), tuple(map(str, context)))
            assert model.probability(context, token) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("context", [(1, 2), (2, 3), (5, 5), (0, 0), (9, 9)])
def test_sums_to_one_over_the_vocabulary(kneser_ney: ModuleType, context: tuple[int, int]) -> None:
    model = kneser_ney.KneserNey(DOCUMENTS, vocabulary_size=10, start=START, order=ORDER)
    assert math.fsum(model.probability(context, token) for token in range(10)) == pytest.approx(1)


def test_estimates_chen_and_goodmans_discounts(kneser_ney: ModuleType) -> None:
    # Four n-grams once, three twice, two thrice, one four times: Y = 4 / (4 + 2 * 3) = 0.4.
    counts = {(number,): count for number, count in enumerate([1] * 4 + [2] * 3 + [3] * 2 + [4])}
    assert kneser_ney.estimate_discounts(counts) == pytest.approx(
        (1 - 2 * 0.4 * 3 / 4, 2 - 3 * 0.4 * 2 / 3, 3 - 4 * 0.4 * 1 / 2)
    )


def test_bits_of_a_document_by_hand(kneser_ney: ModuleType) -> None:
    # Unigrams alone, without discounts: p(1) = 3/4, p(2) = 1/4.
    model = kneser_ney.KneserNey(
        [[1, 1, 1, 2]], vocabulary_size=3, start=START, order=1, discounts=[(0.0, 0.0, 0.0)]
    )
    assert model.bits([1, 2]) == pytest.approx(-math.log2(3 / 4) + 2)
