"""What a trial trains on and what it is scored on, as its methods shape it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from myosotis.batches import BatchLoader, EncodedPart, sampled, stage_batches
from myosotis.curriculum import MixtureSampler, tempered
from myosotis.interfaces import Component, Context, Example, Mixture, Model, Rows, Stage, Task
from myosotis.ranks import Ranks
from myosotis.resolve import TrialConfig
from myosotis.seeds import derive_seed
from myosotis.workspace import Workspace, chosen, encode

DEFAULT_STEPS = 60
"""Optimizer steps a stage where the configuration gives no length."""


@dataclass(frozen=True)
class TrialData:
    """The data of one trial, of which what all trials have alike is in the workspace."""

    config: TrialConfig
    workspace: Workspace

    def loader(self, stage: Stage, context: Context, ranks: Ranks, together: bool) -> BatchLoader:
        """Lay out a stage's batches.

        Args:
            stage: with its shares as they are drawn.
            context: as it is at the stage's beginning.
            ranks: the processes among which each batch's rows are dealt out.
            together: whether these run the module together.
        """
        trainer, model = self.config.trainer, context.model
        mixture = self._mixture(stage, context)
        parts = [self._encoded(component, model) for component in mixture]
        drawn = sampled(trainer, stage, parts, [component.share for component in mixture])
        sampler = MixtureSampler(
            drawn,
            trainer.rows_a_batch,
            stage_batches(trainer, stage, drawn, DEFAULT_STEPS),
            derive_seed(self.config.seed, "order", stage.index),
            stage.by,
            (lambda place: parts[place[0]].length(place[1])) if trainer.bucket_by_length else None,
        )
        return BatchLoader(parts, sampler, model, trainer.accumulate_grad_batches, ranks, together)

    def tempered(self, stage: Stage, model: Model) -> Stage:
        """Give a stage the shares that depend on its tasks' sizes, as they are before methods shape its data."""
        if stage.temperature is None:
            return stage
        own = [self._encoded(component, model) for component in self._own(stage)]
        parts = tempered(stage, sampled(self.config.trainer, stage, own, stage.shares.values()))
        return replace(stage, shares={part.task: part.share for part in parts})

    def _own(self, stage: Stage) -> Mixture:
        return tuple(
            Component(task, self._rows(task, "train"), share) for task, share in stage.shares.items()
        )

    def _mixture(self, stage: Stage, context: Context) -> Mixture:
        earlier = self.config.stages[: stage.index - 1]
        seen = {task: self._rows(task, "train") for done in earlier for task in done.tasks}
        mixture = self._own(stage)
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, "data", stage.index))
        for method in self.config.methods.values():
            mixture = method.training_data(stage, mixture, seen, replace(context, generator=generator))
        return mixture

    def _rows(self, task: str, split: str) -> Rows:
        return self.workspace.rows(self.config.tasks[task], self.config.identities[task], split)

    def _encoded(self, component: Component, model: Model) -> EncodedPart:
        task, identities = self.config.tasks[component.task], self.config.identities
        if component.rows is not self._rows(task.name, "train"):
            return EncodedPart(task, encode(task, component.rows, model, "train"))
        identity = identities[task.name]
        examples = self.workspace.examples(task, identity, "train", model, identities["model"])
        return EncodedPart(task, examples, f"{identity}-train")

    def held_out(self, task: Task, model: Model) -> Sequence[Example]:
        """Give what early stopping watches of a task."""
        split, identities = self.config.trainer.early_stopping.split, self.config.identities
        evaluation = replace(self.config.evaluation, split=split, shots=0)  # as training has none
        return self.workspace.evaluated(task, identities[task.name], model, identities["model"], evaluation)

    def evaluated(self, task: Task, context: Context) -> Sequence[Example]:
        """Give what a task is evaluated on, after the methods have made ready for it."""
        for method in self.config.methods.values():
            method.before_evaluation(task, context)
        evaluation, identities = self.config.evaluation, self.config.identities
        plain = self._rows(task.name, evaluation.split)
        rows = self._rewritten(task, plain, context)
        model, identity = context.model, identities[task.name]
        if rows is plain:
            return self.workspace.evaluated(task, identity, model, identities["model"], evaluation)
        drawn = self.workspace.shots(task, identity, evaluation)
        rewritten = self._rewritten(task, drawn, context) if drawn else drawn
        shots = [rewritten[index] for index in range(len(rewritten))]
        examples = encode(task, rows, model, evaluation.split, shots)
        return chosen(task.objective, examples, evaluation)

    def _rewritten(self, task: Task, rows: Rows, context: Context) -> Rows:
        for method in self.config.methods.values():
            rows = method.evaluation_data(task, rows, context)
        return rows
