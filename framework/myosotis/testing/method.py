"""The conformance suite of methods."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from myosotis.adaptation import Adapted, adapt, frozen_names
from myosotis.errors import first_line
from myosotis.evaluation import evaluating
from myosotis.interfaces import Context, Method, Mixture, ModelFactory, Stage, Task
from myosotis.stacking import Branch, obstacle
from myosotis.testing.penalty import Penalty
from myosotis.testing.plugin import PluginTestSuite, constructor_parameters
from myosotis.testing.rehearsal import (
    FrozenFirst,
    Killed,
    Killer,
    Rehearsal,
    StateKeeper,
    differences,
    leaves,
    rehearse_together,
)
from myosotis.testing.tiny import TinyModel, TinyQuantizedModel, tiny_tasks
from myosotis.trial import start_context

TOLERANCE = 1e-5


class MethodTestSuite(PluginTestSuite[Method]):
    """Checks a method in small real trials of two tasks, trained one after another.

    Give `make`; override `model`, `tasks` and `quantized` where the method needs more than two linear layers, and
    `make_neutral` where it can be set so that it does nothing.
    """

    def make_neutral(self) -> Method | None:
        """Make the method at the setting that does nothing, such as a strength of 0; None where there is none."""
        return None

    def neutral_reference(self) -> Method:
        """Make what `make_neutral` must equal: no method, which is full fine-tuning."""
        return Method()

    def model(self) -> ModelFactory:
        """Give the base."""
        return TinyModel()

    def tasks(self) -> Mapping[str, Task]:
        """Give two tasks or more."""
        return tiny_tasks()

    def quantized(self) -> tuple[ModelFactory, Mapping[str, Task]]:
        """Give a base in 8 bits, and two tasks for it."""
        return TinyQuantizedModel(), tiny_tasks()

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
        return obstacle(branch, adapt(model, methods, context, trains=True).model.module)

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
        """Before training, the adapted model scores as the base does, unless the method sets `changes_base`."""
        if self.make().changes_base:
            return
        rehearsal = self.rehearse(tmp_path / "trial", stages=[Stage(1, {})])
        rows: list[dict[tuple[str, str], float]] = [{}, {}]
        for score in rehearsal.scores:
            rows[score.stage][score.task, score.metric] = score.value
        for key, value in rows[0].items():
            assert abs(rows[1][key] - value) <= TOLERANCE * max(1.0, abs(value)), (
                f"{key[1]} of {key[0]} must be the base's {value} before training, but is {rows[1][key]}; "
                "where adapting changes what is predicted, set changes_base = True"
            )

    def test_frozen_parameters_do_not_change(self, tmp_path: Path) -> None:
        """What this or another method freezes stays in the model; what never trains is the same to the bit."""
        rehearsal = self.rehearse(tmp_path / "trial", others={"frozen_first": FrozenFirst()})
        before, after = rehearsal.before, rehearsal.after
        kept = {id(parameter) for parameter in after.module.parameters()}
        lost = [name for name in before.frozen_parameters if id(before.parameters[name]) not in kept]
        assert not lost, (
            f"adapt must keep the base's own parameters, but another stands for {sorted(lost)[:3]}"
        )
        still = {name: each for name, each in before.parameters.items() if id(each) in kept - after.trained}
        changed = differences(still, {name: before.values[name] for name in still})
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
                seen = replace(context, rows=group.rows)
                loss = method.loss(module, group.batch, outputs, seen)
                penalty = method.penalty(module, group.batch, outputs, seen)
                _check_scalar("loss", loss)
                _check_scalar("penalty", penalty)
                assert loss is None or loss.requires_grad, (
                    "loss must depend on what trains, but has no gradient"
                )

        Rehearsal(tmp_path / "trial", self.model(), self.tasks(), method, look=look).run()

    def test_penalty_is_0_at_its_anchor_and_positive_off_it(self, tmp_path: Path) -> None:
        """The penalty is 0 when the second stage begins, unless `anchored` is False, and positive elsewhere."""
        anchored = self.make().anchored

        def look(penalty: Penalty) -> None:
            away = penalty.at((1, penalty.direction())).item()
            assert away > 0, f"penalty must be positive where what trains has moved, but is {away}"
            assert not anchored or abs(penalty.first) <= TOLERANCE * away, (
                f"penalty must be 0 where it holds what trains to, but is {penalty.first}, and {away} elsewhere; "
                "where it holds it to another place than the second stage begins at, set anchored = False"
            )

        self._look_at_penalty(tmp_path, look)

    def test_penalty_has_its_own_gradient(self, tmp_path: Path) -> None:
        """The penalty's gradient agrees with central finite differences: nothing of it is cut off."""
        self._look_at_penalty(tmp_path, Penalty.check_gradient)

    def _look_at_penalty(self, folder: Path, look_at: Callable[[Penalty], None]) -> None:
        method = self.make()
        if type(method).penalty is Method.penalty:
            return

        def look(module: nn.Module, context: Context) -> None:
            if context.stage.index == 2:
                look_at(Penalty(method, module, context))
                raise Killed

        _run_until_killed(Rehearsal(folder / "trial", self.model(), self.tasks(), method, look=look))

    def test_a_strength_of_0_is_no_method(self, tmp_path: Path) -> None:
        """What `make_neutral` gives ends with the parameters and scores of `neutral_reference`, to the bit."""
        neutral = self.make_neutral()
        if neutral is None:
            return
        without, found = (
            Rehearsal(tmp_path / name, self.model(), self.tasks(), method).run()
            for name, method in (("reference", self.neutral_reference()), ("neutral", neutral))
        )
        changed = differences(without.after.ends[-1], found.after.ends[-1])
        assert not changed, f"a strength of 0 must change no parameter, but {sorted(changed)[:3]} differ"
        assert found.scores == without.scores, "a strength of 0 must change no score, but some differ"

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
        self._kill(folder, Killer(stage=2))
        try:
            resumed = self.rehearse(folder).after.ends[-1]
        except pickle.UnpicklingError as error:
            raise AssertionError(f"state_dict must give tensors and plain values only: {error}") from error
        _check_resumed(whole, resumed)

    def test_a_trial_killed_within_a_stage_goes_on_exactly(self, tmp_path: Path) -> None:
        """A trial that is killed a step after a checkpoint, in each of its stages, ends as one that was not.

        Going on, the method begins the stage anew before its state comes back.
        """
        whole = self.rehearse(tmp_path / "whole" / "trial").after.ends[-1]
        folder, trainer = tmp_path / "killed" / "trial", {"checkpoint_every_n_steps": 2}
        for stage in (1, 2):
            self._kill(folder, Killer(stage, step=3), trainer=trainer)
        _check_resumed(whole, self.rehearse(folder, trainer=trainer).after.ends[-1])

    def _kill(self, folder: Path, killer: Killer, **settings: Any) -> None:
        others = {"killer": killer}
        _run_until_killed(
            Rehearsal(folder, self.model(), self.tasks(), self.make(), others=others, **settings)
        )

    def test_state_can_be_saved_and_stays_as_it_was_given(self, tmp_path: Path) -> None:
        """What `state_dict` gives is the same when it is read back with `weights_only=True`, and after later steps.

        So it must hold tensors and plain values alone, and copies of what the next steps write into.
        """
        method = self.make()
        if type(method).state_dict is Method.state_dict:
            return
        keeper = StateKeeper(method)
        Rehearsal(tmp_path / "trial", self.model(), self.tasks(), method, others={"keeper": keeper}).run()
        _, last = keeper.taken[-1]
        changed = _different(_read_back(last), last)
        assert not changed, f"a state must be the same when it is read back, but {changed[0]} is not"
        for given, then in keeper.taken:
            changed = _different(given, then)
            assert not changed, (
                f"a state must stay as it was given, but {changed[0]} changed; give a copy of what is written into"
            )

    def test_bf16_mixed_runs_or_is_refused(self, tmp_path: Path) -> None:
        """With `trainer.precision=bf16-mixed` all losses are finite, or an error that names bf16 refuses it."""
        trainer = {"precision": "bf16-mixed", "log_every_n_steps": 1}
        rehearsal = Rehearsal(tmp_path / "trial", self.model(), self.tasks(), self.make(), trainer=trainer)
        reason = rehearsal.refusal()
        assert reason is None or "bf16" in reason, f"the refusal must name bf16, but says: {reason}"

    def test_an_8_bit_base_runs_or_is_refused(self, tmp_path: Path) -> None:
        """On a base in 8 bits a trial leaves its whole numbers alone, or an error that says why refuses it."""
        rehearsal = Rehearsal(tmp_path / "trial", *self.quantized(), self.make())
        if rehearsal.refusal() is not None:
            return
        before = rehearsal.before
        whole = {name: each for name, each in before.parameters.items() if not each.is_floating_point()}
        changed = differences(whole, {name: before.values[name] for name in whole})
        assert not changed, f"quantized weights must not change, but {sorted(changed)[:3]} did"

    def test_variants_leave_the_model_as_it_was(self, tmp_path: Path) -> None:
        """After each of its `variants` the model is the trained one again, to the bit."""
        method = self.make()
        if type(method).variants is Method.variants:
            return

        def look_back(module: nn.Module, context: Context) -> None:
            before = _all_of(module, context)
            for name, opened in method.variants(module, context).items():
                with opened():
                    pass
                changed = differences(before, _all_of(module, context))
                assert not changed, (
                    f"after the variant {name} the model must be as before, but {changed[0]} is not"
                )

        Rehearsal(tmp_path / "trial", self.model(), self.tasks(), method, look_back=look_back).run()

    def _adapted(self, folder: Path, outline: bool) -> Adapted:
        config = Rehearsal(folder, self.model(), self.tasks(), self.make()).config()
        model = (config.model.outline if outline else config.model.load)(config.objectives)
        context = start_context(config, model, frozen_names(model, config.methods), outline=outline)
        torch.manual_seed(0)
        return adapt(model, config.methods, context, trains=True)


