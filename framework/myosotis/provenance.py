"""Where each value of a trial's configuration comes from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import OmegaConf

from myosotis.config import Composer, is_value
from myosotis.plugins import Registry
from myosotis.points import override_key

STUDY_FILES = "experiments/"
TARGET = "._target_"


class Setting(NamedTuple):
    """A value and where it comes from."""

    value: Any
    source: str


Settings = Mapping[str, Setting]
"""A trial's whole configuration: its values by their dotted keys. A plugin's own key gives its class."""


@dataclass
class Provenance:
    """Says where the values of a study's trials come from.

    Attributes:
        compose: composes the study's trials.
        config_name: the primary configuration.
        registry: knows which distribution a plugin belongs to.
        arguments: the command's overrides.
        params: the common sweep of the study file.
        arms: each arm's overrides.
    """

    compose: Composer
    config_name: str
    registry: Registry
    arguments: Sequence[str]
    params: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]
    _parsed: dict[str, Override] = field(default_factory=dict)
    _composed: dict[tuple[str, tuple[str, ...]], dict[str, str]] = field(default_factory=dict)
    _files: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)

    def settings(self, arm: str, overrides: Sequence[str], resolved: Mapping[str, Any]) -> dict[str, Setting]:
        """Give every value of a trial with its source.

        Args:
            arm: the trial's arm.
            overrides: what the trial was composed of.
            resolved: its configuration as plain values.
        """
        parsed = [self._parse(line) for line in overrides]
        given = self._given(arm)
        sources = dict(
            self._sources(arm, tuple(str(each.input_line) for each in parsed if not is_value(each)))
        )
        for override in parsed:
            if is_value(override):
                _put(sources, override_key(override), override.value(), given[_element(override)])
        return {
            path.removesuffix(TARGET): Setting(value, _nearest(sources, path))
            for path, value in leaves(resolved)
            if path.endswith(TARGET) or not path.rpartition(".")[2].startswith("_")
        }

    def _parse(self, line: str) -> Override:
        if line not in self._parsed:
            self._parsed[line] = self.compose.parse([line])[0]
        return self._parsed[line]

    def _given(self, arm: str) -> dict[str, str]:
        """Say of each override who gave it; the later ones win, as they do when trials are listed."""
        own = self.arms.get(arm, {})
        common = next(map(_study_file, filter(_names_study_file, self.arguments)), "hydra.sweeper.params")
        return {
            **dict.fromkeys(self.params, common),
            **dict.fromkeys(own, f"arm {arm}"),
            **{_element(self._parse(line)): f"command line ({line})" for line in self.arguments},
        }

    # What Hydra composes

    def _sources(self, arm: str, structural: tuple[str, ...]) -> dict[str, str]:
        """Give the source of every value that a choice of groups sets; made once for each choice."""
        key = (arm, structural)
        if key not in self._composed:
            self._composed[key] = self._compose(self._given(arm), structural)
        return self._composed[key]

    def _compose(self, given: Mapping[str, str], structural: tuple[str, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        listed = self.compose.loader.compute_defaults_list(self.config_name, list(structural), RunMode.RUN)
        for default in listed.defaults:
            source, config = self._loaded(str(default.config_path))
            package = default.package or ""
            _put(found, package, config, source)
            if "_target_" in config:
                found[f"{package}{TARGET}"] = self._chooser(
                    default, listed.overrides.override_metadata, given
                )
        for override in listed.overrides.config_overrides:
            _put(found, override_key(override), override.value(), given[_element(override)])
        return found

    def _chooser(self, default: ResultDefault, metadata: Mapping[str, Any], given: Mapping[str, str]) -> str:
        """Say who chose a group's option: an override, or a defaults list."""
        group = str(default.config_path).rpartition("/")[0]
        for key in (f"{group}@{default.package}", group):
            added = given.get(f"+{key}")
            if added is not None:
                return added
            if key in metadata and metadata[key].external_override:
                return given[key]
            if key in metadata:
                return self._loaded(metadata[key].containing_config_path)[0]
        return self._loaded(default.parent)[0] if default.parent else "default"

    def _loaded(self, path: str) -> tuple[str, dict[str, Any]]:
        """Read one configuration as Hydra does: say where it lies, and give what is in it."""
        if path not in self._files:
            source = next((each for each in self.compose.loader.get_sources() if each.is_config(path)), None)
            self._files[path] = (path, {}) if source is None else self._read(path, source.load_config(path))
        return self._files[path]

    def _read(self, path: str, result: ConfigResult) -> tuple[str, dict[str, Any]]:
        config = cast(dict[str, Any], OmegaConf.to_container(result.config))
        config.pop("defaults", None)
        if result.path.startswith("structured://"):
            return self._default_of(config.get("_target_")), config
        if path.startswith(STUDY_FILES):
            return f"study file {path.removeprefix(STUDY_FILES)}.yaml", config
        return _named(path, result), config

    def _default_of(self, target: str | None) -> str:
        for found in self.registry:
            if f"{found.cls.__module__}.{found.cls.__qualname__}" == target:
                return f"default of {found.cls.__qualname__} ({found.distribution})"
        return "default"


