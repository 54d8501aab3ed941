"""What a search may vary: Hydra's own sweeps, each as a distribution of Optuna's."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, IntegerNode, OmegaConf

from myosotis.config import Composer, is_value
from myosotis.errors import ConfigurationError, unknown_name
from myosotis.points import NAMES_NO_STUDY, REPLICATES, Point, expand, has_plugin, override_key, rendered
from myosotis.resolve import CHANGES_NO_NUMBER

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

LOG = "log"
"""The tag that makes a parameter vary on a logarithm."""


@dataclass(frozen=True)
class Dimension(ABC):
    """A parameter that a search varies.

    Attributes:
        key: what it sets, as on the command line; its name in Optuna.
        override: how it was asked for.
    """

    key: str
    override: Override

    @abstractmethod
    def suggest(self, trial: BaseTrial) -> Any:
        """Let Optuna suggest a value."""

    @abstractmethod
    def ends(self) -> Sequence[Any]:
        """Give the values that stand for all others: if these can run, so can they."""

    @abstractmethod
    def values(self) -> Sequence[Any]:
        """List all values.

        Raises:
            ConfigurationError: nobody can.
        """

    @abstractmethod
    def written(self, value: Any) -> str:
        """Write a value in Hydra's grammar."""

    def line(self, value: Any) -> str:
        """Write a value as an override."""
        return f"{self.key}={self.written(value)}"


@final
@dataclass(frozen=True)
class Choices(Dimension):
    """One of several values, which have no order.

    Attributes:
        texts: each value as on the command line.
    """

    texts: Mapping[Any, str]

    def suggest(self, trial: BaseTrial) -> Any:
        """Let Optuna suggest a value."""
        return trial.suggest_categorical(self.key, list(self.texts))

    def ends(self) -> Sequence[Any]:
        """Give all values."""
        return list(self.texts)

    def values(self) -> Sequence[Any]:
        """List all values."""
        return list(self.texts)

    def written(self, value: Any) -> str:
        """Write a value in Hydra's grammar."""
        return self.texts[value]


@final
@dataclass(frozen=True)
class Numbers(Dimension):
    """A number between two ends, which are in it.

    Attributes:
        step: what values are apart; None where there is every one.
        log: whether it varies on a logarithm.
        whole: whether values are whole numbers.
    """

    low: float
    high: float
    step: float | None
    log: bool
    whole: bool

    def suggest(self, trial: BaseTrial) -> Any:
        """Let Optuna suggest a value."""
        if self.whole:
            step = int(self.step or 1)
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def ends(self) -> Sequence[Any]:
        """Give the two ends."""
        return [self.low, self.high]

    def values(self) -> Sequence[Any]:
        """List all values.

        Raises:
            ConfigurationError: nobody can.
        """
        sweep = self.override.value()
        if isinstance(sweep, RangeSweep):
            return sorted(sweep.range())
        if self.whole:
            return range(int(self.low), int(self.high) + 1)
        raise ConfigurationError(
            f"hydra.sweeper.sampler=grid must have values that can be listed, but {self.override.input_line} has "
            f"every one in between; write {self.key}=1,2,4 or {self.key}=range(START,STOP,STEP)"
        )

    def written(self, value: Any) -> str:
        """Write a value in Hydra's grammar."""
        return repr(int(value) if self.whole else float(value))


def dimension(key: str, override: Override) -> Dimension:
    """Read a sweep of Hydra's grammar.

    Raises:
        ConfigurationError: it has no value, or its ends or tags fit nothing.
    """
    sweep = override.value()
    assert isinstance(sweep, ChoiceSweep | RangeSweep | IntervalSweep)
    for tag in sweep.tags:
        if tag != LOG:
            raise ConfigurationError(f"{override.input_line}: " + unknown_name("tag", str(tag), [LOG]))
    if isinstance(sweep, ChoiceSweep):
        if sweep.tags:
            raise ConfigurationError(
                f"{override.input_line} must be an interval or a range for its tag {LOG}, but choices have no order"
            )
        return Choices(key, override, _texts(override))
    return _numbers(key, override, sweep)


def _texts(override: Override) -> dict[Any, str]:
    """Give each choice, plain where that tells it from the others, with its text."""
    texts = list(override.sweep_string_iterator())
    values = [
        each if isinstance(each, bool | int | float | str) else text
        for each, text in zip(override.sweep_iterator(), texts, strict=True)
    ]
    same = len(set(values)) < len(set(texts))  # as 1 and true are
    return dict(zip(texts if same else values, texts, strict=True))


def _numbers(key: str, override: Override, sweep: RangeSweep | IntervalSweep) -> Numbers:
    line, log = str(override.input_line), LOG in sweep.tags
    if isinstance(sweep, RangeSweep):
        values = sorted(float(each) for each in sweep.range())
        whole = all(isinstance(each, int) for each in (sweep.start, sweep.stop, sweep.step))
        step: float | None = abs(float(sweep.step))
        if not values:
            raise ConfigurationError(f"{line} must have a value, but it has none")
        low, high = values[0], values[-1]
    else:
        assert sweep.start is not None
        assert sweep.end is not None
        low, high, step = sweep.start, sweep.end, None
        whole = isinstance(low, int) and isinstance(high, int)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigurationError(f"{line} must have a beginning that is finite and not above its end")
    if log and low <= 0:
        raise ConfigurationError(f"{line} must begin above 0, for there is no logarithm of {low:g}")
    if log and step is not None and (step != 1 or not whole):
        raise ConfigurationError(
            f"{line} must have no steps beside its tag {LOG}; write an interval, or int(interval(…))"
        )
    return Numbers(key, override, low, high, step, log, whole)


