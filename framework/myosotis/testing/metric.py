"""The conformance suite of metrics."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from myosotis.interfaces import Columns, Metric
from myosotis.testing.plugin import PluginTestSuite

TOLERANCE = 1e-9


class MetricTestSuite(PluginTestSuite[Metric]):
    """Checks a metric on predictions. Give `make` and `columns`."""

    @abstractmethod
    def columns(self) -> Columns:
        """Give predictions of four examples or more, not all alike."""

    def test_says_its_direction(self) -> None:
        """`higher_is_better` is True or False."""
        direction = getattr(type(self.make()), "higher_is_better", None)
        assert isinstance(direction, bool), f"higher_is_better must be True or False, but is {direction!r}"

    def test_value_is_one_number(self) -> None:
        """The score is a finite float, over a positive count."""
        metric = self.make()
        prepared = metric.prepare(self.columns())
        value, count = metric.value(prepared), metric.count(prepared)
        assert isinstance(value, float), f"a score must be a float, but is {type(value).__name__}"
        assert math.isfinite(value), f"a score must be finite, but is {value}"
        assert isinstance(count, int), f"a count must be a whole number, but is {type(count).__name__}"
        assert count > 0, f"a count must be positive, but is {count}"

    def test_reads_no_more_than_it_says(self) -> None:
        """Where `reads` says which columns of `predict` it reads, it gives the same with these alone."""
        metric = self.make()
        if not metric.reads or metric.generates:
            return
        columns = {name: column for name, column in self.columns().items() if name in metric.reads}
        try:
            self._check_same(columns, "the columns that reads names alone must not change the score")
        except KeyError as error:
            raise AssertionError(f"reads must name the column {error}, for it is read") from error

    def test_order_does_not_matter(self) -> None:
        """The examples in reverse give the same score."""
        reversed_columns = {name: column[::-1] for name, column in self.columns().items()}
        self._check_same(reversed_columns, "the order of the examples must not change the score")

    def test_examples_twice_give_the_same_score(self) -> None:
        """Every example twice gives the same score: it is no sum."""
        twice = {name: np.concatenate([column, column]) for name, column in self.columns().items()}
        self._check_same(twice, "every example twice must not change the score")

    def _check_same(self, columns: Columns, rule: str) -> None:
        expected, value = self._value(self.columns()), self._value(columns)
        same = math.isclose(value, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        assert same, f"{rule}, but it does: from {expected} to {value}"

    def _value(self, columns: Columns) -> float:
        metric = self.make()
        return metric.value(metric.prepare(columns))
