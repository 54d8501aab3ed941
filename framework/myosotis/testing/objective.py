"""The conformance suite of objectives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from myosotis.errors import ConfigurationError, PluginError
from myosotis.evaluation import evaluating
from myosotis.interfaces import Columns, Example, Metric, Model, Objective, Rows
from myosotis.testing.plugin import PluginTestSuite

TOLERANCE = 1e-4


class ObjectiveTestSuite(PluginTestSuite[Objective]):
    """Checks an objective on rows of different lengths. Give `make`, `model` and `rows`."""

    @abstractmethod
    def model(self) -> Model:
        """Give a loaded model that the objective trains."""

    @abstractmethod
    def rows(self) -> Rows:
        """Give four rows or more, of different lengths where rows have one."""

    def weight(self, example: Example) -> float:
        """Say how much of a batch's mean loss an example is: 1 for a mean over rows, else its trained tokens."""
        return 1.0

    def test_tokens_are_counted(self) -> None:
        """Every example has at least one token, and the count is a whole number."""
        for example in self._examples(self.model()):
            count = self.make().tokens(example)
            assert isinstance(count, int), f"tokens must be a whole number, but is {count!r}"
            assert count > 0, f"tokens must be at least 1, but is {count}"

    def test_first_rows_give_the_first_examples(self) -> None:
        """Where `in_order` says so, the first rows alone give the first examples, all but the last one."""
        objective, model, rows = self.make(), self.model(), self.rows()
        if not objective.in_order:
            return
        whole = self._examples(model)
        for count in range(1, len(rows)):
            few = objective.encode([rows[index] for index in range(count)], model)
            for number in range(len(few) - 1):
                found = objective.collate([few[number]], model)
                for name, value in objective.collate([whole[number]], model).items():
                    assert torch.equal(found[name], value), (
                        f"in_order says that the first rows give the first examples, but of {count} rows "
                        f"example {number} has another {name} than of all"
                    )

    def test_rows_encoded_few_at_a_time_give_the_same_examples(self) -> None:
        """What `stream` gives, and where `row_by_row` says so what each row gives alone, is what `encode` gives."""
        objective, model, rows = self.make(), self.model(), self.rows()
        whole = self._examples(model)
        ways = {"stream": list(objective.stream(rows, model))}
        if objective.row_by_row:
            alone = [objective.encode([rows[index]], model) for index in range(len(rows))]
            ways["row_by_row"] = [example for each in alone for example in each]
        for way, examples in ways.items():
            assert len(examples) == len(whole), (
                f"{way} must give the {len(whole)} examples of encode, but gives {len(examples)}"
            )
            for number, example in enumerate(examples):
                found, wanted = (objective.collate([each], model) for each in (example, whole[number]))
                same = all(torch.equal(found[name], value) for name, value in wanted.items())
                assert same, f"{way} must give the examples of encode, but example {number} is another"

    def test_a_batch_holds_tensors_of_its_rows(self) -> None:
        """What is collated are tensors whose first dimension is the rows."""
        model = self.model()
        examples = self._examples(model)
        for name, value in self.make().collate(examples, model).items():
            assert isinstance(value, torch.Tensor), f"{name} must be a tensor, but is {type(value).__name__}"
            assert value.shape[0] == len(examples), f"{name} must have a row an example, but is {value.shape}"

    def test_loss_is_the_mean_of_its_rows(self) -> None:
        """A batch's loss is the mean of its rows' losses, by the suite's `weight`: padding counts nothing."""
        model = self.model()
        examples = self._examples(model)
        weights = np.array([self.weight(example) for example in examples])
        losses = np.array([self._loss(model, [example]) for example in examples])
        expected, loss = float((weights * losses).sum() / weights.sum()), self._loss(model, examples)
        assert abs(loss - expected) <= TOLERANCE * max(1.0, abs(expected)), (
            f"a batch's loss must be the weighted mean of its rows', {expected:.6f}, but is {loss:.6f}"
        )

    def test_loss_is_a_mean_over_what_is_counted(self) -> None:
        """`count` goes by the suite's `weight` and adds up, so that small batches can have a large one's loss."""
        model, objective = self.model(), self.make()
        examples = self._examples(model)
        counts = np.array([objective.count(objective.collate([example], model)) for example in examples])
        weights = np.array([self.weight(example) for example in examples])
        assert np.allclose(counts / counts.sum(), weights / weights.sum()), (
            f"examples must count as much as they weigh in a batch's loss, {weights.tolist()}, but count "
            f"{counts.tolist()}"
        )
        whole = objective.count(objective.collate(examples, model))
        assert whole == counts.sum(), (
            f"a batch must count what its rows do, {counts.sum()}, but counts {whole}"
        )

    def test_loss_is_one_number_with_a_gradient(self) -> None:
        """The loss has no dimension and reaches the model's parameters."""
        model, objective = self.model(), self.make()
        batch = objective.collate(self._examples(model), model)
        loss = objective.loss(objective.forward(model.module, batch), batch)
        assert loss.ndim == 0, f"a loss must be one number, but its shape is {tuple(loss.shape)}"
        assert loss.requires_grad, "a loss must depend on the model's parameters, but has no gradient"

    def test_predictions_do_not_depend_on_the_batch_size(self) -> None:
        """An example's predictions are the same in a batch and alone."""
        model = self.model()
        examples = self._examples(model)
        together = self._predict(model, examples)
        alone = [self._predict(model, [example]) for example in examples]
        for name, column in together.items():
            single = np.concatenate([part[name] for part in alone])
            assert len(column) == len(examples), f"column {name} must be as long as the examples are many"
            same = (
                column.tolist() == single.tolist()
                if column.dtype == object
                else np.allclose(column, single, rtol=TOLERANCE, atol=TOLERANCE)
            )
            assert same, f"column {name} must not depend on the batch size, but does: {column} and {single}"

    def test_logits_do_not_depend_on_the_batch_size(self) -> None:
        """Where there are logits to compare, an example has the same in a batch and alone, all finite."""
        model, objective = self.model(), self.make()
        if type(objective).predicted_logits is Objective.predicted_logits:
            return
        examples = self._examples(model)
        with evaluating(model.module):
            together = objective.predicted_logits(model.module, examples, model)
            alone = [objective.predicted_logits(model.module, [each], model)[0] for each in examples]
        assert len(together) == len(examples), f"{len(examples)} examples must have as many logits"
        for number, (own, single) in enumerate(zip(together, alone, strict=True)):
            assert own.ndim == 2, f"logits must have the shape (predictions, classes), but have {own.shape}"
            assert own.isfinite().all(), f"logits must be finite, but those of example {number} are not"
            same = own.shape == single.shape and torch.allclose(own, single, rtol=TOLERANCE, atol=TOLERANCE)
            assert same, f"the logits of example {number} must not depend on the batch size, but do"

    def test_columns_are_those_that_it_names(self) -> None:
        """Where `columns` names what `predict` gives, it is just that."""
        model = self.model()
        named, given = set(self.make().columns(model)), set(self._predict(model, self._examples(model)))
        assert named in (set(), given), (
            f"columns must name what predict gives, {', '.join(sorted(given))}, but names "
            f"{', '.join(sorted(named))}"
        )

    def test_predictions_are_what_the_metrics_read(self) -> None:
        """Every metric that the objective names is a plugin, and gives a finite number."""
        model = self.model()
        columns = self._predict(model, self._examples(model))
        assert self.make().metrics, "an objective must name a metric, but names none"
        for name in self.make().metrics:
            try:
                metric = cast(Metric, self.registry().find("metric", name).cls())
                value = metric.value(metric.prepare(columns))
            except (PluginError, KeyError) as error:
                raise AssertionError(f"metric {name} cannot score the predictions: {error}") from error
            assert np.isfinite(value), f"metric {name} of the predictions must be finite, but is {value}"

    def test_shots_come_before_every_row(self) -> None:
        """Where rows can show others, each still gives one example, longer by the same tokens for all."""
        objective, model, rows = self.make(), self.model(), self.rows()
        try:
            behind = objective.encode_with_shots(rows, [rows[len(rows) - 1]], model)
        except ConfigurationError:
            return
        alone = self._examples(model)
        assert len(behind) == len(alone), (
            f"shots must give no examples of their own, but {len(alone)} rows give {len(behind)} with them"
        )
        longer = {
            objective.tokens(one) - objective.tokens(other) for one, other in zip(behind, alone, strict=True)
        }
        assert len(longer) == 1, f"shots must add the same tokens to every example, but add {sorted(longer)}"
        assert min(longer) > 0, "shots must add tokens to every example, but add none"

    def _examples(self, model: Model) -> list[Example]:
        examples = self.make().encode(self.rows(), model)
        return [examples[index] for index in range(len(examples))]

    def _loss(self, model: Model, examples: Sequence[Example]) -> float:
        objective = self.make()
        batch = objective.collate(examples, model)
        with evaluating(model.module):
            return float(objective.loss(objective.forward(model.module, batch), batch))

    def _predict(self, model: Model, examples: Sequence[Example]) -> Columns:
        with evaluating(model.module):
            return self.make().predict(model.module, examples, model)
