"""A cohort: trials that train together in one process, on one copy of the base."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from myosotis.batches import mean_length
from myosotis.checkpoint import START, Position
from myosotis.errors import Interrupted, TrialError, in_one_line
from myosotis.evaluation import predict, score
from myosotis.events import Event
from myosotis.interfaces import Blocks, Columns, Example
from myosotis.job import Job
from myosotis.joint import JointForward, predict_together
from myosotis.ledger import PREFIX_FOLDER, Score
from myosotis.logs import trial_log
from myosotis.member import Member
from myosotis.prefix import FrozenPrefix, worthwhile
from myosotis.prefix_store import PrefixStore
from myosotis.ranks import ALONE, Ranks
from myosotis.resolve import Resolver, TrialConfig
from myosotis.seeds import restore_random_state
from myosotis.stacking import Stack, obstacle
from myosotis.stage_progress import StageProgress
from myosotis.trial import TrialRun, write_error
from myosotis.variants import score_variants
from myosotis.workspace import Workspace

RAISED = (Exception, SystemExit)
"""What a trial's plugins may raise; one that asks for the process's end must not end the others' either."""
OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class Control:
    """A cohort's line to whoever runs it.

    Attributes:
        tell: takes events.
        stopping: whether to save and stop.
        ranks: the processes that train its one trial together.
    """

    tell: Callable[[Event], None] = lambda event: None
    stopping: Callable[[], bool] = lambda: False
    ranks: Ranks = ALONE

    def asked_to_stop(self) -> bool:
        """Tell whether to save and stop, to all processes alike."""
        return self.ranks.agreed(self.stopping())


