"""Which trials a study has: arms times sweeps, a parameter only where its plugin is, each trial once."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig, OmegaConf

from myosotis.config import Composer, is_value, plain
from myosotis.errors import ConfigurationError, unknown_name
from myosotis.explained import explained
from myosotis.ledger import content_hash
from myosotis.plugins import Registry, load_registry
from myosotis.schema import PLUGIN_GROUPS

REPLICATES = frozenset({"seed", "curriculum.order"})
"""Swept keys over which results aggregate."""
NAMES_NO_STUDY = ("study", "studies", "force", "data_check", "hydra", "logger")
"""Keys that do not change which study a command means."""
QUICKSTART = "+experiments=quickstart"
"""What a command means that says nothing about its trials."""


@dataclass(frozen=True)
class Point:
    """One trial of a study before its configuration is composed.

    Attributes:
        arm: the name of its arm, or None where the study names none.
        overrides: what sets it apart from the default, in Hydra's grammar.
        swept: the swept keys and their values, without those that only replicate.
    """

    arm: str | None
    overrides: tuple[Override, ...]
    swept: Mapping[str, Any]

    @property
    def lines(self) -> list[str]:
        """The overrides as texts."""
        return [str(override.input_line) for override in self.overrides]


def override_key(override: Override) -> str:
    """Give the key that an override sets, or the group that it chooses."""
    return str(override.key_or_group).lstrip("/")


def says_nothing(overrides: Sequence[Override]) -> bool:
    """Tell whether overrides only say where and how a study is run."""
    return all(override_key(each).split(".")[0] in NAMES_NO_STUDY for each in overrides)


def whole(compose: Composer, overrides: Sequence[str], config_name: str) -> tuple[list[str], DictConfig]:
    """Give the overrides of a command and the configuration of its study as a whole."""
    arguments = list(overrides)
    if config_name == "config" and says_nothing(compose.parse(arguments)):
        arguments.append(QUICKSTART)
    parsed = compose.parse(arguments)
    master = compose.master(config_name, list(whole_study(parsed)))
    set_shared(master, parsed)
    return arguments, master


def whole_study(overrides: Sequence[Override]) -> Iterator[str]:
    """Give what concerns the study as a whole; of swept groups the first choice, for all to be there."""
    for override in overrides:
        if override.is_sweep_override() and not is_value(override):
            yield f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
        elif not override.is_sweep_override() and not (is_value(override) and "." in override_key(override)):
            yield str(override.input_line)


def set_shared(master: DictConfig, overrides: Sequence[Override]) -> None:
    """Set the values that the study as a whole has, too, for its arms and sweeps may refer to them.

    Raises:
        ConfigurationError: they refer to what is swept.
    """
    for override in overrides:
        key = override_key(override)
        if not _holds(master, key):
            continue
        if override.is_discrete_sweep() and _refers(master, override):
            raise ConfigurationError(
                f"{key} must have one value, because the study's arms refer to it, but got {override.input_line}; "
                "sweep what they set by it"
            )
        if is_value(override) and not override.is_sweep_override():
            with explained(override.input_line):
                OmegaConf.update(master, key, override.value(), merge=True)


def _holds(master: DictConfig, key: str) -> bool:
    """Tell whether there is such a value; a group is none."""
    parent, _, name = key.rpartition(".")
    holder = OmegaConf.select(master, parent) if parent else master
    return (
        isinstance(holder, DictConfig)
        and name in list(holder)
        and not OmegaConf.is_dict(holder._get_node(name))
    )


def _refers(master: DictConfig, override: Override) -> bool:
    """Tell whether arms or sweeps are others with another value."""
    varied, seen = copy.deepcopy(master), []
    for value in itertools.islice(override.sweep_iterator(), 2):
        OmegaConf.update(varied, override_key(override), value, merge=True)
        seen.append((plain(varied.arms), plain(varied.hydra.sweeper.get("params"))))
    return seen[0] != seen[-1]


def expand(
    compose: Composer,
    config_name: str,
    arguments: Sequence[str],
    arms: Mapping[str, Mapping[str, Any]],
    params: Mapping[str, Any],
    ends: bool = False,
) -> list[Point]:
    """List a study's trials: the union of its arms, times its sweeps, each one once.

    A parameter of a plugin goes only to the trials that have the plugin.

    Args:
        compose: composes the choices of groups.
        config_name: the primary configuration.
        arguments: the command's overrides.
        arms: overrides by the arm's name.
        params: a study file's common sweep.
        ends: whether an interval stands for its two ends, as where trials only stand for those of a search.

    Raises:
        ConfigurationError: a parameter that no trial has, or arms that are not overrides.
    """
    points: dict[tuple[str | None, tuple[str, ...]], Point] = {}
    given: dict[str, Override] = {}
    used: set[str] = set()
    _check_arms(arms)
    for arm, own in arms.items() if arms else [(None, {})]:
        lines = [*rendered(params), *rendered(own), *arguments]
        overrides = {str(each.get_key_element()): each for each in compose.parse(lines)}
        if ends:
            overrides = {key: _with_ends(compose, each) for key, each in overrides.items()}
        given |= overrides
        for _, point, keys in sorted(_points(compose, config_name, arm, overrides)):
            used |= keys
            points.setdefault((arm, tuple(point.lines)), point)
    for key in given.keys() - used:
        raise ConfigurationError(_unused(key, load_registry()))
    return list(points.values())


class _Placed(NamedTuple):
    """A point, with the place among its choices that each override takes, and the keys that it sets."""

    places: tuple[int, ...]
    point: Point
    keys: frozenset[str]


def _points(
    compose: Composer, config_name: str, arm: str | None, overrides: Mapping[str, Override]
) -> Iterator[_Placed]:
    """Give an arm's points: the groups are chosen first, and then only what has its plugin there is swept."""
    choices = {key: _choices(compose, each) for key, each in overrides.items()}

    def placed(numbers: Mapping[str, Sequence[int]]) -> Iterator[dict[str, int]]:
        for places in itertools.product(*(numbers.get(key, (0,)) for key in choices)):
            yield dict(zip(choices, places, strict=True))

    groups = {key: range(len(each)) for key, each in choices.items() if not is_value(overrides[key])}
    for chosen in placed(groups):
        base = compose.chosen(config_name, [choices[key][chosen[key]][0] for key in groups])
        kept = [key for key, each in overrides.items() if has_plugin(base, each)]
        swept = {key: range(len(choices[key])) for key in kept}
        for places in placed({**swept, **{key: (chosen[key],) for key in groups}}):
            made = [choices[key][places[key]] for key in kept]
            point = Point(arm, tuple(override for override, _ in made), _swept(made, arm))
            yield _Placed(tuple(places.values()), point, frozenset(kept))


