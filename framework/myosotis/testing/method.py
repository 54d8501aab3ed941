"""The conformance suite of methods."""

from __future__ import annotations

import contextlib
import math
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from myosotis.adaptation import Adapted, adapt, frozen_names
from myosotis.interfaces import Context, Method, Mixture, ModelFactory, Stage, Task
from myosotis.stacking import Branch, obstacle
from myosotis.testing.plugin import PluginTestSuite, constructor_parameters
from myosotis.testing.rehearsal import (
    FrozenFirst,
    Killed,
    Killer,
    Rehearsal,
    differences,
    rehearse_together,
)
from myosotis.testing.tiny import TinyMetric, TinyModel, TinyObjective, TinyTask, make_task
from myosotis.trial import start_context

TOLERANCE = 1e-5


class MethodTestSuite(PluginTestSuite[Method]):
    """Checks a method in small real trials of two tasks, trained one after another.

    Give `make`; override `model` and `tasks` where the method needs more than two linear layers.

    Attributes:
        changes_base: whether the adapted model predicts something else than the base before it is trained.
    """

    changes_base: bool = False

    def model(self) -> ModelFactory:
        """Give the base."""
        return TinyModel()

    def tasks(self) -> Mapping[str, Task]:
        """Give two tasks or more."""
        objective, metrics = TinyObjective(), {"tiny": TinyMetric()}
        return {
            name: make_task(name, TinyTask(seed), objective, metrics)
            for seed, name in enumerate(("first", "second"))
        }

    def rehearse(self, folder: Path, **settings: Any) -> Rehearsal:
        """Run a trial of the method in a folder."""
        return Rehearsal(folder, self.model(), self.tasks(), self.make(), **settings).run()

    def test_cohort_fields_are_parameters(self) -> None:
        """`cohort_fields` names constructor parameters."""
        cls = type(self.make())
        unknown = cls.cohort_fields - {parameter.name for parameter in constructor_parameters(cls)}
        assert not unknown, f"cohort_fields must name parameters, but names {sorted(unknown)}"

    def test_a_cohort_gives_the_numbers_of_each_trial_alone(self, tmp_path: Path) -> None:
        """Where `cohort_fields` says so, trials that share a forward pass score as each does alone."""
        if not type(self.make()).cohort_fields or self._obstacle(tmp_path) is not None:
            return
        alone = [self.rehearse(tmp_path / f"alone {seed}", seed=seed) for seed in (0, 1)]
        together = [
            Rehearsal(tmp_path / f"together {seed}", self.model(), self.tasks(), self.make(), seed=seed)
            for seed in (0, 1)
        ]
        rehearse_together(together)
        for one, other in zip(alone, together, strict=True):
            for expected, found in zip(one.scores, other.scores, strict=True):
                assert abs(found.value - expected.value) <= TOLERANCE * max(1.0, abs(expected.value)), (
                    f"in a cohort, {found.metric} of {found.task} after stage {found.stage} must be "
                    f"{expected.value}, as of the trial alone, but is {found.value}"
                )

    def _obstacle(self, folder: Path) -> str | None:
        rehearsal = Rehearsal(folder / "trial", self.model(), self.tasks(), self.make())
        base = rehearsal.factory.load([task.objective for task in rehearsal.tasks.values()])
        branch, methods = Branch(base.module), {"method": self.make()}
        model = replace(base, module=branch.module)
        context = start_context(rehearsal.config(), model, frozen_names(model, methods), outline=False)
        return obstacle(branch, adapt(model, methods, context, trains=False).model.module)

    def test_says_what_it_stores(self) -> None:
        """A method with state says on its class what it keeps between stages."""
        cls = type(self.make())
        if cls.state_dict is not Method.state_dict:
            assert cls.stores != Method.stores, "stores must say what state_dict keeps between stages"

    def test_adapts_an_outline(self, tmp_path: Path) -> None:
        """On the meta device the same parameters train as on the loaded model, and none gets values."""
        outlined = self._adapted(tmp_path, outline=True)
        loaded = self._adapted(tmp_path, outline=False)
        real = [name for name, value in outlined.model.module.named_parameters() if not value.is_meta]
        assert not real, f"an outline's parameters must stay on the meta device, but {real[0]} has values"
        shapes = [
            {name: tuple(value.shape) for name, value in adapted.trainable().items()}
            for adapted in (outlined, loaded)
        ]
        assert shapes[0] == shapes[1], (
            "the same parameters must train on an outline as on the loaded model, but these do not: "
            f"{sorted(set(shapes[0].items()) ^ set(shapes[1].items()))[:3]}"
        )

    def test_first_evaluation_is_the_base(self, tmp_path: Path) -> None:
        """Before training, the adapted model scores as the base does."""
        if self.changes_base:
            return
        rehearsal = self.rehearse(tmp_path / "trial", stages=[Stage(1, {})])
        rows: list[dict[tuple[str, str], float]] = [{}, {}]
        for score in rehearsal.scores:
            rows[score.stage][score.task, score.metric] = score.value
        for key, value in rows[0].items():
            assert abs(rows[1][key] - value) <= TOLERANCE * max(1.0, abs(value)), (
                f"{key[1]} of {key[0]} must be the base's {value} before training, but is {rows[1][key]}"
            )

    def test_frozen_parameters_do_not_change(self, tmp_path: Path) -> None:
        """What this or another method freezes stays in the model, and is the same to the bit after training."""
        rehearsal = self.rehearse(tmp_path / "trial", others={"frozen_first": FrozenFirst()})
        before = rehearsal.before
        frozen = {name: before.parameters[name] for name in before.frozen_parameters}
        kept = {id(parameter) for parameter in rehearsal.after.module.parameters()}
        lost = [name for name, parameter in frozen.items() if id(parameter) not in kept]
        assert not lost, (
            f"adapt must keep the base's own parameters, but another stands for {sorted(lost)[:3]}"
        )
        changed = differences(frozen, {name: before.values[name] for name in frozen})
        assert not changed, f"frozen parameters must not change, but {sorted(changed)[:3]} did"

    def test_something_trains(self, tmp_path: Path) -> None:
        """Each stage changes a parameter."""
        after = self.rehearse(tmp_path / "trial").after
        for index, (start, end) in enumerate(zip(after.starts, after.ends, strict=True), 1):
            assert differences(start, end), (
                f"training must change a parameter, but stage {index} changed none"
            )

    def test_loss_and_penalty_are_finite_scalars(self, tmp_path: Path) -> None:
        """On a batch of each stage, `loss` and `penalty` give None or one finite number."""
        method = self.make()

        def look(module: nn.Module, context: Context) -> None:
            for group in next(context.training_batches(2)).groups:
                outputs = group.objective.forward(module, group.batch)
                loss = method.loss(module, group.batch, outputs, context)
                penalty = method.penalty(module, group.batch, outputs, context)
                _check_scalar("loss", loss)
                _check_scalar("penalty", penalty)
                assert loss is None or loss.requires_grad, (
                    "loss must depend on what trains, but has no gradient"
                )

        Rehearsal(tmp_path / "trial", self.model(), self.tasks(), method, look=look).run()

    def test_parameter_groups_hold_what_trains_once(self, tmp_path: Path) -> None:
        """`parameter_groups` gives None, or every parameter that trains exactly once."""
        method = self.make()

        def look(module: nn.Module, context: Context) -> None:
            groups = method.parameter_groups(module, context)
            if groups is None:
                return
            given = [id(parameter) for group in groups for parameter in group["params"]]
            training = {id(each): name for name, each in module.named_parameters() if each.requires_grad}
            missing = [name for key, name in training.items() if key not in given]
            assert not missing, f"parameter groups must hold all that trains, but lack {missing[:3]}"
            assert len(given) == len(set(given)), "a parameter must be in one group, but one is in several"
            assert set(given) <= set(training), "parameter groups must not hold what is frozen, but do"

        Rehearsal(tmp_path / "trial", self.model(), self.tasks(), method, look=look).run()

    def test_training_data_is_a_mixture(self, tmp_path: Path) -> None:
        """Every stage's shares are positive and sum to 1, and its rows are of known tasks."""

        def look_at_data(mixture: Mixture) -> None:
            assert mixture, "a stage's mixture must have a component, but has none"
            unknown = {component.task for component in mixture} - set(self.tasks())
            assert not unknown, f"a mixture's rows must be of the trial's tasks, but some are of {unknown}"
            assert all(len(component.rows) for component in mixture), (
                "a component must have rows, but has none"
            )
            for progress in (0.0, 0.5, 1.0):
                shares = [component.share.at(progress) for component in mixture]
                assert min(shares) >= 0, f"a share must not be negative, but one is {min(shares)}"
                assert abs(sum(shares) - 1) < TOLERANCE, f"shares must sum to 1, but sum to {sum(shares)}"

        self.rehearse(tmp_path / "trial", look_at_data=look_at_data)

    def test_same_seed_gives_the_same_parameters(self, tmp_path: Path) -> None:
        """Two trials with one seed end with the same parameters, to the bit."""
        ends = [self.rehearse(tmp_path / name / "trial").after.ends[-1] for name in ("one", "other")]
        changed = differences(*ends)
        assert not changed, f"one seed must give the same parameters, but {sorted(changed)[:3]} differ"

    def test_a_killed_trial_goes_on_exactly(self, tmp_path: Path) -> None:
        """A trial that is killed between its stages, and resumed, ends as one that was not, to the bit.

        This is what `state_dict` and `load_state_dict` are for: all that they give must survive
        `torch.save` and `torch.load(weights_only=True)`.
        """
        whole = self.rehearse(tmp_path / "whole" / "trial").after.ends[-1]
        folder = tmp_path / "killed" / "trial"
        with contextlib.suppress(Killed):
            self.rehearse(folder, others={"killer": Killer()})
        try:
            resumed = self.rehearse(folder).after.ends[-1]
        except pickle.UnpicklingError as error:
            raise AssertionError(f"state_dict must give tensors and plain values only: {error}") from error
        changed = differences(whole, resumed)
        assert not changed, f"a resumed trial must end as an unbroken one, but {sorted(changed)[:3]} differ"

    def _adapted(self, folder: Path, outline: bool) -> Adapted:
        config = Rehearsal(folder, self.model(), self.tasks(), self.make()).config()
        model = (config.model.outline if outline else config.model.load)(config.objectives)
        context = start_context(config, model, frozen_names(model, config.methods), outline=outline)
        torch.manual_seed(0)
        return adapt(model, config.methods, context, trains=True)


def _check_scalar(hook: str, value: Any) -> None:
    if value is None:
        return
    assert isinstance(value, torch.Tensor), (
        f"{hook} must give a tensor or None, but gives {type(value).__name__}"
    )
    assert value.ndim == 0, f"{hook} must give one number, but its shape is {tuple(value.shape)}"
    assert math.isfinite(value.item()), f"{hook} must be finite, but is {value.item()}"
