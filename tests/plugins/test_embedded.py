"""The datasets that every Python installation holds, and the embedded model, keep their contracts."""

from __future__ import annotations

from myosotis.interfaces import ModelFactory, Task, TaskDataset
from myosotis.testing import ModelFactoryTestSuite, TaskDatasetTestSuite
from myosotis_plugins.datasets.pycode import PyCode
from myosotis_plugins.datasets.pydocs import PyDocs
from myosotis_plugins.datasets.pymodule import PyModule
from myosotis_plugins.datasets.pysummary import PySummary
from myosotis_plugins.models.nano import Nano
from tests.plugins import tiny


class TestPyDocs(TaskDatasetTestSuite):
    def make(self) -> TaskDataset:
        return PyDocs()


class TestPyCode(TaskDatasetTestSuite):
    def make(self) -> TaskDataset:
        return PyCode(length=64, packing="isolated")


class TestPyModule(TaskDatasetTestSuite):
    def make(self) -> TaskDataset:
        return PyModule(length=512)


class TestPySummary(TaskDatasetTestSuite):
    def make(self) -> TaskDataset:
        return PySummary(length=64, target_length=128)


class TestPySummaryAsked(TaskDatasetTestSuite):
    def make(self) -> TaskDataset:
        return PySummary(length=64, target_length=128, objective="instruction")


def test_an_instruction_asks_for_the_same_summary() -> None:
    given, asked = (PySummary(objective=way).split("test") for way in ("sequence_to_sequence", "instruction"))
    assert len(given) == len(asked) > 100
    assert asked[0]["response"] == given[0]["target"]
    assert asked[0]["prompt"].startswith(given[0]["source"])


class TestNano(ModelFactoryTestSuite):
    def make(self) -> ModelFactory:
        return Nano()

    def task(self) -> Task:
        return tiny.text_task("poem", tiny.POEM)
