"""A study's data before it runs: looked at once, and what was found kept for its report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from myosotis.data_check import findings
from myosotis.data_record import DataRecord, Finding, read_data, write_data
from myosotis.data_split import CheckedSplit, checked_split, record
from myosotis.errors import DataError, StorageError, located
from myosotis.interfaces import Model, Rows, Task
from myosotis.ledger import cache_folder, content_hash
from myosotis.resolve import TrialConfig
from myosotis.workspace import Workspace, evaluated_examples, evaluated_rows, place_of

CHECKED = 3
"""Bumped when other things are found in the same data, or are said otherwise."""


@dataclass
class StudyData:
    """Looks at what trials train on and are scored on; what several have in common once.

    Attributes:
        workspace: reads the data.
        outline: gives a trial's model without its weights.
        most: rows of a split that are looked at, evenly spread; all where None.
    """

    workspace: Workspace
    outline: Callable[[TrialConfig], Model]
    most: int | None
    _splits: dict[tuple[str, ...], CheckedSplit] = field(default_factory=dict)

    def splits(self, config: TrialConfig) -> list[CheckedSplit]:
        """Read what a trial trains on and is scored on.

        Raises:
            DataError: a row is not what its objective reads.
        """
        return [
            self._split(config, task, split)
            for task in config.tasks.values()
            for split in _named(config, task)
        ]

    def _split(self, config: TrialConfig, task: Task, split: str) -> CheckedSplit:
        identity, model = config.identities[task.name], config.identities["model"]
        key = (task.name, identity, split, model, content_hash(_evaluation(config)))
        if key not in self._splits:
            with located(place_of(task)):
                rows = self.workspace.rows(task, identity, split)
                trains = task.role == "task" and split == "train"
                scored = self._scored(config, task, rows) if split == config.evaluation.split else None
                self._splits[key] = checked_split(
                    task, split, rows, trains, self.outline(config), self.most, scored
                )
        return self._splits[key]

    def _scored(self, config: TrialConfig, task: Task, rows: Rows) -> Rows | None:
        """Give the rows that are scored, where each has a label and gives one example; None where all are."""
        evaluation, objective = config.evaluation, task.objective
        one_each = objective.row_by_row and objective.in_order
        if evaluation.limit is None or not one_each or "label" not in rows[0]:
            return None
        shots = self.workspace.shots(task, config.identities[task.name], evaluation)
        examples = evaluated_examples(task, rows, self.outline(config), evaluation, shots)
        return evaluated_rows(rows, len(examples), evaluation)

    def look(self, config: TrialConfig) -> DataRecord:
        """Say what was found in a trial's data, which are read but once for all studies.

        Raises:
            DataError: nothing should be trained on them.
        """
        key = data_key(config, self.most)
        path = cache_folder() / "data" / f"{key}.json"
        with suppress(StorageError):  # damaged, and made anew
            if key in (known := read_data(path)):
                return known[key]
        splits = self.splits(config)
        found = list(findings(splits))
        refuse(found)
        made = DataRecord([record(each) for each in splits], found)
        with suppress(StorageError):  # looked at again another time
            write_data(path, {key: made})
        return made


def _named(config: TrialConfig, task: Task) -> Iterator[str]:
    if config.trains_on(task.name):
        yield "train"
        if config.evaluation.split == "train":
            return
    yield config.evaluation.split


def data_key(config: TrialConfig, most: int | None) -> str:
    """Hash all that decides what is found in a trial's data."""
    tasks = [
        (name, task.role, config.identities[name], list(_named(config, task)))
        for name, task in config.tasks.items()
    ]
    return content_hash([CHECKED, most, config.identities["model"], tasks, _evaluation(config)])


def _evaluation(config: TrialConfig) -> Sequence[Any]:
    """Give what decides which rows are scored."""
    evaluation = config.evaluation
    return evaluation.rows, evaluation.limit, evaluation.shots


def refuse(found: Sequence[Finding]) -> None:
    """Refuse data on which nothing should be trained.

    Raises:
        DataError: says all that is wrong.
    """
    stopping = [str(each) for each in found if each.stops]
    if stopping:
        raise DataError("\n  ".join(stopping))
