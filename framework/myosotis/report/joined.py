"""Several studies as one, so that one report compares them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from myosotis.errors import ConfigurationError
from myosotis.ledger import StudyRecord
from myosotis.report.aggregate import with_arm_names

if TYPE_CHECKING:
    import pandas as pd


def joined_record(records: Sequence[StudyRecord], folder: Path) -> StudyRecord:
    """Put the trials of several studies side by side: each study's name begins the names of its arms.

    Seeds and orders that the studies share are pairs, as within a study. A trial that several have is in each.

    Args:
        records: at least two studies.
        folder: where what is written of them goes.

    Raises:
        ConfigurationError: two have the same name, share no task, or measure a shared one by other metrics.
    """
    import pandas as pd

    names = [record.name for record in records]
    if len(set(names)) < len(names):
        raise ConfigurationError(
            f"studies that are compared must differ in their names, but got {', '.join(names)}"
        )
    columns = pd.concat([record.columns for record in records], ignore_index=True)
    _check(columns, names)
    return StudyRecord(
        " and ".join(names),
        folder,
        pd.concat([_named(record.scores, record.name) for record in records], ignore_index=True),
        pd.concat([_trials(record, folder) for record in records], ignore_index=True),
        columns.drop_duplicates("task").sort_values(
            "role", ascending=False, kind="stable", ignore_index=True
        ),
        pd.concat([_named(record.variants, record.name) for record in records], ignore_index=True),
    )


def _check(columns: pd.DataFrame, names: Sequence[str]) -> None:
    together = ", ".join(names)
    if columns.empty or not columns["task"].duplicated().any():
        raise ConfigurationError(
            f"studies that are compared must share a task or probe, but {together} share none; see their reports"
        )
    for task, rows in columns.groupby("task"):
        if rows["metric"].nunique() > 1:
            metrics = ", ".join(rows["metric"].unique())
            raise ConfigurationError(
                f"studies that are compared must measure {task} alike, but got {metrics}"
            )


def _named(table: pd.DataFrame, study: str) -> pd.DataFrame:
    """Tell a study's rows from another's of the same trial."""
    return table.assign(trial=[f"{study}/{trial}" for trial in table["trial"]])


def _trials(record: StudyRecord, folder: Path) -> pd.DataFrame:
    trials = _named(with_arm_names(record.trials), record.name)
    arms = [f"{record.name} · {arm}".removesuffix(" · ") for arm in trials["arm"]]
    folders = [str(record.folder.resolve() / each) for each in trials["folder"]]
    return trials.assign(
        arm=arms,
        configuration=[f"{record.name} {each}" for each in trials["configuration"]],
        folder=folders,
    )
