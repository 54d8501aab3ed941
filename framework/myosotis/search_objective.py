"""What a search makes as large or as small as it can: a headline, or a metric of a task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from myosotis.errors import ConfigurationError, unknown_name
from myosotis.ledger import HEADLINE, Score, read_json, read_scores
from myosotis.outcome import headline, headline_so_far
from myosotis.resolve import TrialConfig

UPWARD = frozenset({"learned"})
"""Headlines of which more is better."""


@final
@dataclass(frozen=True)
class SearchObjective:
    """A number that every trial reports.

    Attributes:
        name: `learned`, `forgotten`, `forgotten_base`, or `TASK.METRIC` for a score after the last stage.
    """

    name: str

    def so_far(self, config: TrialConfig, scores: Sequence[Score]) -> float:
        """Give the number as if the trial ended with its latest evaluation; NaN where there is none yet."""
        if self.name in HEADLINE:
            return headline_so_far(config, scores).get(self.name, math.nan)
        return self._last(scores)

    def value(self, folder: Path) -> float:
        """Give the number of a finished trial; NaN where it has none.

        Args:
            folder: its run folder.
        """
        if self.name in HEADLINE:
            found = read_json(folder / "result.json").get(self.name)
            return math.nan if found is None else float(found)
        return self._last(read_scores(folder / "scores.jsonl"))

    def direction(self, configs: Sequence[TrialConfig]) -> Literal["maximize", "minimize"]:
        """Tell which way is better.

        Args:
            configs: trials that stand for all of the search.

        Raises:
            ConfigurationError: a trial does not report it.
        """
        better = {self._higher_is_better(config) for config in configs}
        if len(better) > 1:
            raise ConfigurationError(
                f"hydra.sweeper.objective={self.name} must have one better direction in all trials; fix its metric"
            )
        return "maximize" if better.pop() else "minimize"

    def _higher_is_better(self, config: TrialConfig) -> bool:
        metrics = {
            f"{task.name}.{name}": metric.higher_is_better
            for task in config.tasks.values()
            for name, metric in task.metrics.items()
        }
        if self.name in metrics:
            return metrics[self.name]
        if self.name not in HEADLINE:
            raise ConfigurationError(
                "hydra.sweeper.objective: " + unknown_name("objective", self.name, [*HEADLINE, *metrics])
            )
        if math.isnan(_supposed(config)[self.name]):
            raise ConfigurationError(
                f"hydra.sweeper.objective={self.name} must be a number that every trial reports, but it is "
                f"undefined in some: {UNDEFINED[self.name]}"
            )
        return self.name in UPWARD

    def _last(self, scores: Sequence[Score]) -> float:
        own = [each.value for each in scores if f"{each.task}.{each.metric}" == self.name and each.stage > 0]
        return own[-1] if own else math.nan


UNDEFINED: Mapping[str, str] = {
    "learned": "no task trains, or the trained ones have different metrics",
    "forgotten": "no stage comes after a task's last training, or the tasks have different metrics",
    "forgotten_base": "there is no probe, or the probes have different metrics",
}
"""Why a headline may have no value."""


def _supposed(config: TrialConfig) -> Mapping[str, float]:
    """Compute the headline as if every score was 0: what has a value then always has one."""
    scores = [
        Score(stage, 0, task.name, "test", task.metric, 0.0, 1, 0.0, 0.0)
        for stage in range(len(config.stages) + 1)
        for task in config.tasks.values()
    ]
    found = headline(config, scores)
    return {name: float(found[name]) for name in HEADLINE}
