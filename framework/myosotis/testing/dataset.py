"""The conformance suite of datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, cast, get_args

import numpy as np
import torch

from myosotis.errors import PluginError
from myosotis.interfaces import Metric, Model, Objective, Rows, Split, TaskDataset
from myosotis.testing.plugin import PluginTestSuite
from myosotis.testing.tiny import ByteTokenizer

SPLITS: tuple[Split, ...] = get_args(Split)
SOME = 8
"""Rows of each split that are encoded."""


class TaskDatasetTestSuite(PluginTestSuite[TaskDataset]):
    """Checks a dataset's rows, splits and names.

    Give `make`; override `model` where the objective needs more of a model than a tokenizer.
    """

    def model(self) -> Model:
        """Give what rows are encoded for."""
        return Model(torch.nn.Identity(), ByteTokenizer())

    def test_objective_is_known(self) -> None:
        """The objective is a plugin, and takes the parameters that the dataset gives it."""
        self._objective()

    def test_metrics_are_known(self) -> None:
        """The metrics are plugins; there is at least one."""
        names = self.make().metrics() or self._objective().metrics
        assert names, "a dataset or its objective must name a metric, but neither does"
        for name in names:
            metric = self._look_up("metric", name)
            assert issubclass(metric, Metric), f"{name} must be a metric, but is {metric}"

    def test_splits_have_rows(self) -> None:
        """A split is None or has rows, and one can be scored."""
        splits = {name: self.make().split(name) for name in SPLITS}
        empty = [name for name, rows in splits.items() if rows is not None and len(rows) == 0]
        assert not empty, f"a split must be None or have rows, but {', '.join(empty)} is empty"
        held_out = [name for name in ("validation", "test") if splits[name] is not None]
        assert held_out, "a dataset must have a validation or a test split, but has neither"

    def test_rows_are_what_the_objective_reads(self) -> None:
        """The objective encodes and collates rows of every split."""
        objective = self._objective()
        for name, rows in self._splits(self.make()):
            some = [rows[index] for index in range(min(SOME, len(rows)))]
            try:
                examples = objective.encode(some, self.model())
                if len(examples):  # a few short rows may not fill one block
                    objective.collate([examples[index] for index in range(len(examples))], self.model())
            except KeyError as error:
                raise AssertionError(
                    f"rows of {name} must have the column {error} that the objective reads, but have "
                    f"{', '.join(some[0])}"
                ) from error
            assert all(objective.tokens(example) > 0 for example in examples), f"{name} has an empty example"

    def test_splits_share_no_row(self) -> None:
        """No row stands in two splits."""
        contents = {
            name: {row_content(row) for row in _all(rows)} for name, rows in self._splits(self.make())
        }
        for one, other in combinations(contents, 2):
            shared = contents[one] & contents[other]
            assert not shared, (
                f"no row may be in both {one} and {other}, but {len(shared)} are: {min(shared)[:80]}"
            )

    def test_splits_are_the_same_every_time(self) -> None:
        """Two instances, and one instance asked twice, give the same rows in the same order."""
        dataset, another = self.make(), self.make()
        for name, rows in self._splits(dataset):
            contents = [row_content(row) for row in _all(rows)]
            for again in (dataset.split(name), another.split(name)):
                same = again is not None and [row_content(row) for row in _all(again)] == contents
                assert same, f"split {name} must be the same every time, but is not"

    def _objective(self) -> Objective:
        chosen, parameters = self.make().objective()
        return cast(Objective, self._look_up("objective", chosen)(**parameters))

    def _look_up(self, kind: Any, name: str) -> type[Any]:
        try:
            return self.registry().find(kind, name).cls
        except PluginError as error:
            raise AssertionError(f"the dataset names a plugin that is not there: {error}") from error

    def _splits(self, dataset: TaskDataset) -> Iterator[tuple[Split, Rows]]:
        for name in SPLITS:
            rows = dataset.split(name)
            if rows is not None:
                yield name, rows


def _all(rows: Rows) -> Iterator[Any]:
    return (rows[index] for index in range(len(rows)))


def row_content(row: Mapping[str, Any]) -> str:
    """Give what a row holds as text: equal for equal rows, arrays in full."""
    return repr([(name, _plain(row[name])) for name in sorted(row)])


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    return value.tolist() if isinstance(value, np.ndarray) else value
