"""Configurations, composed by Hydra from presets, plugins, study files and the command line."""

from __future__ import annotations

import difflib
import functools
import inspect
import io
import pickle
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from myosotis.errors import ConfigurationError, unknown_name
from myosotis.explained import explained
from myosotis.plugins import Registry, load_registry
from myosotis.schema import KEYS, PLUGIN_GROUPS, SCALARS, RootConfig

VERSION_BASE = "1.3"


def conf_folder() -> Path:
    """Find `conf/`: in the checkout above an editable install, else beside the package."""
    package = Path(__file__).resolve().parent
    checkout = package.parents[1] / "conf"
    return checkout if (checkout / "config.yaml").is_file() else package / "conf"


def extend_search_path(search_path: ConfigSearchPath) -> None:
    """Store the plugins' parameters, and add the plugins' presets and the working folder's own."""
    registry = load_registry()
    store_configs(registry)
    for path in registry.config_paths():
        search_path.append("plugin", path)
    own = Path.cwd() / "conf"
    if own.is_dir() and own.resolve() != conf_folder():
        search_path.append("working folder", f"file://{own}")
    search_path.append("working folder", f"experiments://{Path.cwd()}")


def store_configs(registry: Registry) -> None:
    """Put the schema and every plugin's parameters into Hydra's store, replacing what stood there."""
    from myosotis.structured import structured

    store = ConfigStore.instance()
    store.store(name="schema", node=_schema())
    for group, (kind, several) in PLUGIN_GROUPS.items():
        store.repo.pop(group, None)
        for found in registry.plugins[kind].values():
            package = f"{group}.{found.name}" if several else group
            store.store(group=group, name=found.name, node=structured(found.cls), package=package)


def _schema() -> DictConfig:
    root = OmegaConf.structured(RootConfig)
    # A typed root would refuse the plugins' groups, and a closed `mix` would refuse new tasks.
    schema = DictConfig({key: root._get_node(key) for key in root})
    schema["mix"] = DictConfig({}, flags={"struct": False})
    for group, (_, several) in PLUGIN_GROUPS.items():
        if several:
            schema[group] = DictConfig({})
    return schema


@contextmanager
def composer() -> Iterator[Composer]:
    """Open Hydra on this project's configuration, and close it."""
    with (
        explained(),
        initialize_config_dir(str(conf_folder()), job_name="myosotis", version_base=VERSION_BASE),
    ):
        yield Composer(GlobalHydra.instance().config_loader())


class Composer:
    """Composes trials' configurations; each choice of groups is composed by Hydra once."""

    def __init__(self, loader: ConfigLoader) -> None:
        self.loader = loader
        self._chosen: dict[tuple[str, tuple[str, ...]], Mold] = {}
        self._parser = OverridesParser.create()

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Parse overrides by Hydra's grammar."""
        return self._parser.parse_overrides(list(overrides))

    def master(self, config_name: str, overrides: Sequence[str]) -> DictConfig:
        """Compose what the study as a whole needs: its arms, launcher and sweep."""
        return self._load(config_name, overrides, RunMode.MULTIRUN)

    def _load(self, config_name: str, overrides: Sequence[str], mode: RunMode) -> DictConfig:
        try:
            return self.loader.load_configuration(config_name, list(overrides), mode)
        except (HydraException, OmegaConfBaseException):
            raise
        except ValueError as error:  # Hydra's own, where a group is given what is not a name
            raise ConfigurationError(f"{error} (in {' '.join(overrides)})") from error

    def chosen(self, config_name: str, overrides: Sequence[Override]) -> DictConfig:
        """Compose the overrides that choose groups or reshape the tree, ignoring plain values."""
        return self._mold(config_name, overrides).config

    def _mold(self, config_name: str, overrides: Sequence[Override]) -> Mold:
        structural = tuple(str(each.input_line) for each in overrides if not is_value(each))
        key = (config_name, structural)
        if key not in self._chosen:
            config = self._load(config_name, structural, RunMode.RUN)
            with open_dict(config):  # a job's configuration has none of Hydra's own either
                config.pop("hydra", None)
            self._chosen[key] = Mold(config)
        return self._chosen[key]

    def compose(self, config_name: str, overrides: Sequence[Override]) -> DictConfig:
        """Compose one trial: the same as Hydra would without its own node, at a hundredth of the time.

        Raises:
            ConfigurationError: an unknown key or a value of the wrong type.
        """
        config = self._mold(config_name, overrides).cast()
        for override in overrides:
            if is_value(override):
                with explained(override.input_line):
                    OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        _check_read(config, overrides)
        return config


