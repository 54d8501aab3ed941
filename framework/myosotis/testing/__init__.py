"""Conformance suites: a plugin's tests are one subclass, collected by pytest.

For a method, whose suite brings its own model and tasks::

    from myosotis.testing import MethodTestSuite

    class TestNoise(MethodTestSuite):
        def make(self) -> Noise:
            return Noise(scale=0.1)

        def make_neutral(self) -> Noise:
            return Noise(scale=0)

Every check is a method whose name begins with `test_`; a suite's other methods may be overridden to say
on what it is checked. `refusal` tells whether methods can be in one trial, and `CompositionTestSuite` puts
one beside each that is installed.
"""

from __future__ import annotations

from myosotis.testing.composition import CompositionTestSuite, refusal
from myosotis.testing.dataset import TaskDatasetTestSuite
from myosotis.testing.method import MethodTestSuite
from myosotis.testing.metric import MetricTestSuite
from myosotis.testing.model import ModelFactoryTestSuite
from myosotis.testing.objective import ObjectiveTestSuite
from myosotis.testing.tiny import (
    ByteTokenizer,
    TinyMetric,
    TinyModel,
    TinyObjective,
    TinyQuantizedModel,
    TinyTask,
    make_task,
    tiny_tasks,
)

__all__ = [
    "ByteTokenizer",
    "CompositionTestSuite",
    "MethodTestSuite",
    "MetricTestSuite",
    "ModelFactoryTestSuite",
    "ObjectiveTestSuite",
    "TaskDatasetTestSuite",
    "TinyMetric",
    "TinyModel",
    "TinyObjective",
    "TinyQuantizedModel",
    "TinyTask",
    "make_task",
    "refusal",
    "tiny_tasks",
]
