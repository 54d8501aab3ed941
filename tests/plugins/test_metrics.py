"""Scores against scikit-learn, torch and arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rouge_score import rouge_scorer
from sacrebleu import corpus_bleu, corpus_chrf
from seqeval.metrics import f1_score as seqeval_f1
from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef

from myosotis.interfaces import Columns, Metric
from myosotis.testing import MetricTestSuite
from myosotis_plugins.metrics.labels import Accuracy, LabelCrossEntropy, MacroF1, Matthews
from myosotis_plugins.metrics.language import BitsPerByte, CrossEntropy, Perplexity
from myosotis_plugins.metrics.tags import EntityF1, TagAccuracy
from myosotis_plugins.metrics.text import (
    Bleu,
    ChrF,
    ExactMatch,
    NumberMatch,
    Rouge1,
    Rouge2,
    RougeL,
    number_of,
)
from myosotis_plugins.objectives.causal import objects

GENERATOR = np.random.default_rng(0)
SCORES = GENERATOR.normal(size=(40, 5))
LABELS = GENERATOR.integers(5, size=40)
PROBABILITIES = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)
CHOICES: Columns = {
    "prediction": SCORES.argmax(axis=1),
    "label": LABELS,
    "loss": -np.log(PROBABILITIES[range(40), LABELS]),
}
BLOCKS: Columns = {"loss": np.array([3.0, 10.0, 0.5, 0.0]), "tokens": np.array([2, 4, 1, 1])}


class TestCrossEntropy(MetricTestSuite):
    def make(self) -> Metric:
        return CrossEntropy()

    def columns(self) -> Columns:
        return BLOCKS


class TestPerplexity(TestCrossEntropy):
    def make(self) -> Metric:
        return Perplexity()


class TestAccuracy(MetricTestSuite):
    def make(self) -> Metric:
        return Accuracy()

    def columns(self) -> Columns:
        return CHOICES


class TestLabelCrossEntropy(TestAccuracy):
    def make(self) -> Metric:
        return LabelCrossEntropy()


def test_cross_entropy_is_over_tokens_not_over_blocks() -> None:
    assert CrossEntropy().value(BLOCKS) == 13.5 / 8
    assert CrossEntropy().count(BLOCKS) == 8


def test_cross_entropy_is_torchs() -> None:
    losses = torch.nn.functional.cross_entropy(torch.tensor(SCORES), torch.tensor(LABELS)).item()
    columns = {"loss": CHOICES["loss"], "tokens": np.ones(40, dtype=np.int64)}
    assert CrossEntropy().value(columns) == pytest.approx(losses, abs=1e-12)


def test_perplexity_is_its_exponential() -> None:
    assert Perplexity().value(BLOCKS) == pytest.approx(math.exp(13.5 / 8))
    assert Perplexity().value({"loss": np.array([1e6]), "tokens": np.array([1])}) == math.inf


def test_accuracy_is_scikit_learns() -> None:
    expected = accuracy_score(LABELS, CHOICES["prediction"])
    assert 0 < expected < 1
    assert Accuracy().value(CHOICES) == pytest.approx(expected)
    assert Accuracy().count(CHOICES) == 40


def test_label_cross_entropy_is_scikit_learns_log_loss() -> None:
    assert LabelCrossEntropy().value(CHOICES) == pytest.approx(log_loss(LABELS, PROBABILITIES))


def test_directions() -> None:
    directions = [each.higher_is_better for each in (CrossEntropy, Perplexity, Accuracy, LabelCrossEntropy)]
    assert directions == [False, False, True, False]


# Labels


class TestMacroF1(TestAccuracy):
    def make(self) -> Metric:
        return MacroF1()


class TestMatthews(TestAccuracy):
    def make(self) -> Metric:
        return Matthews()


def test_macro_f1_and_matthews_are_scikit_learns() -> None:
    chosen = LABELS, CHOICES["prediction"]
    assert MacroF1().value(CHOICES) == pytest.approx(f1_score(*chosen, average="macro"), abs=1e-6)
    assert Matthews().value(CHOICES) == pytest.approx(matthews_corrcoef(*chosen), abs=1e-6)
    # Of ten labels two are there or chosen.
    few = {"label": np.array([0, 9, 9, 0]), "prediction": np.array([0, 9, 0, 0])}
    expected = f1_score(few["label"], few["prediction"], average="macro")
    assert MacroF1().value(few) == pytest.approx(expected, abs=1e-6)
    one = {"label": np.zeros(4, dtype=int), "prediction": np.zeros(4, dtype=int)}
    assert Matthews().value(one) == 1


# Bytes


class TestBitsPerByte(MetricTestSuite):
    def make(self) -> Metric:
        return BitsPerByte()

    def columns(self) -> Columns:
        return {**BLOCKS, "bytes": np.array([8, 12, 4, 3])}


def test_bits_per_byte_by_hand() -> None:
    # 13.5 nats for 27 bytes.
    columns = {**BLOCKS, "bytes": np.array([8, 12, 4, 3])}
    assert BitsPerByte().value(columns) == pytest.approx(0.5 / math.log(2))


# Tags


SENTENCES = [
    (["B-per", "I-per", "O", "B-loc"], ["B-per", "I-per", "O", "O"]),
    (["O", "O"], ["B-loc", "O"]),
    (["B-loc", "I-loc", "O"], ["B-loc", "O", "O"]),
    (["B-per", "O"], ["B-per", "O"]),
    (["O", "I-loc", "B-loc"], ["O", "I-loc", "B-loc"]),
]
TAGGED: Columns = {
    "tags": objects([right for right, _ in SENTENCES]),
    "predicted_tags": objects([predicted for _, predicted in SENTENCES]),
}


class TestEntityF1(MetricTestSuite):
    def make(self) -> Metric:
        return EntityF1()

    def columns(self) -> Columns:
        return TAGGED


class TestTagAccuracy(TestEntityF1):
    def make(self) -> Metric:
        return TagAccuracy()


def test_entity_f1_is_seqevals() -> None:
    right, predicted = zip(*SENTENCES, strict=True)
    metric = EntityF1()
    prepared = metric.prepare(TAGGED)
    assert metric.value(prepared) == pytest.approx(seqeval_f1(list(right), list(predicted)))
    assert metric.count(prepared) == 6  # entities that are there
    nothing = {"tags": objects([["O"]]), "predicted_tags": objects([["O"]])}
    assert math.isnan(metric.value(metric.prepare(nothing)))


def test_tag_accuracy_is_over_words() -> None:
    metric = TagAccuracy()
    prepared = metric.prepare(TAGGED)
    assert metric.value(prepared) == pytest.approx(11 / 14)
    assert metric.count(prepared) == 14


# Texts


TEXTS: Columns = {
    "text": objects(["the cat sat on the mat", "a dog", " 42", "it rains in spain again"]),
    "reference": objects(["the cat is on the mat", "a dog", "42 ", "in spain it rains"]),
}


class TestExactMatch(MetricTestSuite):
    def make(self) -> Metric:
        return ExactMatch()

    def columns(self) -> Columns:
        return TEXTS


class TestRouge(TestExactMatch):
    def make(self) -> Metric:
        return RougeL()


class TestBleu(TestExactMatch):
    def make(self) -> Metric:
        return Bleu()

    def columns(self) -> Columns:
        # With every length of sequences somewhere, or sacreBLEU smooths, which depends on how many there are.
        return {
            name: objects([f"all in all {text} he said" for text in column]) for name, column in TEXTS.items()
        }


class TestChrF(TestExactMatch):
    def make(self) -> Metric:
        return ChrF()


class TestNumberMatch(TestExactMatch):
    def make(self) -> Metric:
        return NumberMatch()


def scored(metric: Metric, columns: Columns = TEXTS) -> float:
    return metric.value(metric.prepare(columns))


def test_texts_are_scored_as_the_libraries_do() -> None:
    texts, references = list(TEXTS["text"]), list(TEXTS["reference"])
    assert scored(ExactMatch()) == 0.5
    assert scored(Bleu()) == pytest.approx(corpus_bleu(texts, [references]).score)
    assert scored(ChrF()) == pytest.approx(corpus_chrf(texts, [references]).score)
    for metric, kind in ((Rouge1(), "rouge1"), (Rouge2(), "rouge2"), (RougeL(), "rougeL")):
        scorer = rouge_scorer.RougeScorer([kind])
        pairs = zip(references, texts, strict=True)
        expected = np.mean([scorer.score(*pair)[kind].fmeasure for pair in pairs])
        assert scored(metric) == pytest.approx(expected)
    # Five of six words of the first, by hand.
    first = {name: column[:1] for name, column in TEXTS.items()}
    assert scored(Rouge1(), first) == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = 7.\n#### 7", 7),
        ("#### 1,234", 1234),
        ("first 5, then 12.5", 12.5),
        ("#### -3 apples and 9", -3),
        ("none", None),
    ],
)
def test_the_number_of_an_answer(text: str, number: float | None) -> None:
    assert number_of(text) == number


def test_number_match_needs_a_number() -> None:
    columns = {
        "text": objects(["it is 7", "no", "so 8"]),
        "reference": objects(["… #### 7", "#### 1", "#### 9"]),
    }
    assert scored(NumberMatch(), columns) == pytest.approx(1 / 3)