@final
class Space:
    """What a search varies, what each of its suggestions is repeated over, and what all trials have.

    A parameter of a plugin is varied where a suggestion has the plugin.

    Args:
        compose: composes the choices of groups.
        config_name: the primary configuration.
        params: a study file's common sweep.
        arguments: the command's overrides.

    Raises:
        ConfigurationError: nothing is varied, a parameter is no trial's, or a sweep is not one.
    """

    def __init__(
        self, compose: Composer, config_name: str, params: Mapping[str, Any], arguments: Sequence[str]
    ) -> None:
        self.compose = compose
        self.config_name = config_name
        lines = [*rendered(params), *arguments]
        self.overrides = {str(each.get_key_element()): each for each in compose.parse(lines)}
        for key in REPLICATES & self.overrides.keys():
            if self.overrides[key].is_interval_sweep():
                raise ConfigurationError(
                    f"{self.overrides[key].input_line} must be a list of values, such as {key}=0,1,2: a "
                    "search repeats each suggestion over them"
                )
        self.dimensions = {
            key: dimension(key, each)
            for key, each in self.overrides.items()
            if each.is_sweep_override() and key not in REPLICATES
        }
        if not self.dimensions:
            raise ConfigurationError(
                "a search must have a parameter to vary, but the command sweeps none; give one several values, "
                "such as 'optimizer.learning_rate=tag(log,interval(1e-4,1e-1))'"
            )
        self._check_used()

    @property
    def is_numeric(self) -> bool:
        """Whether a parameter is a number."""
        return any(isinstance(each, Numbers) for each in self.dimensions.values())

    def grid(self) -> dict[str, Sequence[Any]]:
        """List every parameter's values.

        Raises:
            ConfigurationError: of one nobody can.
        """
        return {key: each.values() for key, each in self.dimensions.items()}

    def suggested(self, choose: Callable[[Dimension], Any]) -> list[Point]:
        """Give the trials of a suggestion: one a seed and order.

        Args:
            choose: gives the value of a parameter; those that choose groups are asked for first.
        """
        groups = {key: each for key, each in self.dimensions.items() if not is_value(each.override)}
        chosen = {key: each.line(choose(each)) for key, each in groups.items()}
        own = {key: chosen.get(key, str(each.input_line)) for key, each in self.overrides.items()}
        structure = self.compose.parse(
            [own[key] for key, each in self.overrides.items() if not is_value(each)]
        )
        base = self.compose.chosen(self.config_name, structure)
        here = {key: line for key, line in own.items() if has_plugin(base, self.overrides[key])}
        for key, each in self.dimensions.items():
            if key in here and key not in chosen:
                _check_whole(base, each)
                chosen[key] = here[key] = each.line(choose(each))
        swept = {
            override_key(each): each.value()
            if isinstance(each.value(), int | float | str | bool)
            else str(each.value())
            for each in self.compose.parse(list(chosen.values()))
            if override_key(each) != "method"
        }
        found = expand(self.compose, self.config_name, list(here.values()), {}, {})
        return [replace(point, swept={**swept, **point.swept}) for point in found]

    def corners(self) -> Iterator[list[Point]]:
        """Give suggestions that stand for all: every choice of groups, and in it every end of every parameter."""
        groups = [each for each in self.dimensions.values() if not is_value(each.override)]
        for values in itertools.product(*(each.ends() for each in groups)):
            chosen = {each.key: value for each, value in zip(groups, values, strict=True)}
            asked: list[Dimension] = []
            yield self._corner(chosen, asked)
            for each in asked:
                for end in each.ends()[1:] if each.key not in chosen else ():
                    yield self._corner({**chosen, each.key: end}, [])

    def _corner(self, chosen: Mapping[str, Any], asked: list[Dimension]) -> list[Point]:
        def choose(each: Dimension) -> Any:
            asked.append(each)
            return chosen[each.key] if each.key in chosen else each.ends()[0]

        return self.suggested(choose)

    def _check_used(self) -> None:
        """Refuse a parameter of a plugin that no trial has."""
        lines = [
            each.line(each.ends()[0]) if each is not None and is_value(override) else str(override.input_line)
            for key, override in self.overrides.items()
            for each in (self.dimensions.get(key),)
        ]
        expand(self.compose, self.config_name, lines, {}, {})

    def record(self) -> dict[str, str]:
        """Write down all that may change a number, to be held against that of a later command."""
        return {
            key: str(each.input_line).partition("=")[2]
            for key, each in self.overrides.items()
            if not _changes_nothing(override_key(each))
        }


def _check_whole(base: DictConfig, dimension: Dimension) -> None:
    """Refuse fractions of what is counted."""
    parent, _, name = override_key(dimension.override).rpartition(".")
    holder = OmegaConf.select(base, parent) if parent else base
    counted = isinstance(holder, DictConfig) and isinstance(holder._get_node(name), IntegerNode)
    if counted and isinstance(dimension, Numbers) and not dimension.whole:
        raise ConfigurationError(
            f"{dimension.key} must be a whole number, but {dimension.override.input_line} has fractions too; write "
            f"{dimension.key}=int(interval(…))"
        )


def _changes_nothing(key: str) -> bool:
    first = key.split(".")[0].split("/")[0]
    return first in NAMES_NO_STUDY or key.rpartition(".")[2] in CHANGES_NO_NUMBER
