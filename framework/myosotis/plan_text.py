"""A plan as a person reads it, and as a program does."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from myosotis.arranger import Basis
from myosotis.checkpoint import START
from myosotis.estimates import Estimate
from myosotis.planning import CohortPlan, StudyPlan, TrialPlan
from myosotis.progress import duration
from myosotis.provenance import Setting, by_source, compared
from myosotis.storage import size

MOST_ROWS = 30
"""Trials and cohorts that are listed."""
MOST_VALUES = 8
"""Values of a setting that are listed."""
WIDTH = 110
CHOSEN: Mapping[Basis, str] = {
    "recorded": "as recorded when the study ran before",
    "asked for": "as asked for",
    "remembered": "as measured before on this machine",
    "measured": "as measured now",
    "nothing": "not measured; more may train at once when the study runs",
    "alone": "for there is one trial",
}


def plan_text(plan: StudyPlan) -> str:
    """Write a plan: what is done, what trials share, each trial with what sets it apart, cohorts, all of it."""
    comparison = compared([each.settings for each in plan.trials])
    left = len(plan.trials) - sum(each.standing.status == "finished" for each in plan.trials)
    sections = [
        [
            f"study {plan.name} in {os.path.relpath(plan.folder)}: {len(plan.trials):,} trials, {left:,} to run"
        ],
        ["all trials have:", *_settings(comparison.common)],
        list(_sources(comparison.sources)),
        ["trials:", *_trials(plan, comparison.own)],
        list(_cohorts(plan)),
        [_whole(plan)],
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def plan_json(plan: StudyPlan) -> str:
    """Write everything that a plan holds as JSON; bytes, seconds, and each value with its source."""
    return json.dumps(
        {
            **asdict(replace(plan, trials=(), cohorts=())),
            "trials": [_trial_values(plan, each) for each in plan.trials],
            "cohorts": [{**asdict(each), "money": plan.money_of(each.estimate)} for each in plan.cohorts],
            "money": plan.money,
        },
        indent=1,
        ensure_ascii=False,
        default=str,
    )


def _trial_values(plan: StudyPlan, trial: TrialPlan) -> dict[str, Any]:
    at = trial.standing.at
    return {
        "id": trial.id,
        "name": trial.name,
        "folder": str(trial.folder),
        "status": trial.standing.status,
        "detail": trial.standing.detail,
        "checkpoint": None if at == START else asdict(at),
        "settings": {path: each._asdict() for path, each in trial.settings.items()},
        "estimate": trial.estimate and asdict(trial.estimate),
        "money": plan.money_of(trial.estimate),
    }


# Values and their sources


def _settings(settings: Mapping[str, Setting]) -> Iterator[str]:
    for source, values in by_source(settings).items():
        text = "  ".join(f"{path}={value_text(value)}" for path, value in values.items())
        yield from textwrap.wrap(
            f"{source}: {text}" if source else text,
            WIDTH,
            initial_indent="    ",
            subsequent_indent="        ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def _sources(settings: Mapping[str, Setting]) -> Iterator[str]:
    """Write the values that only some trials have."""
    if settings:
        yield "some have, or differ in:"
    yield from _settings(
        {path: Setting(_values(values), source) for path, (values, source) in settings.items()}
    )


def _values(values: Sequence[Any]) -> str:
    more = [f"{len(values) - MOST_VALUES:,} more"] if len(values) > MOST_VALUES else []
    return " or ".join([*map(value_text, values[:MOST_VALUES]), *more])


def value_text(value: Any) -> str:
    """Write a value as on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(value_text, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value) or "''"


# Trials and cohorts


def _trials(plan: StudyPlan, own: Sequence[Mapping[str, Setting]]) -> Iterator[str]:
    listed = plan.trials[:MOST_ROWS]
    rows = [[each.id, each.name, _state(each), *_costs(plan, each.estimate)] for each in listed]
    for line, settings in zip(_aligned(rows), own, strict=False):
        yield line
        yield from _settings(settings)
    yield from _more(plan.trials, "trials")


def _state(trial: TrialPlan) -> str:
    detail = textwrap.shorten(trial.standing.detail, WIDTH // 2, placeholder=" …")
    return f"{trial.standing.status}, {detail}" if detail else trial.standing.status


def _cohorts(plan: StudyPlan) -> Iterator[str]:
    if not plan.cohorts:
        return
    processes = "1 process" if plan.workers == 1 else f"{plan.workers} processes"
    largest = max(len(each.trials) for each in plan.cohorts)
    together = "every trial by itself" if largest == 1 else f"at most {largest} trials together"
    yield f"cohorts: {len(plan.cohorts):,} in {processes}, {together} ({CHOSEN[plan.basis]})"
    rows = [
        [_members(each), _threads(each.threads), *_costs(plan, each.estimate)]
        for each in plan.cohorts[:MOST_ROWS]
    ]
    if largest > 1:
        yield from _aligned(rows)
        yield from _more(plan.cohorts, "cohorts")


def _members(cohort: CohortPlan) -> str:
    first, count = cohort.trials[0], len(cohort.trials)
    return first if count == 1 else f"{first} and {count - 1} more"


def _threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _costs(plan: StudyPlan, estimate: Estimate | None) -> list[str]:
    if plan.estimate is None:
        return []
    if estimate is None:
        return [""] * (4 if plan.price_per_hour is None else 5)
    costs = [
        duration(estimate.seconds),
        f"{size(estimate.memory_bytes)} memory",
        f"{estimate.tokens:,} tokens",
        f"{size(estimate.disk_bytes)} disk",
    ]
    money = plan.money_of(estimate)
    return costs if money is None else [*costs, f"{money:,.2f} money"]


def _whole(plan: StudyPlan) -> str:
    estimate = plan.estimate
    if estimate is None:
        left = any(each.standing.status != "finished" for each in plan.trials)
        return "nothing is estimated without measuring" if left else "nothing is left to run"
    price = plan.price_per_hour
    costs = "" if price is None else f", {plan.money:,.2f} of money at {price:g} an hour"
    return (
        f"in all, from start to report: about {duration(estimate.seconds)}, "
        f"{size(estimate.memory_bytes)} of memory, {estimate.tokens:,} tokens, "
        f"{size(estimate.disk_bytes)} on the disk ({size(plan.free_disk_bytes)} are free; until then, "
        f"checkpoints take up to {size(estimate.checkpoint_bytes)} more){costs}"
    )


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align columns, the texts to the left and the numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if cell[:1].isdigit() and number > 1 else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def _more(listed: Sequence[object], what: str) -> Iterator[str]:
    if len(listed) > MOST_ROWS:
        yield f"  and {len(listed) - MOST_ROWS:,} more {what}; --json has all of them"
