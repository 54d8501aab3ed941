"""Finding plugins by their entry points, knowing where each comes from, refusing conflicts."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal, TypeAlias

import pluggy

from myosotis import __version__, hookspecs
from myosotis.errors import PluginError, unknown_name
from myosotis.interfaces import API, Method, Metric, ModelFactory, Objective, Plugin, TaskDataset

GROUP = "myosotis"
ISOLATION = "MYOSOTIS_PLUGINS"
"""Environment variable: module names, separated by commas, that are loaded instead of entry points."""

Kind: TypeAlias = Literal["method", "dataset", "model", "objective", "metric"]
KINDS: Mapping[Kind, type[Plugin]] = MappingProxyType(
    {
        "method": Method,
        "dataset": TaskDataset,
        "model": ModelFactory,
        "objective": Objective,
        "metric": Metric,
    }
)


@dataclass(frozen=True)
class PluginOrigin:
    """A plugin class under its name, and where it was found."""

    kind: Kind
    name: str
    cls: type[Plugin]
    distribution: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.distribution} ({self.file}:{self.line})"


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin module that could not be loaded; everything else goes on without it."""

    module: str
    distribution: str
    error: str

    def __str__(self) -> str:
        return f"plugin module {self.module} of {self.distribution} could not be loaded: {self.error}"


class Registry:
    """The plugins of this environment, by kind and name. Not to be changed once made."""

    def __init__(
        self,
        manager: pluggy.PluginManager,
        plugins: Mapping[Kind, Mapping[str, PluginOrigin]],
        broken: tuple[BrokenPlugin, ...],
    ) -> None:
        self.manager = manager
        self.plugins = plugins
        self.broken = broken

    @property
    def hook(self) -> Any:
        """pluggy's relay, to call the observers."""
        return self.manager.hook

    def find(self, kind: Kind, name: str) -> PluginOrigin:
        """Look a plugin up.

        Raises:
            PluginError: there is none of that name; says the nearest, all, and what could not be loaded.
        """
        try:
            return self.plugins[kind][name]
        except KeyError:
            raise PluginError(unknown_name(kind, name, self.plugins[kind]) + self.hints) from None

    @property
    def hints(self) -> str:
        """What may explain that a name is not known: the modules that could not be loaded."""
        return "".join(f". Also, {broken}" for broken in self.broken)

    def config_paths(self) -> list[str]:
        """Give the entries that plugins add to Hydra's search path."""
        return [path for paths in self.hook.myosotis_config_paths() for path in paths]

    def __iter__(self) -> Iterator[PluginOrigin]:
        for found in self.plugins.values():
            yield from found.values()


def load_registry() -> Registry:
    """Load the plugins of this environment, once a process for each set of plugins asked for.

    Raises:
        PluginError: a hook is misspelt or has other arguments, a name is claimed twice, or a hook
            gives what is not a class of its kind.
    """
    return _load_registry(os.environ.get(ISOLATION))


@functools.cache
def _load_registry(isolation: str | None) -> Registry:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    distributions: dict[str, str] = {}
    broken: list[BrokenPlugin] = []
    for entry in _entries(isolation):
        distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "no distribution"
        try:
            module = _import(entry)
        except Exception as error:  # an author's mistake of any kind must not end everything else
            broken.append(BrokenPlugin(entry.value, distribution, f"{type(error).__name__}: {error}"))
            continue
        distributions[entry.value] = distribution
        _register(manager, module, distribution)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        known = [name for name in vars(hookspecs) if name.startswith("myosotis_")]
        raise PluginError(f"misspelt hook: {error}. Hooks: {', '.join(known)}") from error
    plugins = {kind: _collect(manager, kind, distributions, broken) for kind in KINDS}
    return Registry(manager, plugins, tuple(broken))


def _entries(isolation: str | None) -> list[EntryPoint]:
    if isolation is None:
        found = entry_points(group=GROUP)
        # An environment can list a distribution twice (an editable install over a wheel).
        return sorted({entry.value: entry for entry in found}.values(), key=lambda entry: entry.value)
    names = [name.strip() for name in isolation.split(",") if name.strip()]
    return [EntryPoint(name=name, value=name, group=GROUP) for name in names]


