"""The score matrices, one a configuration and order: means over replicates and their change from the base."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from myosotis.forgetting import oriented
from myosotis.ledger import StudyRecord
from myosotis.report.numbers import decimals, fixed
from myosotis.report.panels import panels

if TYPE_CHECKING:
    import pandas as pd

CELLS = ("panel", "number", "title", "stage", "row", "column", "metric", "value", "change", "text")


def score_cells(record: StudyRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """One row a cell of each panel's score matrix, averaged over its finished trials.

    `frame` is what `configurations` gives. Columns: `panel`, `number` and `title` as of `panels`, `stage` (0 is the
    base), `row` and `column` as they are called in the picture, `metric`, `value` in the metric's own
    direction (NaN where a replicate has no score), `text`, and `change` from the base: above zero is
    better whatever the metric, and 1 is the metric's largest change in the study.
    """
    import pandas as pd

    trials = panels(record, frame)
    means = _means(record, trials)
    if means.empty:
        return pd.DataFrame(columns=CELLS)
    cells = _long(means, record.columns)
    cells = _told(trials.drop(columns="trial").drop_duplicates().merge(cells), _trained(record, trials))
    for _, rows in cells.groupby("metric"):
        places = decimals(rows["value"])
        largest = rows["change"].abs().max()
        cells.loc[rows.index, "text"] = [fixed(value, places) or "—" for value in rows["value"]]
        cells.loc[rows.index, "change"] = rows["change"] / (largest or 1.0)
    return cells


def _trained(record: StudyRecord, trials: pd.DataFrame) -> dict[int, dict[str, int]]:
    """For each panel, the last stage that trained each task."""
    last = record.trials.drop_duplicates("trial").set_index("trial")["last_trained"]
    first = trials.drop_duplicates("panel")
    return dict(zip(first["panel"], last[first["trial"]], strict=True))


def _told(cells: pd.DataFrame, trained: Mapping[int, Mapping[str, int]]) -> pd.DataFrame:
    """Name beside each stage the task that it trained last, and put columns in the order of their training."""

    def row(panel: int, stage: int, name: str) -> str:
        tasks = [task for task, last in trained[panel].items() if last == stage and stage > 0]
        return f"{name}: {tasks[0]}" if len(tasks) == 1 else name

    def place(panel: int, task: str) -> float:
        return trained[panel].get(task) or math.inf  # probes stand last

    rows = zip(cells["panel"], cells["stage"], cells["row"], strict=True)
    places = zip(cells["panel"], cells["task"], strict=True)
    told = cells.assign(row=[row(*each) for each in rows], place=[place(*each) for each in places])
    told = told.sort_values(["panel", "stage", "place"], kind="stable", ignore_index=True)
    return told.drop(columns=["place", "task"])


def _means(record: StudyRecord, trials: pd.DataFrame) -> pd.DataFrame:
    """Mean scores over trials: rows (panel, stage), a column a task or probe."""
    scores = record.scores.merge(record.columns[["task", "metric"]])
    # Training may score within a stage too; a row of the matrix is what stands at its end.
    at_end = scores.sort_values("step", kind="stable").drop_duplicates(
        ["trial", "stage", "task"], keep="last"
    )
    cells = at_end.merge(trials).groupby(["panel", "stage", "task"])["value"]
    means = cells.mean().where(cells.count() == cells.size())
    return means.unstack("task").reindex(columns=record.columns["task"])


def _long(means: pd.DataFrame, columns: pd.DataFrame) -> pd.DataFrame:
    """All matrices cell by cell, each without the columns that it has no score for."""
    import pandas as pd

    last = means.reset_index("stage")["stage"].groupby(level="panel").max()
    places = [(panel, stage) for panel, end in last.items() for stage in range(int(end) + 1)]
    each, stages = np.array(places, dtype=int).reshape(-1, 2).T
    matrices = means.reindex(pd.MultiIndex.from_arrays([each, stages], names=means.index.names))
    better = oriented(matrices, list(columns["higher_is_better"]))
    width = len(columns)
    cells = pd.DataFrame(
        {
            "panel": np.repeat(each, width),
            "stage": np.repeat(stages, width),
            "row": np.repeat([f"stage {stage}" if stage else "base" for stage in stages], width),
            "task": np.tile(columns["task"].astype(str), len(stages)),
            "column": np.tile(_names(columns), len(stages)),
            "metric": np.tile(columns["metric"].astype(str), len(stages)),
            "value": matrices.to_numpy(dtype=float).ravel(),
            "change": (better - better[np.arange(len(stages)) - stages]).ravel(),
            "text": "",
        }
    )
    measured = matrices.notna().groupby(level="panel").transform("any")
    return cells[measured.to_numpy().ravel()].reset_index(drop=True)


def _names(columns: pd.DataFrame) -> list[str]:
    probe = columns["role"] == "probe"
    return [
        f"{task} (probe)" if only else str(task) for task, only in zip(columns["task"], probe, strict=True)
    ]
