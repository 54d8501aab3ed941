"""One trial, from its base row to its result: adapt, then for each stage train, close, evaluate."""

from __future__ import annotations

import math
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn

from myosotis import forgetting
from myosotis.adaptation import Adapted, adapt, frozen_names
from myosotis.checkpoint import Checkpoint, Costs
from myosotis.curriculum import MixtureSampler, Part
from myosotis.errors import located
from myosotis.evaluation import Runtime, choose_runtime, predict, score
from myosotis.interfaces import Component, Context, Mixture, Model, Rows, Stage, Task
from myosotis.ledger import Score, read_scores, write_json, write_scores, write_text
from myosotis.manifest import environment, parameters_by_module, peak_memory
from myosotis.resolve import TrialConfig
from myosotis.seeds import derive_seed, seed_everything
from myosotis.tracking import Tracker, check_logger, open_logger
from myosotis.workspace import Workspace, encode, limited

DEFAULT_STEPS = 60
"""Optimizer steps a stage where the configuration gives no length."""

Progress = Callable[[int, int], None]
"""Called with the optimizer steps done in the trial, and those that it takes."""


def check_trial(config: TrialConfig, workspace: Workspace) -> None:
    """Find what would stop a trial before anything trains: data, weights, shapes, nothing to train.

    Raises:
        ConfigurationError: says what is wrong and what to do.
    """
    choose_runtime(config.trainer.accelerator, config.trainer.precision)
    for task in config.tasks.values():
        identity = config.identities[task.name]
        with located(f"{'dataset' if task.role == 'task' else task.role}.{task.name}"):
            workspace.rows(task, identity, config.evaluation.split)
            if any(task.name in stage.tasks for stage in config.stages):
                workspace.rows(task, identity, "train")
    with located("model"):
        model = config.model.outline(config.objectives)
    context = start_context(config, model, frozen_names(model, config.methods), outline=True)
    adapt(model, config.methods, context, config.trains)
    check_logger(config.logger)
    if config.trains:
        _check_training(config)


def _check_training(config: TrialConfig) -> None:
    # Lightning takes seconds to import, which a finished study's rerun does not pay.
    from myosotis import training

    runtime = choose_runtime(config.trainer.accelerator, config.trainer.precision)
    with training.quiet_lightning():
        training.make_engine(config.trainer, runtime, 1, [])