def run_cohort(
    jobs: Sequence[Job], resolver: Resolver, workspace: Workspace, control: Control = Control()
) -> dict[str, BaseException]:
    """Run trials together; what befalls each is told by events. Give what ended those that failed, by their ids.

    Where a step that is taken together fails, as when memory runs out, each half goes on by itself from
    the trials' checkpoints, with the same numbers.

    Raises:
        Interrupted: it was asked to stop, and has saved.
    """
    cohort, unresolved = Cohort(workspace, control), dict[str, BaseException]()
    for job in jobs:
        try:
            config = job.resolve(resolver)
        except RAISED as error:
            _fail_unresolved(job, error, control)
            unresolved[job.id] = error
        else:
            cohort.add(_run_of(job, config, workspace, control))
    try:
        cohort.run()
        return {**unresolved, **cohort.failures}
    except Interrupted:
        cohort.stop()
        raise
    except RAISED as error:
        left = [job for job in jobs if job.id in cohort.runs]
        if len(left) == 1:
            cohort.fail(cohort.runs[left[0].id], error)
            return {**unresolved, **cohort.failures}
        text = f"{type(error).__name__}: {error}"
        for job in left:
            trial_log(job.id).warning(
                "a step of %d trials together failed (%s); half as many go on", len(left), text
            )
    cohort.close()  # each half opens its loggers anew
    failures = {**unresolved, **cohort.failures}
    del cohort
    free_cached_memory()
    for half in (left[: len(left) // 2], left[len(left) // 2 :]):
        failures |= run_cohort(half, resolver, workspace, control)
    return failures


def run_trial(config: TrialConfig, folder: Path, study: str, name: str, workspace: Workspace) -> None:
    """Run one trial whose plugins are made already, or go on with it.

    Raises:
        Exception: whatever befell it, after writing it to `error.txt`.
    """
    cohort = Cohort(workspace, Control())
    run = TrialRun(config, folder, study, name, workspace)
    cohort.add(run)
    try:
        cohort.run()
    except RAISED as error:
        cohort.fail(run, error)
    for failure in cohort.failures.values():
        raise failure


def _fail_unresolved(job: Job, error: BaseException, control: Control) -> None:
    """Give a trial up whose plugins cannot be made."""
    trial_log(job.id).error("failed", exc_info=error)
    write_error(job.folder, error)
    control.tell(Event(job.id, "failed", error=in_one_line(error)))


def _run_of(job: Job, config: TrialConfig, workspace: Workspace, control: Control) -> TrialRun:
    return TrialRun(
        config,
        job.folder,
        job.study,
        job.name,
        workspace,
        control.tell,
        control.ranks,
        job.pruning,
    )


def _width_bytes(prefix: Blocks) -> int:
    """Estimate what the hidden state of one position takes: the width of what comes before the blocks."""
    parameters = (parameter for module in prefix.before for parameter in module.parameters())
    return max((each.shape[-1] * each.element_size() for each in parameters), default=0)


def _give_back() -> None:
    """Give memory that is free back to the system: of glibc's, much lies between small pieces still in use."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def free_cached_memory() -> None:
    """Give back what nothing refers to, on a GPU too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass
class Cohort:
    """Trials while they run together.

    Attributes:
        runs: those that have not ended, by their ids.
        failures: what befell the others that did not finish.
    """

    workspace: Workspace
    control: Control
    runs: dict[str, TrialRun] = field(default_factory=dict)
    failures: dict[str, BaseException] = field(default_factory=dict)
    _stacks: dict[tuple[str, ...], Stack | None] = field(default_factory=dict)
    _since: float = field(default_factory=time.perf_counter)

    def add(self, run: TrialRun) -> None:
        """Take a trial in, before they run."""
        self.runs[run.config.id] = run

    def run(self) -> None:
        """Run every trial to its end, or to its failure."""
        for run in list(self.runs.values()):
            run.cohort = list(self.runs)
            self.control.tell(Event(run.config.id, "begins"))
            with self._attributed(run):
                run.open()
        self._set_up()
        for run in list(self.runs.values()):
            self._prune_if(run, run.is_given_up)
        self._finish()
        while stages := [stage for run in self.runs.values() if (stage := run.next_stage)]:
            # Where trials have come differently far, the last ones catch up first.
            index = min(stage.index for stage in stages)
            self._run_stage([run for run in self.runs.values() if run.stages_done + 1 == index], index)
            self._finish()

    def fail(self, run: TrialRun, error: BaseException) -> None:
        """Give a trial up; the others go on."""
        del self.runs[run.config.id]
        self.failures[run.config.id] = error
        trial_log(run.config.id).error("failed", exc_info=error)
        run.fail(error)
        passing = isinstance(error, OUT_OF_MEMORY)
        self.control.tell(Event(run.config.id, "failed", error=in_one_line(error), passing=passing))

    def stop(self) -> None:
        """Close what is open of the trials that have not ended, and tell so."""
        self.close()
        for name in self.runs:
            self.control.tell(Event(name, "stopped"))

    def close(self) -> None:
        """Close what is open of the trials that have not ended."""
        for run in self.runs.values():
            run.interrupt()

    @contextlib.contextmanager
    def _attributed(self, run: TrialRun) -> Iterator[None]:
        """Take what is raised as this trial's own failure."""
        try:
            yield
        except Interrupted:
            raise
        except RAISED as error:
            self.fail(run, error)

    def _alive(self, runs: Sequence[TrialRun]) -> list[TrialRun]:
        return [run for run in runs if self.runs.get(run.config.id) is run]

    def charge(self) -> None:
        """Share the time since the last call among the trials."""
        now = time.perf_counter()
        for run in self.runs.values():
            run.costs.seconds += (now - self._since) / len(self.runs)
        self._since = now

    # The beginning and the end

    def _set_up(self) -> None:
        if not self.runs:
            return
        first = next(iter(self.runs.values()))
        base = self.workspace.base(first.config, first.runtime)
        for run in list(self.runs.values()):
            with self._attributed(run):
                run.set_up(base)
                if run.trains_base:
                    self.workspace.give_up_base()
        ranks = self.control.ranks
        for name, position in ranks.agreed(self._positions() if ranks.first else {}).items():
            run = self.runs[name]
            with self._attributed(run):
                run.resume(position)

    def _positions(self) -> dict[str, Position]:
        """Choose where each trial goes on: where all were at one moment, if there is such a place."""
        found = {name: run.checkpoints.resumable() for name, run in self.runs.items()}
        common = set.intersection(*(set(each) for each in found.values())) if found else set()
        return {
            name: max(common) if common else next(iter(positions), START) for name, positions in found.items()
        }

    def _finish(self) -> None:
        """Finish the trials that have no further stage."""
        for run in list(self.runs.values()):
            if run.next_stage is None:
                self.charge()
                with self._attributed(run):
                    score_variants(run)
                    run.finish()
                if self.runs.pop(run.config.id, None):
                    self.control.tell(Event(run.config.id, "finished"))

    # Where a search gives trials up

    def prune_hopeless(self, runs: Sequence[TrialRun]) -> None:
        """End those of just evaluated trials that are hopeless beside other suggestions; the rest go on."""
        for run in runs:
            with self._attributed(run):
                run.report()
        # All have told before the first is judged: a suggestion is judged by the mean of its trials.
        for run in self._alive(runs):
            self._prune_if(run, run.is_hopeless)

    def _prune_if(self, run: TrialRun, decides: Callable[[], bool]) -> None:
        pruned = False
        with self._attributed(run):
            if pruned := decides():
                self.charge()
                run.prune()
        if pruned and self.runs.pop(run.config.id, None) is not None:
            self.control.tell(Event(run.config.id, "pruned"))

    # A stage

    def _run_stage(self, runs: Sequence[TrialRun], index: int) -> None:
        members: dict[str, Member] = {}
        self._stacks = {}  # what begins a stage may change modules
        for run in runs:
            stage = run.config.stages[index - 1]
            if run.config.trains_in(stage):
                with self._attributed(run):
                    members[run.config.id] = run.begin_stage(stage)
        self._train([run for run in self._alive(runs) if run.config.id in members], members)
        for run in self._alive(runs):
            if run.config.id in members:
                with self._attributed(run):
                    run.close_training(members[run.config.id])
        steps = {name: member.step for name, member in members.items()}
        self.evaluate(self._alive(runs), index, steps)
        self.charge()
        for run in self._alive(runs):
            with self._attributed(run):
                run.end_stage(run.config.stages[index - 1])
        self.prune_hopeless([run for run in self._alive(runs) if run.next_stage])
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.control.asked_to_stop():
            raise Interrupted("asked to stop; every trial is saved where it was")

    def _train(self, runs: Sequence[TrialRun], members: Mapping[str, Member]) -> None:
        from myosotis import training

        if not runs:
            return
        own = [members[run.config.id] for run in runs]
        divided = any(member.divided for member in own)
        stack = None if divided else self._stack(runs)
        forward = JointForward([member.trained.model.module for member in own], stack)
        watch = StageProgress(self, dict(zip(map(id, own), runs, strict=True)))

        def restore() -> None:
            if len(runs) == 1:
                restore_random_state(runs[0].random)

        with contextlib.nullcontext() if divided else self._prefix(runs, own, forward):
            training.train_stage(own, forward, watch, runs[0].runtime, restore)
        _give_back()

    def _prefix(
        self, runs: Sequence[TrialRun], members: Sequence[Member], forward: JointForward
    ) -> contextlib.AbstractContextManager[object]:
        """Serve the blocks that are frozen in all trials from what is kept, where that saves time."""
        first = runs[0]
        module = forward.called
        frozen = min(len(run.adapted.prefix) for run in runs)
        if not frozen:
            return contextlib.nullcontext()
        blocks = first.config.model.blocks(module)
        prefix = Blocks(blocks.before, blocks.chain[:frozen])
        limit = int(first.config.trainer.prefix_gigabytes * 2**30)
        parts = [part for member in members for part in member.loader.parts]
        examples = {part.identity or id(part): part for part in parts}.values()
        count = sum(len(part.examples) for part in examples)
        rows = sum(len(member.loader) * member.trainer.rows_a_batch for member in members)
        size = count * mean_length(list(examples)) * _width_bytes(prefix)
        if not worthwhile(frozen, rows, count, int(size), limit):
            return contextlib.nullcontext()
        key = f"{first.config.identities['model']} {first.runtime.precision}"
        return FrozenPrefix(module, prefix, PrefixStore(first.folder.parent / PREFIX_FOLDER, limit), key)

    def _stack(self, runs: Sequence[TrialRun]) -> Stack | None:
        """Put the trials' modules on one base; None for one trial that cannot be stacked."""
        names = tuple(run.config.id for run in runs)
        if names not in self._stacks:
            self._stacks = {names: self._new_stack(runs)}
        return self._stacks[names]

    def _new_stack(self, runs: Sequence[TrialRun]) -> Stack | None:
        for run in runs:
            reason = obstacle(run.branch, run.adapted.model.module)
            if reason is not None and len(runs) == 1:
                return None
            if reason is not None:
                raise TrialError(f"{run.name} cannot train together with others: {reason}")
        first = runs[0]
        base = self.workspace.base(first.config, first.runtime)
        methods = {type(method): None for method in first.config.methods.values()}
        branches = [run.branch for run in runs]
        return Stack(base.module, branches, list(methods), mixes=first.config.model.mixes_rows)

    # Evaluation

    def evaluate(self, runs: Sequence[TrialRun], stage: int, steps: Mapping[str, int]) -> None:
        """Score trials on every task, together where they are evaluated on the same.

        Args:
            runs: the trials.
            stage: the stage's index.
            steps: each trial's optimizer steps in the stage; 0 where it did not train.
        """
        since = time.perf_counter()
        scores: dict[str, list[Score]] = {run.config.id: [] for run in runs}
        for task in runs[0].config.tasks if runs else ():
            examples = self._examples(task, self._alive(runs), stage, steps)
            for run, columns in self._predicted(task, self._alive(runs), examples):
                evaluation, step = run.config.evaluation, steps.get(run.config.id, 0)
                if run.ranks.first:
                    scores[run.config.id] += score(
                        run.config.tasks[task], columns, stage, step, evaluation.split, evaluation.resamples
                    )
        for run in self._alive(runs):
            run.scored(run.ranks.agreed(scores[run.config.id]))
            run.costs.evaluation_seconds += (time.perf_counter() - since) / len(runs)

    def _examples(
        self, task: str, runs: Sequence[TrialRun], stage: int, steps: Mapping[str, int]
    ) -> dict[str, Sequence[Example]]:
        examples = {}
        for run in runs:
            step = steps.get(run.config.id, 0)
            context = replace(run.context, stage=run.config.stages[stage - 1], step=step)
            with self._attributed(run):
                examples[run.config.id] = run.data.evaluated(run.config.tasks[task], context)
        return examples

    def _predicted(
        self, name: str, runs: Sequence[TrialRun], examples: Mapping[str, Sequence[Example]]
    ) -> Iterator[tuple[TrialRun, Columns]]:
        if not runs:
            return
        first = runs[0]
        task, size = first.config.tasks[name], first.config.evaluation.batch_size
        same = len({id(each) for each in examples.values()}) == 1
        if len(runs) > 1 and same and (stack := self._stack(runs)):
            shared, model = examples[first.config.id], first.adapted.model
            base = first.compared_base(task)
            columns = predict_together(task, shared, stack, len(runs), model, size, first.runtime, base)
            yield from zip(runs, columns, strict=True)
            return
        for run in runs:
            own = run.config.tasks[name]
            with self._attributed(run):
                base = run.compared_base(own)
                model, shown = run.adapted.model, examples[run.config.id]
                yield run, predict(own, shown, model, size, run.runtime, base, run.ranks)