def _run_until_killed(rehearsal: Rehearsal) -> None:
    try:
        rehearsal.run()
    except Killed:
        return
    raise AssertionError("a trial must have two stages of some steps, but ended before it was to be killed")


def _check_resumed(whole: Mapping[str, Any], resumed: Mapping[str, Any]) -> None:
    changed = differences(whole, resumed)
    assert not changed, f"a resumed trial must end as an unbroken one, but {sorted(changed)[:3]} differ"


def _different(one: Any, other: Any) -> list[str]:
    return differences(dict(leaves(one)), dict(leaves(other)))


def _read_back(state: dict[str, Any]) -> Any:
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError) as error:
        raise AssertionError(
            f"state_dict must give tensors and plain values only: {first_line(error)}"
        ) from error


def _all_of(module: nn.Module, context: Context) -> dict[str, Any]:
    """Copy all that a module holds, with what trains, how each part runs, and the loss on a batch."""
    found: dict[str, Any] = {name: value.clone() for name, value in module.state_dict().items()}
    found |= {f"{name}.requires_grad": each.requires_grad for name, each in module.named_parameters()}
    found |= {f"{name}.training": each.training for name, each in module.named_modules()}
    with evaluating(module):
        return {**found, "the loss": context.training_loss(module, next(context.training_batches(4)))}


def _check_scalar(hook: str, value: Any) -> None:
    if value is None:
        return
    assert isinstance(value, torch.Tensor), (
        f"{hook} must give a tensor or None, but gives {type(value).__name__}"
    )
    assert value.ndim == 0, f"{hook} must give one number, but its shape is {tuple(value.shape)}"
    assert math.isfinite(value.item()), f"{hook} must be finite, but is {value.item()}"