def _check_read(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Refuse a key that nothing reads where it was meant to be read: in a setting, or like a known one.

    What was meant by it would be missing in silence. Several studies may share a file of values, of which one
    reads some.
    """
    own = {str(key) for key in config} - KEYS
    if not own:
        return
    if "experiments" in own:
        raise ConfigurationError(
            "a file of experiments/ must have '# @package _global_' as its first line: without it, what it sets "
            f"({', '.join(map(str, config.experiments))}) goes below experiments, where nothing reads it"
        )
    given = {each.key_or_group.partition(".")[0] for each in overrides}
    known = {*KEYS, "experiments"}
    read = " ".join(re.findall(r"\$\{[^{}]*", repr(OmegaConf.to_container(config))))
    for name in sorted(own):
        meant = name in given or difflib.get_close_matches(name, known)
        if meant and not re.search(rf"\b{re.escape(name)}\b", read):
            raise ConfigurationError(
                f"{unknown_name('key', name, known)}; a key of your own must be referred to by some value, as "
                f"${{{name}}}"
            )


class Mold:
    """A configuration to be copied many times: reading bytes is six times as fast as a deep copy."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self._types: list[type] = []
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
        pickler.persistent_id = self._number  # type: ignore[method-assign]
        pickler.dump(config)
        self._bytes = buffer.getvalue()

    def _number(self, value: Any) -> int | None:
        # Structured configurations are classes made at run time, which no bytes can hold.
        if not isinstance(value, type):
            return None
        self._types.append(value)
        return len(self._types) - 1

    def cast(self) -> DictConfig:
        """Give a tree of its own."""
        unpickler = pickle.Unpickler(io.BytesIO(self._bytes))
        unpickler.persistent_load = self._types.__getitem__  # type: ignore[method-assign]
        return unpickler.load()  # type: ignore[no-any-return]


def is_value(override: Override) -> bool:
    """Tell a plain `key=value` from what chooses a group, adds, deletes or moves."""
    plain = override.input_line is not None and override.input_line[0] not in "+~"
    key = override.key_or_group
    nested = "." in key and "/" not in key and "@" not in key and not key.startswith("hydra.")
    return plain and override.package is None and (nested or key in SCALARS)


def plain(config: Any) -> Any:
    """Give a node as plain dictionaries and lists, interpolations resolved."""
    if isinstance(config, DictConfig | ListConfig):
        return OmegaConf.to_container(config, resolve=True)
    return config


def check_literals(path: str, node: Mapping[str, Any], cls: type) -> None:
    """Refuse values outside a parameter's `Literal`, which the structured configuration lets through.

    Raises:
        ConfigurationError: names the key, the values that it may have, and the one received.
    """
    for name, value in node.items():
        allowed = literals(cls).get(name)
        if allowed and value not in allowed:
            near = unknown_name("value", str(value), [str(each) for each in allowed])
            raise ConfigurationError(f"{path}.{name}: {near}")


@functools.cache
def literals(cls: type) -> Mapping[str, tuple[Any, ...]]:
    """Give the values that each parameter of a `Literal` may have, and nothing for the others."""
    hints = typing.get_type_hints(inspect.getattr_static(cls, "__init__"))
    return {name: _literal_values(hint) for name, hint in hints.items()}


def _literal_values(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    union = [_literal_values(each) for each in typing.get_args(hint)] if hint is not None else []
    literals = tuple(value for each in union for value in each)
    return (*literals, None) if literals and type(None) in typing.get_args(hint) else literals


def is_name(text: str) -> bool:
    """Tell whether a text can name a study's folder."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) is not None
