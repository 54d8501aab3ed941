"""Scoring the further models that methods make of a trained one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from myosotis.adaptation import overriding
from myosotis.evaluation import predict, score
from myosotis.interfaces import Context
from myosotis.ledger import Score, write_variants
from myosotis.trial import TrialRun


def score_variants(run: TrialRun) -> None:
    """Score what each method makes of a trial that is trained, and write it down."""
    methods = overriding(run.config.methods, "variants")
    if not methods or not run.config.stages:
        return
    context = replace(run.context, stage=run.config.stages[-1], step=run.scores[-1].step)
    found: list[tuple[str, Score]] = []
    for name, method in methods.items():
        for label, opened in method.variants(run.adapted.model.module, context).items():
            with opened():
                found += [(f"{name} {label}", each) for each in _scores(run, context)]
    if run.ranks.first:
        write_variants(run.folder / "variants.jsonl", found)


def _scores(run: TrialRun, context: Context) -> Iterator[Score]:
    """Score the model, as it now is, on every task."""
    evaluation = run.config.evaluation
    for task in run.config.tasks.values():
        examples = run.data.evaluated(task, context)
        size, base = evaluation.batch_size, run.compared_base(task)
        columns = predict(task, examples, run.adapted.model, size, run.runtime, base, run.ranks)
        if run.ranks.first:
            yield from score(
                task, columns, context.stage.index, context.step, evaluation.split, evaluation.resamples
            )