def _import(entry: EntryPoint) -> ModuleType:
    try:
        module = importlib.import_module(entry.module)
    except Exception:
        stated = _stated_in_source(entry.module)
        if stated is not None:  # other hooks are a likelier reason than what failed first
            _check_api(stated)
        raise
    _check_api(getattr(module, "MYOSOTIS_API", None))
    return module


def _check_api(stated: Any) -> None:
    """Refuse a module that was written for another major version of the hooks.

    Raises:
        PluginError: says which, which one this is, and what to do.
    """
    if type(stated) is int and stated == API:
        return
    if stated is None:
        said, advice = "nothing", f"its author must state the version it is written for: MYOSOTIS_API = {API}"
    elif type(stated) is not int or stated < 1:
        said, advice = repr(stated), "its author must give a whole number from 1"
    elif stated > API:
        said, advice = str(stated), "upgrade myosotis, or install an older release of the plugin"
    else:
        said, advice = str(stated), "install a newer release of the plugin, or an older one of myosotis"
    raise PluginError(
        f"MYOSOTIS_API must be {API}, the version of the hooks of myosotis {__version__}, but the module says "
        f"{said}; {advice}"
    )


def _stated_in_source(module: str) -> Any:
    """Read MYOSOTIS_API from the source of a module that cannot be imported; None where it is not there."""
    try:
        spec = importlib.util.find_spec(module)
        tree = ast.parse(Path(spec.origin).read_bytes()) if spec and spec.origin else ast.Module([], [])
        for statement in tree.body:
            match statement:
                case ast.Assign(targets=[ast.Name("MYOSOTIS_API")], value=value):
                    return ast.literal_eval(value)
    except (ImportError, OSError, SyntaxError, ValueError):
        pass
    return None


def _register(manager: pluggy.PluginManager, module: ModuleType, distribution: str) -> None:
    try:
        manager.register(module, name=module.__name__)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{module.__name__} of {distribution}: {error}") from error


def _collect(
    manager: pluggy.PluginManager, kind: Kind, distributions: Mapping[str, str], broken: list[BrokenPlugin]
) -> dict[str, PluginOrigin]:
    found: dict[str, PluginOrigin] = {}
    hook = getattr(manager.hook, f"myosotis_{kind}s")
    for implementation in sorted(hook.get_hookimpls(), key=lambda each: each.plugin_name):
        module = implementation.plugin_name
        try:
            given = dict(implementation.function())
        except Exception as error:  # as with an import: it must not end everything else
            text = f"{hook.name} raised {type(error).__name__}: {error}"
            broken.append(BrokenPlugin(module, distributions[module], text))
            continue
        for name, cls in given.items():
            origin = _origin(kind, name, cls, distributions[module])
            if name in found:
                raise PluginError(
                    f"two {kind} plugins are named {name!r}: one from {found[name]}, one from {origin}. "
                    "Uninstall one, or have its author rename it"
                )
            found[name] = origin
    return found


def _origin(kind: Kind, name: str, cls: Any, distribution: str) -> PluginOrigin:
    if not (isinstance(cls, type) and issubclass(cls, KINDS[kind])):
        raise PluginError(
            f"{kind} {name!r} of {distribution} must be a class that extends "
            f"myosotis.interfaces.{KINDS[kind].__name__}, but it is {cls!r}"
        )
    if not name.isidentifier():
        raise PluginError(f"the name of a {kind} must be an identifier, but {distribution} gives {name!r}")
    file = inspect.getsourcefile(cls) or "?"
    return PluginOrigin(kind, name, cls, distribution, file, _line(cls))


def _line(cls: type) -> int:
    try:
        return inspect.getsourcelines(cls)[1]
    except OSError:  # made at run time
        return 0


@functools.cache
def source_hash(cls: type[Plugin]) -> str:
    """Hash the source of a plugin's module and of those it inherits from, so that an edit gives other ids.

    Read once: an edit while a study runs does not change what this process has loaded.
    """
    own = [base for base in cls.__mro__ if issubclass(base, Plugin) and base.__module__ != Plugin.__module__]
    digest = hashlib.blake2b(digest_size=8)
    for base in own:
        file = inspect.getsourcefile(base)
        digest.update(Path(file).read_bytes() if file else base.__qualname__.encode())
    return digest.hexdigest()
