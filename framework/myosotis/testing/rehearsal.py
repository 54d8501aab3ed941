"""A real trial in the small, with witnesses in it: methods that change nothing and write down what they see."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pluggy
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from myosotis import hookspecs
from myosotis.cohort import Cohort, Control, run_trial
from myosotis.errors import ConfigurationError, PluginError
from myosotis.interfaces import Context, Method, Mixture, Model, ModelFactory, Rows, Share, Stage, Task
from myosotis.ledger import Score, read_scores
from myosotis.plugins import KINDS, Registry
from myosotis.resolve import TrialConfig
from myosotis.schema import EvaluationConfig, OptimizerConfig, ScheduleConfig, TrainerConfig
from myosotis.trial import TrialRun
from myosotis.workspace import Workspace

STEPS = 5
BATCH_SIZE = 4


class FrozenFirst(Method):
    """Freeze the first parameter of the base."""

    def frozen(self, model: Model) -> Collection[str]:
        """Name it."""
        return [next(name for name, _ in model.module.named_parameters())]


class Before(Method):
    """Stand before the method that is checked: know the base's own parameters.

    Attributes:
        parameters: the base's own parameters, which methods may train or leave.
        values: a copy of their values, before anything has trained.
        frozen_parameters: the names that no method may train.
    """

    def __init__(self) -> None:
        self.parameters: dict[str, nn.Parameter] = {}
        self.values: dict[str, Tensor] = {}
        self.frozen_parameters: frozenset[str] = frozenset()

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Take note of the base's parameters."""
        self.parameters = dict(model.module.named_parameters())
        self.frozen_parameters = context.frozen
        return model.module

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Copy their values before anything has trained: an adapter may have put others in place."""
        if not self.values:
            self.values = {name: value.detach().clone() for name, value in self.parameters.items()}


class After(Method):
    """Stand behind the method that is checked: see what it made.

    Attributes:
        starts: values of all that trains, when each stage begins.
        ends: the same, when each stage has ended.
        trained: identities of the parameters that train when a stage begins or ends.
        module: the adapted module.
        look: called when a stage begins, with the adapted module.
        look_back: called when a stage ends, with the adapted module.
        look_at_data: called with a stage's data, as the methods shaped it.
    """

    def __init__(
        self,
        look: Callable[[nn.Module, Context], None] | None = None,
        look_back: Callable[[nn.Module, Context], None] | None = None,
        look_at_data: Callable[[Mixture], None] | None = None,
    ) -> None:
        self.starts: list[dict[str, Tensor]] = []
        self.ends: list[dict[str, Tensor]] = []
        self.trained: set[int] = set()
        self.module = nn.Module()
        self.look = look
        self.look_back = look_back
        self.look_at_data = look_at_data

    def training_data(
        self, stage: Stage, data: Mixture, seen: Mapping[str, Rows], context: Context
    ) -> Mixture:
        """Show the mixture."""
        if self.look_at_data is not None:
            self.look_at_data(data)
        return data

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Copy what trains."""
        self.module = context.model.module
        self._see(self.starts)
        if self.look is not None:
            self.look(context.model.module, context)

    def end_stage(self, stage: Stage, context: Context) -> None:
        """Copy what trains."""
        self._see(self.ends)
        if self.look_back is not None:
            self.look_back(context.model.module, context)

    def _see(self, values: list[dict[str, Tensor]]) -> None:
        values.append(training_values(self.module))
        self.trained |= {id(each) for each in self.module.parameters() if each.requires_grad}


class StateKeeper(Method):
    """Take another method's state at every moment that a checkpoint may be written, and a copy of it.

    Attributes:
        taken: each state, as it was given and as it was then.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.taken: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def after_step(self, module: nn.Module, context: Context) -> None:
        """Take the state."""
        self._take()

    def end_stage(self, stage: Stage, context: Context) -> None:
        """Take the state."""
        self._take()

    def _take(self) -> None:
        state = self.method.state_dict()
        self.taken.append((state, copy.deepcopy(state)))


class Killed(Exception):
    """Stands for a killed process."""


class Killer(Method):
    """End the trial in a stage.

    Args:
        stage: the stage's index.
        step: after how many optimizer steps of it; at 0, when it begins.
    """

    def __init__(self, stage: int, step: int = 0) -> None:
        self.place = (stage, step)

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Raise at the stage's beginning."""
        self._kill_at(stage.index, 0)

    def after_step(self, module: nn.Module, context: Context) -> None:
        """Raise after the step."""
        self._kill_at(context.stage.index, context.step)

    def _kill_at(self, stage: int, step: int) -> None:
        if (stage, step) == self.place:
            raise Killed


def training_values(module: nn.Module) -> dict[str, Tensor]:
    """Copy the parameters that train."""
    named = module.named_parameters()
    return {name: value.detach().cpu().clone() for name, value in named if value.requires_grad}


