"""What to be careful of in a study: too few seeds, training cut short, a best value at the edge of its sweep."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from myosotis.ledger import StudyRecord
from myosotis.report.aggregate import finished_trials
from myosotis.report.labels import value_text
from myosotis.report.sweeps import is_numeric, swept_keys

if TYPE_CHECKING:
    import pandas as pd

ENOUGH = 3
"""Replicates from which on an interval tells something: of two, it is 12.7 standard errors to each side."""
LEAST_LOGGED = 6
"""Entries of the training log, in a stage's second half, from which on a fall of the loss can be seen."""
LEAST_FALL = 0.01
"""A fall by a smaller share of the loss, over a stage's second half, is none."""


@dataclass(frozen=True)
class Flag:
    """What to be careful of.

    Attributes:
        mark: in a few words, for the table.
        text: what it is and what to do.
        numbers: the configurations that it is about.
    """

    mark: str
    text: str
    numbers: Sequence[int]


def flags(record: StudyRecord, frame: pd.DataFrame) -> Iterator[Flag]:
    """Find what to be careful of; `frame` is what `configurations` gives."""
    ran = frame[frame["n"] > 0]
    few = ran.loc[ran["n"] < ENOUGH, "number"].tolist()
    if few:
        what = f"fewer than {ENOUGH} replicates finished, so that a difference may be chance; add seeds"
        yield Flag("few seeds", what, few)
    falling = _still_learning(record, ran)
    if falling:
        what = "the training loss still fell when a stage ended, so that more steps may change the order"
        yield Flag("still learning", what, falling)
    most = "most in its arm" if (ran["arm"] != "").any() else "most"
    for key in swept_keys(ran):
        for (value, end), numbers in _at_edge(ran, key).items():
            what = f"{key}={value} learned {most} and is the {end} that was tried; try more if you can"
            yield Flag("edge of sweep", what, numbers)


def still_falls(losses: ArrayLike) -> bool:
    """Tell whether a stage's loss fell in its second half: by the slope's one-sided t-test, and by 1 % at least.

    Losses are those of single batches at even distances, shape (entries,); of too few, nothing is said.
    """
    from scipy.stats import linregress

    values = np.asarray(losses, dtype=np.float64)
    half = values[len(values) // 2 :]
    if len(half) < LEAST_LOGGED or not np.isfinite(half).all() or np.ptp(half) == 0:
        return False
    line = linregress(np.arange(len(half)), half, alternative="less")
    fall = -line.slope * (len(half) - 1)
    return bool(line.pvalue < 0.05 and fall > LEAST_FALL * abs(half.mean()))


def _still_learning(record: StudyRecord, ran: pd.DataFrame) -> list[int]:
    """Number the configurations of which more than half the trials still learned."""
    trials = finished_trials(record, ran)
    if "folder" not in trials:
        return []
    falling = [any(map(still_falls, _losses(record.folder / folder))) for folder in trials["folder"]]
    share = trials.assign(falling=falling).groupby("number")["falling"].mean()
    return [int(number) for number in share.index[share > 0.5]]


def _losses(run: Path) -> list[list[float]]:
    """Read the training losses of each stage; what cannot be read is left out."""
    stages: dict[int, list[float]] = {}
    try:
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry.get("loss") is not None:
                stages.setdefault(entry["stage"], []).append(entry["loss"])
    except (OSError, ValueError, KeyError):
        return []
    return list(stages.values())


def _at_edge(ran: pd.DataFrame, key: str) -> dict[tuple[str, str], list[int]]:
    """Find where the value that learned most in an arm is the smallest or largest of three or more.

    The numbers of these configurations, by the value and the end.
    """
    found: dict[tuple[str, str], list[int]] = {}
    for _, rows in ran[[key in swept for swept in ran["swept"]]].groupby("arm", sort=False):
        values = [swept[key] for swept in rows["swept"]]
        if not is_numeric(values) or len(set(values)) < 3 or rows["learned"].isna().all():
            continue
        best = rows.iloc[rows["learned"].argmax()]
        value = best["swept"][key]
        for end, at in (("smallest", min(values)), ("largest", max(values))):
            if value == at:
                found.setdefault((value_text(value), end), []).append(int(best["number"]))
    return found
