"""The conformance suite of model factories."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import numpy as np

from myosotis.evaluation import choose_runtime, predict
from myosotis.interfaces import Columns, Model, ModelFactory, Rows, Task
from myosotis.testing.plugin import PluginTestSuite


class ModelFactoryTestSuite(PluginTestSuite[ModelFactory]):
    """Checks that a factory gives the same finite model every time. Give `make` and `task`."""

    @abstractmethod
    def task(self) -> Task:
        """Give a task that the model can be scored on."""

    def load(self) -> Model:
        """Load the model for the task."""
        return self.make().load([self.task().objective])

    def test_predictions_are_finite_and_the_same_every_time(self) -> None:
        """A model predicts finite numbers, the same twice, and the same when it is loaded again."""
        model = self.load()
        first = self._predictions(model)
        for name, column in first.items():
            assert np.isfinite(column).all(), f"predictions must be finite, but column {name} is not"
        _check_same(first, self._predictions(model), "a model must predict the same twice")
        _check_same(first, self._predictions(self.load()), "a model must be the same when loaded again")

    def test_every_parameter_may_train(self) -> None:
        """Nothing of the loaded base is frozen, unless it is quantized: that is for methods to do."""
        parameters = dict(self.load().module.named_parameters())
        if not all(each.is_floating_point() for each in parameters.values()):
            return
        held = [name for name, each in parameters.items() if not each.requires_grad]
        assert not held, f"every parameter must be free to train, but {held[:3]} are not"

    def test_outline_has_the_shapes_of_the_model(self) -> None:
        """The outline has the loaded model's parameters by name and shape, all on the meta device."""
        outline = self.make().outline([self.task().objective]).module
        real = [name for name, each in outline.named_parameters() if not each.is_meta]
        assert not real, f"an outline must be on the meta device, but {real[:3]} are not"
        shapes = [
            {(name, tuple(each.shape)) for name, each in module.named_parameters()}
            for module in (outline, self.load().module)
        ]
        different = sorted(shapes[0] ^ shapes[1])
        assert not different, f"an outline must have the model's parameters, but differs in {different[:3]}"

    def test_saves_files(self, tmp_path: Path) -> None:
        """Saving a model writes files."""
        self.make().save(self.load(), tmp_path)
        files = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]
        assert files, "save must write files into the folder, but wrote none"

    def _predictions(self, model: Model) -> Columns:
        task = self.task()
        rows = task.dataset.split("test")
        assert rows is not None, f"the suite's task must have a test split, but {task.name} has none"
        examples = task.objective.encode(_first(rows), model)
        return predict(task, examples, model, 4, choose_runtime("cpu", "32-true"), base=model.module)


def _first(rows: Rows, count: int = 8) -> Rows:
    return [rows[index] for index in range(min(count, len(rows)))]


def _check_same(one: Columns, other: Columns, rule: str) -> None:
    different = [name for name in one if not np.array_equal(one[name], other[name])]
    assert not different, f"{rule}, but differs in {', '.join(different)}"
