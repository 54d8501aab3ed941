"""What is done between the steps of a cohort's stage: logging, evaluating, saving, giving trials up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from myosotis.errors import Interrupted, NonFiniteLoss
from myosotis.member import Member
from myosotis.trial import TrialRun

if TYPE_CHECKING:
    from myosotis.cohort import Cohort


@dataclass(frozen=True)
class StageProgress:
    """Follows a cohort's stage: logs, evaluates, saves, gives trials up."""

    cohort: Cohort
    runs: Mapping[int, TrialRun]

    def log(self, member: Member, values: Mapping[str, float]) -> None:
        """Write an entry of the trial's training log."""
        self.runs[id(member)].log(member, values)

    def lost(self, member: Member, error: NonFiniteLoss) -> None:
        """Give the trial up; the others go on."""
        self.cohort.fail(self.runs[id(member)], error)

    def reached(self, members: Sequence[Member], optimizer: torch.optim.Optimizer) -> None:
        """Evaluate and save where it is time; where the study is asked to stop, save and stop."""
        self._evaluate(
            [member for member in members if _due(member, self._run(member).config.evaluation.every)]
        )
        for member in members:
            if member.active and member.early_stopping.due(member.step, member.context.steps):
                self._stop_early(member)
        stopping = self.cohort.control.asked_to_stop()
        for member in (each for each in members if each.active):
            if stopping or _due(member, member.trainer.checkpoint_every_n_steps):
                self._save(member, optimizer)
        if stopping:
            raise Interrupted("asked to stop; every trial is saved where it was")

    def _run(self, member: Member) -> TrialRun:
        return self.runs[id(member)]

    def _evaluate(self, members: Sequence[Member]) -> None:
        if not members:
            return
        steps = {self._run(member).config.id: member.step for member in members}
        for member in members:
            member.make_whole()
        with torch.random.fork_rng():  # looking must not change what is trained next
            runs = [self._run(member) for member in members]
            self.cohort.evaluate(runs, members[0].context.stage.index, steps)
            self.cohort.prune_hopeless([run for run in runs if run.config.id in self.cohort.runs])
        for member in members:
            # Evaluation may end a trial, and so may a search.
            member.active = self._run(member).config.id in self.cohort.runs
            member.trained.train()

    def _stop_early(self, member: Member) -> None:
        member.make_whole()
        with self._attributed(member), torch.random.fork_rng():
            member.active = not self._run(member).stops_early(member)

    def _save(self, member: Member, optimizer: torch.optim.Optimizer) -> None:
        self.cohort.charge()
        member.make_whole()
        with self._attributed(member):
            self._run(member).save(member, optimizer)
            self.cohort.control.ranks.meet()  # the first may write for long, and the next step would not wait

    @contextlib.contextmanager
    def _attributed(self, member: Member) -> Iterator[None]:
        """Give the trial up where one of its losses turns out not to be finite."""
        try:
            yield
        except NonFiniteLoss as error:
            member.active = False
            self.lost(member, error)


def _due(member: Member, every: int) -> bool:
    """Tell whether it is time, every so many steps but not at the stage's end; 0 is never."""
    return every > 0 and member.step % every == 0 and member.step < member.context.steps
