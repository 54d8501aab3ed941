"""The model's conformance suite on the architecture of `nano`: for its tests and for `myosotis plugins check`."""

from __future__ import annotations

from myosotis_from_scratch import FromScratch

from myosotis.interfaces import Task
from myosotis.testing import ModelFactoryTestSuite, make_task
from myosotis_plugins.datasets.pydocs import PyDocs
from myosotis_plugins.metrics.language import CrossEntropy
from myosotis_plugins.models.nano import FOLDER
from myosotis_plugins.objectives.language_modeling import LanguageModeling


class FromScratchSuite(ModelFactoryTestSuite):
    """Draws the weights of a small model that comes with myosotis: there is no default for the path."""

    ground = "nano's architecture with pydocs"

    def make(self) -> FromScratch:
        """Make it of the folder of `nano`."""
        return FromScratch(str(FOLDER))

    def task(self) -> Task:
        """Give English prose."""
        return make_task("pydocs", PyDocs(), LanguageModeling(length=64), {"cross_entropy": CrossEntropy()})
