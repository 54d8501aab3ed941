"""Which trials of a study train together, on record: each command finds its cohorts as it first formed them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

from myosotis.grouping import Cohort
from myosotis.ledger import read_json, write_json
from myosotis.locks import StudyLock
from myosotis.options import Options


@final
class CohortRecord:
    """The cohorts that commands of a study formed which asked for the same cohorts and workers.

    What commands of the study formed that asked for others stands beside it.

    Args:
        folder: the study's folder.
        options: what the command asks for.
    """

    def __init__(self, folder: Path, options: Options) -> None:
        self._folder = folder
        self._request = {"cohort": options.cohort, "workers": options.workers}

    def read(self) -> tuple[list[Cohort], int]:
        """Give the cohorts and the number of workers; none and one where nothing is on record."""
        for each in self._entries():
            if each["request"] == self._request:
                cohorts = [Cohort(tuple(one["trials"]), one["threads"]) for one in each["cohorts"]]
                return cohorts, each["workers"]
        return [], 1

    def add(self, cohorts: Sequence[Cohort], workers: int) -> None:
        """Record the cohorts of which no trial is in one on record, and how many workers there are now."""
        with StudyLock(self._folder):  # another command may record its own meanwhile
            old, _ = self.read()
            listed = {trial for each in old for trial in each.trials}
            kept = [*old, *(each for each in cohorts if not listed.intersection(each.trials))]
            own = {"request": self._request, "workers": workers, "cohorts": [asdict(each) for each in kept]}
            others = [each for each in self._entries() if each["request"] != self._request]
            write_json(self._path, [*others, own])

    @property
    def _path(self) -> Path:
        return self._folder / "cohorts.json"

    def _entries(self) -> list[Mapping[str, Any]]:
        found = read_json(self._path) if self._path.is_file() else []
        return found if isinstance(found, list) else [found]  # studies from before have one alone
