"""Looking at all trials of a study before any trains: what would stop them, and what is wrong with their data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from myosotis.check import TrialCheck
from myosotis.data_record import DataRecord, joined
from myosotis.errors import MyosotisError, PluginError
from myosotis.resolve import TrialConfig
from myosotis.study_data import StudyData, data_key
from myosotis.workspace import Workspace

LOOKED_AT = 2_000
"""Rows of a split that are looked at before every study; `myosotis data check` looks at all."""
MOST_DATA = 8
"""Trials with other data each that are looked at before a study."""
TOLD = 3
"""Findings that are told as a study begins; the report has all."""


@dataclass(frozen=True)
class StudyCheck:
    """What was found of a study's trials.

    Attributes:
        stackable: whether each trial's model can share a forward pass with others, by the trial's id.
        data: what was found in the data of the trials that were looked at, by what decides it.
        different: how many different data the trials have.
    """

    stackable: Mapping[str, bool]
    data: Mapping[str, DataRecord]
    different: int

    def notes(self) -> Iterator[str]:
        """Say what was found first in the data, and what was not looked at."""
        together = joined(self.data.values())
        for finding in together.findings[:TOLD]:
            yield f"data: {finding}"
        more = len(together.findings) - TOLD
        if more > 0:
            yield f"data: {more} more are in the report, and told by myosotis data check"
        if any(split.looked_at < split.rows for split in together.splits):
            yield f"data: {LOOKED_AT:,} rows of a split were looked at; myosotis data check looks at all"
        if len(self.data) < self.different:
            yield f"data: those of {len(self.data)} trials were looked at, of {self.different} with different ones"


def check_study(
    trials: Sequence[tuple[str, TrialConfig]], workspace: Workspace, looks_at_data: bool
) -> StudyCheck:
    """Find what would stop trials.

    Args:
        trials: each with what it was asked for by, which an error tells.
        workspace: reads the data.
        looks_at_data: whether to look for what is wrong with the data, too.

    Raises:
        ConfigurationError: says what would stop which trial.
        DataError: nothing should be trained on its data.
    """
    check = TrialCheck(workspace)
    stackable = {}
    for asked, config in trials:
        with _told(asked):
            stackable[config.id] = check(config) is None
    different: dict[str, tuple[str, TrialConfig]] = {}
    found: dict[str, DataRecord] = {}
    if looks_at_data:
        data = StudyData(workspace, check.outline, LOOKED_AT)
        for asked, config in trials:
            different.setdefault(data_key(config, LOOKED_AT), (asked, config))
        for key, (asked, config) in list(different.items())[:MOST_DATA]:
            with _told(asked):
                found[key] = data.look(config)
    return StudyCheck(stackable, found, len(different))


@contextmanager
def _told(asked: str) -> Iterator[None]:
    """Say which trial a mistake is in."""
    where = f"in the trial {asked or 'by default'}"
    try:
        yield
    except MyosotisError as error:
        raise type(error)(f"{error} ({where})") from error
    except Exception as error:  # a plugin's own, which must not be a traceback either
        raise PluginError(f"{type(error).__name__}: {error} ({where})") from error
