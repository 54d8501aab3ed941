"""Scores against scikit-learn, torch and arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from myosotis.interfaces import Columns, Metric
from myosotis.testing import MetricTestSuite
from myosotis_plugins.metrics import Accuracy, CrossEntropy, LabelCrossEntropy, Perplexity

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