def run_trial(
    config: TrialConfig,
    folder: Path,
    study: str,
    name: str,
    workspace: Workspace,
    progress: Progress = lambda done, total: None,
) -> None:
    """Run a trial, or go on with it after its last finished stage; `result.json` is written last.

    Raises:
        Exception: whatever befell the trial, after writing it to `error.txt`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "error.txt").unlink(missing_ok=True)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config.resolved))))
    hook = workspace.registry.hook
    hook.myosotis_trial_started(trial=config.id, folder=folder)
    run = {"study": study, "trial": config.id, "name": name, "folder": str(folder)}
    tracker = Tracker(folder)
    try:
        tracker.logger = open_logger(config.logger, run)
        _TrialRun(config, folder, workspace, tracker, progress).run()
    except Exception as error:
        text = f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}"
        write_text(folder / "error.txt", text)
        tracker.fail()
        hook.myosotis_trial_finished(trial=config.id, folder=folder, status="failed")
        raise
    hook.myosotis_trial_finished(trial=config.id, folder=folder, status="finished")


def start_context(config: TrialConfig, model: Model, frozen: frozenset[str], outline: bool) -> Context:
    """Make the context of a trial before its first stage."""

    def no_batches(batch_size: int) -> Iterator[Any]:
        return iter(())

    def no_loss(module: nn.Module, batch: Any) -> torch.Tensor:
        raise RuntimeError("there is no training loss before the first stage")

    return Context(
        model=model,
        tasks=config.tasks,
        stage=Stage(0, {}),
        step=0,
        steps=0,
        generator=torch.Generator().manual_seed(derive_seed(config.seed, "adapt")),
        frozen=frozen,
        outline=outline,
        training_loss=no_loss,
        training_batches=no_batches,
    )


class _TrialRun:
    """A trial while it runs."""

    def __init__(
        self, config: TrialConfig, folder: Path, workspace: Workspace, tracker: Tracker, progress: Progress
    ) -> None:
        self.config = config
        self.folder = folder
        self.workspace = workspace
        self.tracker = tracker
        self.progress = progress
        self.runtime: Runtime = choose_runtime(config.trainer.accelerator, config.trainer.precision)
        self.costs = Costs()
        self.scores: list[Score] = []

    def run(self) -> None:
        """Run every stage that is not yet finished, and write the result."""
        started = time.perf_counter()
        seed_everything(derive_seed(self.config.seed, "load"))
        model = self.config.model.load(self.config.objectives)
        base = self._base_row(model)
        total = sum(parameter.numel() for parameter in model.module.parameters())
        seed_everything(derive_seed(self.config.seed, "adapt"))
        context = start_context(self.config, model, frozen_names(model, self.config.methods), outline=False)
        adapted = adapt(model, self.config.methods, context, self.config.trains)
        finished = self._resume(adapted)
        self.scores = self.scores or base
        write_scores(self.folder / "scores.jsonl", self.scores)
        self.tracker.start(self.config.resolved, finished)
        before = self.costs.seconds
        for stage in self.config.stages[finished:]:
            self._run_stage(stage, adapted, replace(context, model=adapted.model, stage=stage))
            self.costs.seconds = before + time.perf_counter() - started
            self._checkpoint(stage, adapted)
        self.costs.seconds = before + time.perf_counter() - started
        self._finish(adapted, total)

    def _base_row(self, model: Model) -> list[Score]:
        rows = [
            self.workspace.base_scores(
                task,
                self.config.identities[task.name],
                model,
                self.config.identities["model"],
                self.config.evaluation,
                self.runtime,
            )
            for task in self.config.tasks.values()
        ]
        self.workspace.registry.hook.myosotis_stage_finished(
            trial=self.config.id, folder=self.folder, stage=0, scores=[each for row in rows for each in row]
        )
        return [each for row in rows for each in row]

    # One stage

    def _run_stage(self, stage: Stage, adapted: Adapted, context: Context) -> None:
        seed_everything(derive_seed(self.config.seed, "stage", stage.index))
        steps = self._train(stage, adapted, context) if stage.shares else 0
        scores = self._evaluate(stage.index, steps, adapted.model, context)
        self.scores += scores
        write_scores(self.folder / "scores.jsonl", self.scores)
        self.workspace.registry.hook.myosotis_stage_finished(
            trial=self.config.id, folder=self.folder, stage=stage.index, scores=scores
        )

    def _train(self, stage: Stage, adapted: Adapted, context: Context) -> int:
        from myosotis import training

        config = self.config
        mixture = self._mixture(stage, context)
        parts = [
            training.EncodedPart(config.tasks[component.task], self._encode(component, adapted.model))
            for component in mixture
        ]
        batches = training.stage_batches(config.trainer, parts, stage.tasks, DEFAULT_STEPS)
        sampler = MixtureSampler(
            [
                Part(component.task, len(part.examples), component.share)
                for component, part in zip(mixture, parts, strict=True)
            ],
            config.trainer.batch_size,
            batches,
            derive_seed(config.seed, "order", stage.index),
        )
        loader = training.BatchLoader(parts, sampler, adapted.model)
        context = replace(
            context,
            steps=batches // config.trainer.accumulate_grad_batches,
            generator=torch.Generator().manual_seed(derive_seed(config.seed, "methods", stage.index)),
            training_loss=training.mean_loss,
            training_batches=loader.one_pass,
        )
        for method in config.methods.values():
            method.begin_stage(stage, context)
        module = training.StageModule(adapted, config.methods, context, config.optimizer, config.schedule)
        steps_before = self.costs.steps
        observer = training.StageObserver(
            log=lambda step, values: self.tracker.log(stage.index, step, steps_before + step, values),
            progress=lambda step: self.progress(
                steps_before + step, steps_before + context.steps * (len(config.stages) - stage.index + 1)
            ),
            evaluate=lambda step: self._evaluate_within(stage, step, adapted.model, context),
            log_every=config.trainer.log_every_n_steps,
            evaluate_every=config.evaluation.every,
        )
        outcome = training.train_stage(module, loader, observer, config.trainer, self.runtime)
        for method in config.methods.values():
            method.end_stage(stage, replace(context, step=outcome.steps))
        self.costs.steps += outcome.steps
        self.costs.tokens += outcome.tokens
        self.costs.training_seconds += outcome.seconds
        self.costs.realised[f"stage {stage.index}"] = sampler.realised()
        return outcome.steps

    def _mixture(self, stage: Stage, context: Context) -> Mixture:
        earlier = self.config.stages[: stage.index - 1]
        seen = {task: self._rows(task, "train") for done in earlier for task in done.tasks}
        mixture: Mixture = tuple(
            Component(task, self._rows(task, "train"), share) for task, share in stage.shares.items()
        )
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, "data", stage.index))
        for method in self.config.methods.values():
            mixture = method.training_data(stage, mixture, seen, replace(context, generator=generator))
        return mixture

    def _rows(self, task: str, split: str) -> Rows:
        return self.workspace.rows(self.config.tasks[task], self.config.identities[task], split)

    def _encode(self, component: Component, model: Model) -> Sequence[Any]:
        task = self.config.tasks[component.task]
        if component.rows is self._rows(task.name, "train"):
            identities = self.config.identities
            return self.workspace.examples(task, identities[task.name], "train", model, identities["model"])
        return encode(task, component.rows, model, "train")

    # Evaluation

    def _evaluate(self, stage: int, step: int, model: Model, context: Context) -> list[Score]:
        scores: list[Score] = []
        for task in self.config.tasks.values():
            for method in self.config.methods.values():
                method.before_evaluation(task, context)
            examples = limited(self._evaluation_examples(task, model, context), self.config.evaluation.limit)
            evaluation = self.config.evaluation
            columns = predict(task, examples, model, evaluation.batch_size, self.runtime)
            scores += score(task, columns, stage, step, evaluation.split, evaluation.resamples)
        return scores

    def _evaluation_examples(self, task: Task, model: Model, context: Context) -> Sequence[Any]:
        split, identities = self.config.evaluation.split, self.config.identities
        plain = self._rows(task.name, split)
        rows = plain
        for method in self.config.methods.values():
            rows = method.evaluation_data(task, rows, context)
        if rows is plain:
            return self.workspace.examples(task, identities[task.name], split, model, identities["model"])
        return encode(task, rows, model, split)

    def _evaluate_within(self, stage: Stage, step: int, model: Model, context: Context) -> None:
        with torch.random.fork_rng():  # looking must not change what is trained next
            self.scores += self._evaluate(stage.index, step, model, context)
        write_scores(self.folder / "scores.jsonl", self.scores)

    # What survives a kill

    def _checkpoint(self, stage: Stage, adapted: Adapted) -> None:
        state = Checkpoint.of(stage.index, adapted, self.config.methods, self.costs)
        state.write(self.folder / "checkpoints" / "last.pt")

    def _resume(self, adapted: Adapted) -> int:
        """Go back to the last finished stage, and give its index; 0 where there is none."""
        path = self.folder / "checkpoints" / "last.pt"
        if not path.is_file():
            return 0
        state = Checkpoint.read(path)
        state.restore(adapted, self.config.methods)
        self.costs = state.costs
        self.scores = [
            each for each in read_scores(self.folder / "scores.jsonl") if each.stage <= state.stage
        ]
        return state.stage

    # The end

    def _finish(self, adapted: Adapted, total: int) -> None:
        if self.config.trainer.save and self.config.trains:
            self._save(adapted.model)
        trainable = adapted.trainable()
        result = {
            "trial": self.config.id,
            **headline(self.config, self.scores),
            "trainable_parameters": sum(parameter.numel() for parameter in trainable.values()),
            "total_parameters": total,
            "seconds": self.costs.seconds,
            "tokens": self.costs.tokens,
            "peak_memory_bytes": peak_memory(self.runtime.device),
            "columns": columns(self.config),
        }
        manifest = {
            **environment(self.workspace.registry, self.config),
            "identities": dict(self.config.identities),
            "trainable": parameters_by_module(trainable),
            "realised_mixture": self.costs.realised,
            "cost": {
                "seconds": self.costs.seconds,
                "training_seconds": self.costs.training_seconds,
                "steps": self.costs.steps,
                "tokens": self.costs.tokens,
                "peak_memory_bytes": result["peak_memory_bytes"],
            },
        }
        write_json(self.folder / "manifest.json", manifest)
        self.tracker.finish(self.scores, result)
        write_json(self.folder / "result.json", result)
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)

    def _save(self, model: Model) -> None:
        temporary = self.folder / ".adapter"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        self.config.model.save(model, temporary)
        shutil.rmtree(self.folder / "adapter", ignore_errors=True)
        temporary.rename(self.folder / "adapter")


def columns(config: TrialConfig) -> list[dict[str, Any]]:
    """Describe the columns of the score matrix."""
    return [
        {
            "task": task.name,
            "role": task.role,
            "metric": task.metric,
            "higher_is_better": task.metrics[task.metric].higher_is_better,
        }
        for task in config.tasks.values()
    ]


def headline(config: TrialConfig, scores: Sequence[Score]) -> dict[str, Any]:
    """Compute learned, forgotten and forgotten_base from a trial's scores at its stages' ends."""
    tasks = list(config.tasks.values())
    matrix = np.full((len(config.stages) + 1, len(tasks)), math.nan)
    for each in scores:
        for column, task in enumerate(tasks):
            if (each.task, each.metric) == (task.name, task.metric):
                matrix[each.stage, column] = each.value  # a stage's last row is its end
    oriented = forgetting.oriented(matrix, [task.metrics[task.metric].higher_is_better for task in tasks])
    last_trained = [
        max((stage.index for stage in config.stages if task.name in stage.tasks), default=0) for task in tasks
    ]
    metrics = [task.metric for task in tasks]
    trained = {task.metric for task, last in zip(tasks, last_trained, strict=True) if last}
    return {
        "learned": forgetting.learned(oriented, last_trained, metrics),
        "forgotten": forgetting.forgotten(oriented, last_trained, metrics),
        "forgotten_base": forgetting.forgotten_base(oriented, last_trained, metrics),
        "metric": trained.pop() if len(trained) == 1 else None,
    }
