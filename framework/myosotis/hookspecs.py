"""Every hook of the entry-point group `myosotis`. Their names are contracts.

A plugin is a module that an entry point names; it marks the hooks it implements with
`myosotis.hookimpl` and states the version of this file that it was written for::

    from myosotis import hookimpl
    from myosotis.interfaces import Method

    MYOSOTIS_API = 1

    class Noise(Method):
        ...

    @hookimpl
    def myosotis_methods():
        return {"noise": Noise}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pluggy import HookspecMarker

if TYPE_CHECKING:
    from myosotis.interfaces import Method, Metric, ModelFactory, Objective, TaskDataset
    from myosotis.ledger import Score
    from myosotis.testing.plugin import PluginTestSuite

hookspec = HookspecMarker("myosotis")


@hookspec
def myosotis_methods() -> Mapping[str, type[Method]]:  # type: ignore[empty-body]
    """Give methods by name: `method=[NAME]` chooses one, `method.NAME.*` are its parameters."""


@hookspec
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:  # type: ignore[empty-body]
    """Give datasets by name: `dataset=[NAME]` trains on one, `probe=[NAME]` only evaluates it."""


@hookspec
def myosotis_models() -> Mapping[str, type[ModelFactory]]:  # type: ignore[empty-body]
    """Give model factories by name: `model=NAME`, with its parameters under `model.*`."""


@hookspec
def myosotis_objectives() -> Mapping[str, type[Objective]]:  # type: ignore[empty-body]
    """Give objectives by the name that a dataset's `objective()` returns."""


@hookspec
def myosotis_metrics() -> Mapping[str, type[Metric]]:  # type: ignore[empty-body]
    """Give metrics by the name that stands in the score rows."""


@hookspec
def myosotis_config_paths() -> Sequence[str]:  # type: ignore[empty-body]
    """Give entries for Hydra's search path, such as `pkg://their.conf`, that hold presets."""


@hookspec
def myosotis_suites() -> Mapping[str, type[PluginTestSuite[Any]]]:  # type: ignore[empty-body]
    """Give conformance suites by the plugins' names, for `myosotis plugins check`: where defaults alone do not do.

    They are imported in the hook, and need no pytest: no fixture but `tmp_path`.
    """


@hookspec
def myosotis_trial_started(trial: str, folder: Path) -> None:
    """Observe that a trial begins or goes on; `folder` is its run folder."""


@hookspec
def myosotis_stage_finished(trial: str, folder: Path, stage: int, scores: Sequence[Score]) -> None:
    """Observe a finished stage and its row of the score matrix; stage 0 is the base."""


@hookspec
def myosotis_trial_finished(trial: str, folder: Path, status: str) -> None:
    """Observe that a trial ended; `status` is finished, pruned or failed."""


@hookspec
def myosotis_study_finished(study: str, folder: Path) -> None:
    """Observe that a study has no trial left to run; its report is not yet written."""