def _check_arms(arms: Any) -> None:
    if not isinstance(arms, Mapping) or not all(isinstance(own, Mapping) for own in arms.values()):
        raise ConfigurationError(
            f"arms must map each arm's name to its overrides, such as {{tuned: {{method: [NAME]}}}}, "
            f"but got {arms!r}"
        )


def rendered(values: Mapping[str, Any]) -> list[str]:
    """Write a study file's values as overrides: lists and texts in Hydra's grammar."""
    return [f"{key}={_grammar(value)}" for key, value in values.items()]


def _grammar(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_grammar(each) for each in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_grammar(each)}" for key, each in value.items()) + "}"
    return "null" if value is None else str(value)


def _choices(compose: Composer, override: Override) -> list[tuple[Override, bool]]:
    if not override.is_sweep_override():
        return [(override, False)]
    if not override.is_discrete_sweep():
        raise ConfigurationError(
            f"{override.input_line} must be a list of values, such as 1,2,4 or range(1,5), to be swept; "
            "an interval needs hydra/sweeper=search"
        )
    key = override.get_key_element()
    return [(compose.parse([f"{key}={value}"])[0], True) for value in override.sweep_string_iterator()]


def _with_ends(compose: Composer, override: Override) -> Override:
    value = override.value()
    if not isinstance(value, IntervalSweep):
        return override
    return compose.parse([f"{override.get_key_element()}={value.start!r},{value.end!r}"])[0]


def has_plugin(base: DictConfig, override: Override) -> bool:
    """Tell whether what an override sets is there in a choice of groups."""
    group, _, rest = override_key(override).partition(".")
    if not is_value(override) or group not in PLUGIN_GROUPS or not PLUGIN_GROUPS[group][1]:
        return True
    return rest.partition(".")[0] in base[group]


def _swept(chosen: Sequence[tuple[Override, bool]], arm: str | None) -> dict[str, Any]:
    # Without named arms, the methods name the arm.
    left_out = REPLICATES if arm is not None else REPLICATES | {"method"}
    return {
        override_key(override): _plain_value(override.value())
        for override, swept in chosen
        if swept and override_key(override) not in left_out
    }


def _plain_value(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool | type(None)) else str(value)


def _unused(key: str, registry: Registry) -> str:
    group, _, rest = key.partition(".")
    name = rest.partition(".")[0]
    kind, _ = PLUGIN_GROUPS.get(group, (None, False))
    if kind is not None and name not in registry.plugins[kind]:
        return f"{key}: " + unknown_name(group, name, registry.plugins[kind])
    return f"{key} has nothing to set: no trial of this study has the {group} {name!r}; add it to {group}=[…]"


def default_name(compose: Composer, arguments: Sequence[str]) -> str:
    """Name a study by its command: the same command means the same study."""
    parsed = compose.parse(arguments)
    lines = sorted(
        str(each.input_line) for each in parsed if override_key(each).split(".")[0] not in NAMES_NO_STUDY
    )
    return "quickstart" if lines == [QUICKSTART] else f"study-{content_hash(lines, size=4)}"