@dataclass
class Rehearsal:
    """A trial of one method on tasks trained one after another.

    Attributes:
        folder: the trial's folder; the base's rows are kept beside it.
        stages: what is trained; one stage a task where not given.
        others: methods that stand beside the one that is checked, by name.
        name: what the method is called.
        trainer: settings of the trainer that are others than usual.
    """

    folder: Path
    factory: ModelFactory
    tasks: Mapping[str, Task]
    method: Method
    seed: int = 0
    stages: Sequence[Stage] | None = None
    others: Mapping[str, Method] = field(default_factory=dict)
    look: Callable[[nn.Module, Context], None] | None = None
    look_back: Callable[[nn.Module, Context], None] | None = None
    look_at_data: Callable[[Mixture], None] | None = None
    name: str = "method"
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.before = Before()
        self.after = After(self.look, self.look_back, self.look_at_data)

    def run(self) -> Rehearsal:
        """Run the trial, or go on with it where it was killed."""
        workspace = Workspace(self.folder.parent, registry_without_plugins())
        run_trial(self.config(), self.folder, "rehearsal", "rehearsal", workspace)
        return self

    def refusal(self) -> str | None:
        """Run the trial; say why it was refused, None where it ran to its end.

        Raises:
            AssertionError: as `refused`, or a score is not finite.
        """
        if (reason := refused(self.run)) is not None:
            return reason
        lost = [score for score in self.scores if not math.isfinite(score.value)]
        assert not lost, f"scores must be finite, but {lost[0].metric} of {lost[0].task} is {lost[0].value}"
        return None

    @property
    def scores(self) -> list[Score]:
        """What the trial has scored."""
        return read_scores(self.folder / "scores.jsonl")

    def config(self) -> TrialConfig:
        """Give the trial's configuration."""
        stages = self.stages
        if stages is None:
            stages = [Stage(index, {task: Share(1, 1)}) for index, task in enumerate(self.tasks, 1)]
        trainer = {"max_steps": STEPS, "batch_size": BATCH_SIZE, "accelerator": "cpu", **self.trainer}
        return TrialConfig(
            id="rehearsal",
            seed=self.seed,
            model=self.factory,
            methods={"before": self.before, self.name: self.method, **self.others, "after": self.after},
            tasks=self.tasks,
            stages=tuple(stages),
            trainer=TrainerConfig(**trainer),
            optimizer=OptimizerConfig(learning_rate=1e-2),
            schedule=ScheduleConfig(),
            evaluation=EvaluationConfig(resamples=100),
            resolved={},
            identities={name: name for name in ("model", *self.tasks)},
            logger=OmegaConf.create({}),
        )


def rehearse_together(rehearsals: Sequence[Rehearsal]) -> None:
    """Run trials of one model on the same tasks as a cohort.

    Raises:
        Exception: whatever befell one of them.
    """
    workspace = Workspace(rehearsals[0].folder.parent, registry_without_plugins())
    cohort = Cohort(workspace, Control())
    for number, rehearsal in enumerate(rehearsals):
        config = replace(rehearsal.config(), id=f"rehearsal {number}")
        cohort.add(TrialRun(config, rehearsal.folder, "rehearsal", "rehearsal", workspace))
    cohort.run()
    for failure in cohort.failures.values():
        raise failure


def refused(act: Callable[[], object]) -> str | None:
    """Do what may be refused; give the reason, None where it was done.

    Raises:
        AssertionError: it ended by something else than a ConfigurationError, or that gives no reason.
    """
    try:
        act()
    except AssertionError:
        raise
    except Exception as error:
        refuses = isinstance(error, ConfigurationError) and not isinstance(error, PluginError)
        # Without a reason, there is at most the place that the error came from, before a colon.
        if refuses and str(error).rpartition(":")[2].strip():
            return str(error)
        raise AssertionError(
            "a trial must run, or be refused by a ConfigurationError that says why, but ended with "
            f"{type(error).__name__}: {error}"
        ) from error
    return None


def registry_without_plugins() -> Registry:
    """Give a registry without plugins: observers of the environment have no part in a rehearsal."""
    manager = pluggy.PluginManager("myosotis")
    manager.add_hookspecs(hookspecs)
    return Registry(manager, {kind: {} for kind in KINDS}, ())


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Give each tensor and plain value of nested mappings and sequences, with its place."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from leaves(each, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from leaves(each, f"{path}[{index}]")
    else:
        yield path, value


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Name what differs, in any bit, between two mappings of tensors or plain values."""
    return [
        name
        for name in {**one, **other}
        if name not in one or name not in other or not _same(one[name], other[name])
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype
        return alike and bool(torch.equal(_bits(one), _bits(other)))
    return type(one) is type(other) and bool(one == other)


def _bits(value: Tensor) -> Tensor:
    return value.detach().cpu().reshape(-1).view(torch.uint8)
