"""One trial and the phases of its run: adapt, then for each stage train, close, evaluate, save."""

from __future__ import annotations

import functools
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from myosotis.adaptation import Adapted, adapt, frozen_names
from myosotis.batches import (
    BatchLoader,
    MixedBatch,
    make_batch,
    mean_loss,
)
from myosotis.checkpoint import END, START, Checkpoint, CheckpointFolder, Costs, Position, Training, changing
from myosotis.errors import StorageError
from myosotis.evaluation import Runtime, choose_runtime, evaluating
from myosotis.events import Event
from myosotis.interfaces import (
    Context,
    Model,
    Stage,
    Task,
    TrainingRow,
)
from myosotis.ledger import Score, read_scores, write_json, write_scores, write_text
from myosotis.logs import trial_log
from myosotis.manifest import environment, parameters_by_module, peak_memory
from myosotis.member import Member, finite_losses
from myosotis.outcome import columns, headline, headline_so_far, kept_bytes, last_trained, resting_bytes
from myosotis.pruning import Pruning, Watch
from myosotis.ranks import ALONE, Ranks
from myosotis.resolve import TrialConfig
from myosotis.seeds import derive_seed, random_state, seed_everything
from myosotis.stacking import Branch
from myosotis.storage import stored
from myosotis.tracking import Tracker, open_logger
from myosotis.trial_data import TrialData
from myosotis.workspace import Workspace


def start_context(config: TrialConfig, model: Model, frozen: frozenset[str], outline: bool) -> Context:
    """Make the context of a trial before its first stage."""
    return Context(
        model=model,
        tasks=config.tasks,
        stage=Stage(0, {}),
        step=0,
        steps=0,
        generator=torch.Generator().manual_seed(derive_seed(config.seed, "adapt")),
        frozen=frozen,
        outline=outline,
        stages=config.stages,
    )


def write_error(folder: Path, error: BaseException) -> None:
    """Write down what befell a trial."""
    text = "".join(traceback.format_exception(error))
    with suppress(StorageError):  # on a full disk, the first error is the one to tell
        write_text(folder / "error.txt", f"{type(error).__name__}: {error}\n\n{text}")


def _shares(member: Member, counts: Counter[str]) -> dict[str, float]:
    """Give each task's share of what was counted, those in the mixture that had none too."""
    tasks = dict.fromkeys(part.task.name for part in member.loader.parts)
    return {task: counts[task] / max(1, counts.total()) for task in tasks}