@dataclass(frozen=True)
class Comparison:
    """What trials have in common, and in what they differ; what can be told once is.

    Attributes:
        common: the settings that all have.
        sources: settings that some lack or have with other values, but all from one source: their values.
        own: of each trial the other settings, and of those in `sources` the values, without source.
    """

    common: Mapping[str, Setting]
    sources: Mapping[str, Setting]
    own: Sequence[Mapping[str, Setting]]


def compared(trials: Sequence[Settings]) -> Comparison:
    """Compare trials' settings."""
    found: dict[str, list[Setting]] = {}
    for trial in trials:
        for path, setting in trial.items():
            found.setdefault(path, []).append(setting)
    distinct = {path: _distinct(settings) for path, settings in found.items()}
    common = {
        path: each[0] for path, each in distinct.items() if len(each) == 1 and len(found[path]) == len(trials)
    }
    sources = {
        path: Setting([value for value, _ in each], each[0].source)
        for path, each in distinct.items()
        if path not in common and len({source for _, source in each}) == 1
    }
    own = [
        {
            path: Setting(value, "" if path in sources else source)
            for path, (value, source) in trial.items()
            if path not in common and len(distinct[path]) > 1
        }
        for trial in trials
    ]
    return Comparison(common, sources, own)


def _distinct(settings: Sequence[Setting]) -> list[Setting]:
    # A value may be a list, which nothing can look up.
    return list({repr(each): each for each in settings}.values())


def by_source(settings: Settings) -> dict[str, dict[str, Any]]:
    """Gather settings by where they come from."""
    gathered: dict[str, dict[str, Any]] = {}
    for path, (value, source) in settings.items():
        gathered.setdefault(source, {})[path] = value
    return gathered


def leaves(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """List the values of a tree by their dotted keys; a list is a value."""
    if not isinstance(config, Mapping):
        yield path, config
        return
    for key, value in config.items():
        yield from leaves(value, f"{path}.{key}" if path else str(key))


def _put(sources: dict[str, str], path: str, value: Any, source: str) -> None:
    for leaf, _ in leaves(value, path):
        sources[leaf] = source


def _nearest(sources: Mapping[str, str], path: str) -> str:
    """Give a value's source, or that of what it is a part of."""
    while path and path not in sources:
        path = path.rpartition(".")[0]
    return sources.get(path, "default")


def _element(override: Override) -> str:
    return str(override.get_key_element())


def _names_study_file(line: str) -> bool:
    return line.lstrip("+").startswith(STUDY_FILES.rstrip("/") + "=")


def _study_file(line: str) -> str:
    return f"study file {line.partition('=')[2]}.yaml"


def _named(path: str, result: ConfigResult) -> str:
    """Name a configuration file and whose it is: the project's, the working folder's, a plugin's."""
    if result.provider == "main":
        return f"conf/{path}.yaml (myosotis)"
    if result.path.startswith("file://"):
        folder = os.path.relpath(Path(result.path.removeprefix("file://")))
        return f"{folder}/{path}.yaml (working folder)"
    return f"{path}.yaml ({result.path.removeprefix('pkg://')})"
