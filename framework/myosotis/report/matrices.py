"""The score matrices, one a configuration: means over replicates and their change from the base."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import numpy as np

from myosotis.forgetting import oriented
from myosotis.ledger import StudyRecord
from myosotis.report.aggregate import with_arm_names
from myosotis.report.numbers import decimals, fixed

if TYPE_CHECKING:
    import pandas as pd


def score_cells(record: StudyRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """One row a cell of each configuration's score matrix, averaged over its finished replicates.

    `frame` is what `configurations` gives. Columns: `number` of the configuration, `stage` (0 is the
    base), `row` and `column` as they are called in the picture, `metric`, `value` in the metric's own
    direction (NaN where a replicate has no score), `text`, and `change` from the base: above zero is
    better whatever the metric, and 1 is the metric's largest change in the study.
    """
    import pandas as pd

    matrices = _means(record, frame).groupby(level="number")
    empty = pd.DataFrame(columns=["number", "stage", "row", "column", "metric", "value", "change", "text"])
    each = [_matrix_cells(rows.droplevel("number"), record.columns, n) for n, rows in matrices]
    cells: pd.DataFrame = pd.concat(each, ignore_index=True) if each else empty
    for _, rows in cells.groupby("metric"):
        places = decimals(rows["value"])
        largest = rows["change"].abs().max()
        cells.loc[rows.index, "text"] = [fixed(value, places) or "—" for value in rows["value"]]
        cells.loc[rows.index, "change"] = rows["change"] / (largest or 1.0)
    return cells


def _means(record: StudyRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """Mean scores over replicates: rows (configuration's number, stage), a column a task or probe."""
    finished = with_arm_names(record.trials[record.trials["status"] == "finished"])
    numbered = finished.merge(frame[["arm", "configuration", "number"]])[["trial", "number"]]
    scores = record.scores.merge(record.columns[["task", "metric"]])
    # Training may score within a stage too; a row of the matrix is what stands at its end.
    at_end = scores.sort_values("step", kind="stable").drop_duplicates(
        ["trial", "stage", "task"], keep="last"
    )
    cells = at_end.merge(numbered).groupby(["number", "stage", "task"])["value"]
    means = cells.mean().where(cells.count() == cells.size())
    return means.unstack("task").reindex(columns=record.columns["task"])


def _matrix_cells(matrix: pd.DataFrame, columns: pd.DataFrame, number: Hashable) -> pd.DataFrame:
    """One matrix (rows are stages) in long form, without the columns that it has no score for."""
    import pandas as pd

    matrix = matrix.reindex(range(int(matrix.index.max()) + 1))
    better = oriented(matrix, list(columns["higher_is_better"]))
    stages, width = matrix.shape
    cells = pd.DataFrame(
        {
            "number": number,
            "stage": np.repeat(np.arange(stages), width),
            "row": np.repeat(["base", *(f"stage {stage}" for stage in range(1, stages))], width),
            "column": np.tile(_names(columns), stages),
            "metric": np.tile(columns["metric"].astype(str), stages),
            "value": matrix.to_numpy(dtype=float).ravel(),
            "change": (better - better[0]).ravel(),
        }
    )
    measured = np.tile(matrix.notna().any().to_numpy(), stages)
    return cells[measured]


def _names(columns: pd.DataFrame) -> list[str]:
    probe = columns["role"] == "probe"
    return [
        f"{task} (probe)" if only else str(task) for task, only in zip(columns["task"], probe, strict=True)
    ]
