"""What a trial has to do and how large it is: steps, tokens, scorings, what trains. Nothing is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from myosotis.adaptation import adapt, frozen_names
from myosotis.batches import EncodedPart, mean_length, stage_batches
from myosotis.checkpoint import START, Position
from myosotis.curriculum import Part, drawn_length, tempered
from myosotis.evaluation import Runtime, choose_runtime
from myosotis.interfaces import Model, Share, Stage
from myosotis.ledger import content_hash
from myosotis.measure import STATES
from myosotis.resolve import TrialConfig
from myosotis.stacking import Branch
from myosotis.trial import start_context
from myosotis.trial_data import DEFAULT_STEPS
from myosotis.workspace import Workspace


@dataclass(frozen=True)
class Work:
    """What of a trial is left: optimizer steps, their tokens, scorings of all tasks, stages."""

    steps: int
    tokens: int
    evaluations: int
    stages: int


@dataclass
class Workload:
    """Says how much trials have to do; what trials have in common is counted once.

    Methods that change a stage's data may change its tokens; that is not counted.

    Attributes:
        workspace: encodes the data.
    """

    workspace: Workspace
    _stages: dict[str, tuple[int, int]] = field(default_factory=dict)
    _means: dict[str, float] = field(default_factory=dict)

    def __call__(self, config: TrialConfig, at: Position) -> Work:
        """Count what is left of a trial from a position on."""
        steps = tokens = evaluations = stages = 0
        for stage in config.stages:
            whole, whole_tokens = self._stage(config, stage)
            done = _done(stage, whole, at)
            if done is None:
                continue
            stages += 1
            steps += whole - done
            tokens += round(whole_tokens * (whole - done) / max(1, whole))
            evaluations += 1 + _between(config.evaluation.every, done, whole)
        return Work(steps, tokens, evaluations, stages)

    def _stage(self, config: TrialConfig, stage: Stage) -> tuple[int, int]:
        """Give a stage's optimizer steps and tokens."""
        if not config.trains_in(stage):
            return 0, 0
        trainer = config.trainer
        lengths = [trainer.max_steps, trainer.max_epochs, trainer.max_tokens]
        sizes = [trainer.rows_a_batch, trainer.accumulate_grad_batches]
        shares = {config.identities[task]: share for task, share in stage.shares.items()}
        alike = asdict(replace(stage, index=0, shares=shares))
        key = content_hash([config.identities["model"], alike, lengths, sizes])
        if key not in self._stages:
            self._stages[key] = self._count(config, stage)
        return self._stages[key]

    def _count(self, config: TrialConfig, stage: Stage) -> tuple[int, int]:
        trainer = config.trainer
        parts = tempered(stage, [self._part(config, task, share) for task, share in stage.shares.items()])
        batches = stage_batches(trainer, stage, parts, DEFAULT_STEPS)
        tokens = batches * trainer.rows_a_batch * drawn_length(parts, stage.by)
        return batches // trainer.accumulate_grad_batches, round(tokens)

    def _part(self, config: TrialConfig, name: str, share: Share) -> Part:
        task, identity, model = config.tasks[name], config.identities[name], config.identities["model"]
        base = self.workspace.base(config, runtime_of(config))
        examples = self.workspace.examples(task, identity, "train", base, model)
        if identity not in self._means:
            self._means[identity] = mean_length([EncodedPart(task, examples)])
        return Part(name, len(examples), share, self._means[identity])


def _done(stage: Stage, steps: int, at: Position) -> int | None:
    """Give how many of a stage's steps are done; None where all of it is over."""
    if at == START or at.stage < stage.index:
        return 0
    return at.step if at.stage == stage.index and at.step < steps else None


def _between(every: int, done: int, whole: int) -> int:
    """Count the evaluations in the middle of a stage."""
    return (max(0, whole - 1) // every) - done // every if every else 0


@dataclass(frozen=True)
class Size:
    """How many numbers of a model train, and how many do not."""

    trainable: int
    frozen: int

    def least_bytes(self, optimizer: str) -> float:
        """Give what a trial needs at the very least: numbers of 16 bits that train, of 4 bits that do not."""
        return 2 * self.trainable * (2 + STATES[optimizer]) + self.frozen / 2


@dataclass
class Sizes:
    """Counts what trains, on models' outlines."""

    _outlines: dict[str, Model] = field(default_factory=dict)
    _sizes: dict[str, Size] = field(default_factory=dict)

    def __call__(self, config: TrialConfig) -> Size:
        """Count what trains in a trial."""
        objectives = sorted(str(task.dataset.objective()) for task in config.tasks.values())
        base = content_hash([config.identities["model"], objectives])
        key = content_hash([base, config.resolved["method"], config.trains])
        if base not in self._outlines:
            self._outlines[base] = config.model.outline(config.objectives)
        if key not in self._sizes:
            self._sizes[key] = _size(config, self._outlines[base])
        return self._sizes[key]


def _size(config: TrialConfig, outline: Model) -> Size:
    model = replace(outline, module=Branch(outline.module).module)
    context = start_context(config, model, frozen_names(model, config.methods), outline=True)
    adapted = adapt(model, config.methods, context, config.trains)
    trainable = sum(each.numel() for each in adapted.trainable().values())
    return Size(trainable, sum(each.numel() for each in adapted.model.module.parameters()) - trainable)


def runtime_of(config: TrialConfig) -> Runtime:
    """Give where a trial computes."""
    return choose_runtime(config.trainer.accelerator, config.trainer.precision)