class TrialRun:
    """A trial while it runs: where it is, what it has cost, and each of its phases.

    Args:
        config: the trial; its methods are as they were made.
        folder: its run folder.
        study: the study's name.
        name: what the trial is called.
        workspace: what trials share.
        tell: told what befalls it.
        ranks: the processes that train it together; all do the same, and the first alone writes and logs.
        pruning: by what a search may give it up.
    """

    def __init__(
        self,
        config: TrialConfig,
        folder: Path,
        study: str,
        name: str,
        workspace: Workspace,
        tell: Callable[[Event], None] = lambda event: None,
        ranks: Ranks = ALONE,
        pruning: Pruning | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.study = study
        self.name = name
        self.workspace = workspace
        self.data = TrialData(config, workspace)
        self.tell = tell
        self.ranks = ranks
        self.pruning = pruning
        self.runtime: Runtime = choose_runtime(config.trainer.accelerator, config.trainer.precision)
        if ranks.several and config.trainer.divides:
            from myosotis.sharding import divided

            divide = functools.partial(
                divided, blocks=config.model.blocks, processes=ranks.count, device=self.runtime.device
            )
            self.runtime = replace(self.runtime, divide=divide)
        self.tracker = Tracker(folder, trial=config.id)
        self.checkpoints = CheckpointFolder(folder / "checkpoints", self.runtime.home)
        self.position = START
        self.costs = Costs()
        self.scores: list[Score] = []
        self.cohort: Sequence[str] = ()
        self.random: Mapping[str, Any] = {}
        self.branch: Branch
        self.adapted: Adapted
        self.context: Context
        self._total = 0

    @property
    def stages_done(self) -> int:
        """How many stages are over."""
        return self.position.stage if self.position.step == END else self.position.stage - 1

    @property
    def next_stage(self) -> Stage | None:
        """The stage that is to be trained next, or is in the middle; None once all are over."""
        return next(iter(self.config.stages[self.stages_done :]), None)

    @property
    def trains_base(self) -> bool:
        """Whether a parameter of the base trains, so that no other trial can share its memory."""
        kept = self.branch.before.values()
        return any(tensor.requires_grad for snapshot in kept for tensor in snapshot.tensors.values())

    # The beginning

    def open(self) -> None:
        """Make the run folder, and the logger."""
        if not self.ranks.first:
            return
        with stored(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        for ending in ("error.txt", "pruned.json"):
            (self.folder / ending).unlink(missing_ok=True)
        write_text(
            self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(self.config.resolved)))
        )
        self.workspace.registry.hook.myosotis_trial_started(trial=self.config.id, folder=self.folder)
        run = {"study": self.study, "trial": self.config.id, "name": self.name, "folder": str(self.folder)}
        self.tracker.logger = open_logger(self.config.logger, run)
        self.tell(Event(self.config.id, "opened", place=self.tracker.place()))

    def set_up(self, base: Model) -> None:
        """Take the base's row, and adapt."""
        self.scores = self.ranks.agreed(self._base_row(base))
        self.adapt(base)

    def adapt(self, base: Model) -> None:
        """Let the methods adapt a copy of the base that shares its memory."""
        self._total = sum(parameter.numel() for parameter in base.module.parameters())
        self.branch = Branch(base.module)
        model = replace(base, module=self.branch.module)
        seed_everything(derive_seed(self.config.seed, "adapt"))
        self.context = start_context(
            self.config, model, frozen_names(model, self.config.methods), outline=False
        )
        self.adapted = adapt(
            model,
            self.config.methods,
            self.context,
            self.config.trains,
            self.config.model.blocks,
            self.config.trainer.base_dropout,
        )
        # Methods may add modules that were made on the CPU.
        self.adapted.model.module.to(self.runtime.home)
        self.context = replace(self.context, model=self.adapted.model)

    def _base_row(self, model: Model) -> list[Score]:
        rows = [
            self.workspace.base_scores(
                task,
                self.config.identities[task.name],
                model,
                self.config.identities["model"],
                self.config.evaluation,
                self.runtime,
                self.ranks,
            )
            for task in self.config.tasks.values()
        ]
        scores = [each for row in rows for each in row]
        if self.ranks.first:
            self._observe(0, scores)
        return scores

    def resume(self, at: Position) -> None:
        """Go back to where a checkpoint was written; `START` begins afresh."""
        self.position = at
        # What a stage begins with is the end of the one before it.
        end = Position(self.stages_done, END)
        if end != START:
            self.checkpoints.read(end).restore(self.adapted, self.config.methods)
        if at != START:
            self.costs = self.checkpoints.read(at).costs
            where = "its end" if at.step == END else f"step {at.step}"
            trial_log(self.config.id).info("goes on from stage %d, %s", at.stage, where)
        base = [score for score in self.scores if score.stage == 0]
        later = [
            score
            for score in read_scores(self.folder / "scores.jsonl")
            if score.stage > 0 and Position(score.stage, score.step) <= at
        ]
        self.scores = self.ranks.agreed(base + later)
        if not self.ranks.first:
            return
        write_scores(self.folder / "scores.jsonl", self.scores)
        self.tracker.start(self.config.resolved, at.stage, at.step)
        self._tell_scores()

    # A stage

    def begin_stage(self, stage: Stage) -> Member:
        """Lay out a stage's data, let the methods begin it, and go to where it was left."""
        seed_everything(derive_seed(self.config.seed, "stage", stage.index))
        stage = self.data.tempered(stage, self.adapted.model)
        # One that is only measured has its part, too.
        ranks = Ranks(self.ranks.rank, self.config.trainer.processes)
        together = self.runtime.divide is not None
        loader = self.data.loader(stage, replace(self.context, stage=stage), ranks, together)
        accumulated = self.config.trainer.accumulate_grad_batches
        home = self.runtime.home
        context = replace(
            self.context,
            stage=stage,
            steps=len(loader) // accumulated,
            generator=torch.Generator().manual_seed(derive_seed(self.config.seed, "methods", stage.index)),
            training_loss=mean_loss,
            training_batches=lambda rows: (batch.to(home) for batch in loader.one_pass(rows)),
            make_batch=self._make_batch,
        )
        for method in self.config.methods.values():
            method.begin_stage(stage, context)
        member = self._member(context, loader)
        if not self.ranks.first:  # what is random within the model must not be the same on other rows
            seed_everything(derive_seed(self.config.seed, "stage", stage.index, "rank", self.ranks.rank))
        self.random = random_state()
        if self.position.stage == stage.index:
            self._go_on(member)
        if self.runtime.divide is not None:
            from myosotis.sharding import divided_to_train

            member.divided = divided_to_train(self.adapted, self.runtime.divide)
        return member

    def _make_batch(self, rows: Sequence[TrainingRow]) -> MixedBatch:
        """Make a batch of rows that a method has kept."""
        known = [(self.config.tasks[task], example) for task, example in rows]
        return make_batch(known, self.adapted.model).to(self.runtime.home)

    def _member(self, context: Context, loader: BatchLoader) -> Member:
        return Member(
            adapted=self.adapted,
            methods=self.config.methods,
            context=context,
            loader=loader,
            trainer=self.config.trainer,
            optimizer=self.config.optimizer,
            schedule=self.config.schedule,
            ranks=self.ranks,
        )

    def _go_on(self, member: Member) -> None:
        state = self.checkpoints.read(self.position)
        assert state.training is not None
        state.restore(self.adapted, self.config.methods)
        member.step = self.position.step
        member.rows = Counter(state.training.rows)
        member.tokens = Counter(state.training.tokens)
        member.seconds = state.training.seconds
        member.optimizer_state = state.training.optimizer
        member.unlogged = list(state.training.unlogged)
        member.context.generator.set_state(state.training.generator)
        member.early_stopping.go_on(state.training.early_stopping)
        self.random = [state.training.random, *state.training.others][self.ranks.rank]

    def log(self, member: Member, values: Mapping[str, float]) -> None:
        """Write an entry of the training log."""
        if not self.ranks.first:
            return
        done, stage = self.costs.steps + member.step, member.context.stage.index
        self.tracker.log(stage, member.step, done, values)
        total = self.costs.steps + member.context.steps * (len(self.config.stages) - stage + 1)
        self.tell(Event(self.config.id, "step", done, total, stage, dict(values)))

    def held_out_loss(self, member: Member) -> float:
        """Give the mean loss on the rows that early stopping watches: of each of the stage's tasks, all alike."""
        module = self.runtime.placed(member.module)
        with evaluating(module), self.runtime.forward():
            losses = [self._held_out_loss_on(name, module) for name in member.context.stage.tasks]
        return sum(losses) / len(losses)

    def _held_out_loss_on(self, name: str, module: nn.Module) -> float:
        task, size = self.config.tasks[name], self.config.evaluation.batch_size
        examples = self.data.held_out(task, self.adapted.model)
        losses, counts = [], []
        for start in range(0, len(examples), size):
            rows = [(task, each) for each in examples[start : start + size]]
            batch = make_batch(rows, self.adapted.model).to(self.runtime.device)
            losses.append(mean_loss(module, batch))
            counts.append(sum(group.objective.count(group.batch) for group in batch.groups))
        # Each batch's mean counts as much as it is a mean over: tokens differ from batch to batch.
        means = torch.stack(losses).double().cpu()
        return float(means @ torch.tensor(counts).double()) / max(1, sum(counts))

    def stops_early(self, member: Member) -> bool:
        """Look at the held-out rows; tell whether the stage is to end.

        Raises:
            NonFiniteLoss: a training loss since the last entry of the log is not finite.
        """
        member.unlogged += finite_losses(member)
        loss = self.ranks.agreed(self.held_out_loss(member))
        values = {"held_out_loss": loss}
        ends = member.early_stopping.observe(loss, changing(self.adapted))
        if ends and member.unlogged:  # a stage's last losses are in the log, wherever it ends
            values = {"loss": member.take_unlogged(), **values}
        self.log(member, values)
        if ends and member.step < member.context.steps:
            trial_log(self.config.id).info(
                "stage %d ends early, after step %d of %d: the loss on the %s split has not been lower than %.4g",
                member.context.stage.index,
                member.step,
                member.context.steps,
                self.config.trainer.early_stopping.split,
                member.early_stopping.best,
            )
        return ends

    def save(self, member: Member, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint in the middle of a stage.

        Raises:
            NonFiniteLoss: a loss since the last entry of the log is not finite.
        """
        from myosotis.optimizers import optimizer_state

        member.unlogged += finite_losses(member)
        self.position = Position(member.context.stage.index, member.step)
        random, *others = self.ranks.gathered(random_state())
        state = optimizer_state(optimizer, member)
        if not self.ranks.first:
            return
        training = Training(
            dict(member.rows),
            dict(member.tokens),
            member.seconds,
            state,
            member.unlogged,
            member.context.generator.get_state(),
            random,
            member.early_stopping.state(),
            others,
        )
        self.checkpoints.write(
            Checkpoint.of(self.position, self.adapted, self.config.methods, self.costs, training)
        )

    def close_training(self, member: Member) -> None:
        """Let the methods close a stage that was trained."""
        member.early_stopping.restore(changing(self.adapted))
        if self.ranks.several:  # from here on, all do the same again
            seed_everything(derive_seed(self.config.seed, "end", member.context.stage.index))
        for method in self.config.methods.values():
            method.end_stage(member.context.stage, member.now())
        self.costs.steps += member.step
        self.costs.tokens += member.tokens.total()
        self.costs.training_seconds += member.seconds
        stage = f"stage {member.context.stage.index}"
        self.costs.realised[stage] = _shares(member, member.rows)
        self.costs.realised_tokens[stage] = _shares(member, member.tokens)

    def scored(self, scores: Sequence[Score]) -> None:
        """Take scores in; what is in the file is always whole."""
        places = {(each.stage, each.step) for each in scores}
        # A trial that was killed between a stage's scores and its end has them already.
        self.scores = [each for each in self.scores if (each.stage, each.step) not in places] + list(scores)
        if not self.ranks.first:
            return
        write_scores(self.folder / "scores.jsonl", self.scores)
        self._tell_scores()

    def _tell_scores(self) -> None:
        self.tell(Event(self.config.id, "scored", values=headline_so_far(self.config, self.scores)))

    def end_stage(self, stage: Stage) -> None:
        """Tell that a stage is over and scored, and save."""
        self.position = Position(stage.index, END)
        if not self.ranks.first:
            return
        self._observe(stage.index, [each for each in self.scores if each.stage == stage.index])
        self.checkpoints.write(Checkpoint.of(self.position, self.adapted, self.config.methods, self.costs))

    def _observe(self, stage: int, scores: Sequence[Score]) -> None:
        self.workspace.registry.hook.myosotis_stage_finished(
            trial=self.config.id, folder=self.folder, stage=stage, scores=list(scores)
        )

    # Evaluation

    def compared_base(self, task: Task) -> nn.Module | None:
        """Give the untouched base where a metric of the task looks at it, else None.

        Where the trial trains the base's own memory, it is loaded a second time, and kept.
        """
        return self.workspace.base(self.config, self.runtime).module if task.compares else None

    # The end

    def finish(self) -> None:
        """Write the adapter, the manifest and, last, the result."""
        if not self.ranks.first:
            return
        if self.config.trainer.save and self.config.trains:
            self._save_model()
        trainable = self.adapted.ever_trainable() if self.config.trains else {}
        kept = {name: kept_bytes(each) for name, each in self.config.methods.items()}
        resting = resting_bytes(self.adapted, self.branch)
        result = {
            "trial": self.config.id,
            **headline(self.config, self.scores),
            "trainable_parameters": sum(parameter.numel() for parameter in trainable.values()),
            "total_parameters": self._total,
            "seconds": self.costs.seconds,
            "tokens": self.costs.tokens,
            "peak_memory_bytes": peak_memory(self.runtime.device),
            "kept_bytes": sum(kept.values()) + resting,
            "columns": columns(self.config),
            "last_trained": last_trained(self.config),
        }
        manifest = {
            **environment(self.workspace.registry, self.config),
            "identities": dict(self.config.identities),
            "trainable": parameters_by_module(trainable),
            "realised_mixture": self.costs.realised,
            "realised_tokens": self.costs.realised_tokens,
            "kept_bytes": kept,
            "resting_bytes": resting,
            "cohort": list(self.cohort),
            "cost": {
                "seconds": self.costs.seconds,
                "training_seconds": self.costs.training_seconds,
                "evaluation_seconds": self.costs.evaluation_seconds,
                "steps": self.costs.steps,
                "tokens": self.costs.tokens,
                "peak_memory_bytes": result["peak_memory_bytes"],
            },
        }
        write_json(self.folder / "manifest.json", manifest)
        self.tracker.finish(self.scores, result)
        write_json(self.folder / "result.json", result)
        self.checkpoints.remove()
        self._tell_end("finished")

    def fail(self, error: BaseException) -> None:
        """Write down what befell the trial."""
        if not self.ranks.first:
            return
        write_error(self.folder, error)
        self.tracker.fail()
        self._tell_end("failed")

    def interrupt(self) -> None:
        """Close what is open; the trial goes on another time."""
        self.tracker.fail()

    # Where a search gives it up

    @functools.cached_property
    def _watch(self) -> Watch | None:
        return self.pruning.watch(self.config) if self.pruning is not None and self.ranks.first else None

    def report(self) -> None:
        """Tell the search, where there is one, how good the trial is at its latest evaluation."""
        if self._watch is not None:
            self._watch.report(self.scores)

    def is_hopeless(self) -> bool:
        """Tell whether the search, where there is one, gives the trial up at its latest evaluation."""
        return self._decided(lambda watch: watch.is_hopeless())

    def is_given_up(self) -> bool:
        """Tell whether the search, where there is one, has given it up with another seed or order."""
        return self._decided(lambda watch: watch.is_given_up())

    def _decided(self, decides: Callable[[Watch], bool]) -> bool:
        """Let the first process ask, for all alike."""
        if self.pruning is None:
            return False
        return self.ranks.agreed(self._watch is not None and decides(self._watch))

    def prune(self) -> None:
        """End the trial with the scores that it has, as one that a search gave up for hopeless."""
        if not self.ranks.first:
            return
        last, so_far = self.scores[-1], headline_so_far(self.config, self.scores)
        result = {
            "trial": self.config.id,
            "stage": last.stage,
            "step": last.step,
            "so_far": so_far,
            "seconds": self.costs.seconds,
        }
        self.tracker.finish(self.scores, {**so_far, "pruned": 1})
        write_json(self.folder / "pruned.json", result)
        self.checkpoints.remove()
        self._tell_end("pruned")

    def _tell_end(self, status: str) -> None:
        self.workspace.registry.hook.myosotis_trial_finished(
            trial=self.config.id, folder=self.folder, status=status
        )

    def _save_model(self) -> None:
        temporary = self.folder / ".adapter"
        with stored(self.folder / "adapter"):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            self.config.model.save(self.adapted.model, temporary)
            shutil.rmtree(self.folder / "adapter", ignore_errors=True)
            temporary.rename(self.folder / "adapter")
