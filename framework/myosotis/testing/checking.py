"""What `myosotis plugins check` does: the suites on what is installed, told in their own words."""

from __future__ import annotations

import contextlib
import inspect
import io
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from packaging.utils import canonicalize_name

from myosotis.errors import ConfigurationError, PluginError, first_line, in_one_line, unknown_name
from myosotis.plugins import BrokenPlugin, Kind, PluginOrigin, Registry
from myosotis.testing.dataset import TaskDatasetTestSuite
from myosotis.testing.installed import Grounds, OfDataset, OfMethod, OfMetric, OfModel, OfObjective
from myosotis.testing.method import MethodTestSuite
from myosotis.testing.metric import MetricTestSuite
from myosotis.testing.model import ModelFactoryTestSuite
from myosotis.testing.objective import ObjectiveTestSuite
from myosotis.testing.plugin import PluginTestSuite

Suite = PluginTestSuite[Any]
SUITES: Mapping[Kind, type[Any]] = MappingProxyType(
    {
        "method": MethodTestSuite,
        "dataset": TaskDatasetTestSuite,
        "model": ModelFactoryTestSuite,
        "objective": ObjectiveTestSuite,
        "metric": MetricTestSuite,
    }
)
GENERIC: Mapping[Kind, Callable[[PluginOrigin, Grounds], Suite]] = MappingProxyType(
    {
        "method": OfMethod,
        "dataset": OfDataset,
        "model": OfModel,
        "objective": OfObjective,
        "metric": OfMetric,
    }
)
"""The suites of plugins whose authors give none."""

LEFT_TO_AUTHORS = frozenset({"test_a_strength_of_0_is_no_method"})
"""What nobody else can say: at which setting a method does nothing."""


@dataclass(frozen=True)
class Failure:
    """A check that a plugin does not pass.

    Attributes:
        rule: what must hold, in the suite's words.
        found: what does not.
    """

    rule: str
    found: str


@dataclass(frozen=True)
class Checked:
    """What came of a plugin's suite.

    Attributes:
        ground: what it was checked on.
        checks: how many there were.
        failures: those that it did not pass.
        obstacle: why it could not be checked, where it could not.
    """

    origin: PluginOrigin
    ground: str = ""
    checks: int = 0
    failures: tuple[Failure, ...] = ()
    obstacle: str = ""


@dataclass(frozen=True)
class Chosen:
    """What is to be checked.

    Attributes:
        plugins: those that could be loaded.
        broken: modules that could not, or whose suites could not.
        suites: those that authors give, by kind and name.
    """

    plugins: tuple[PluginOrigin, ...]
    broken: tuple[BrokenPlugin, ...]
    suites: Mapping[tuple[Kind, str], type[Suite]]


def choose(registry: Registry, package: str | None) -> Chosen:
    """Choose the plugins of a distribution, of a module, or of one name; all where none is given.

    Raises:
        ConfigurationError: nothing is called so.
    """
    suites, without = _given_suites(registry)
    chosen = Chosen(tuple(registry), (*registry.broken, *without), suites)
    if package is None:
        return chosen
    plugins = tuple(
        each
        for each in chosen.plugins
        if each.name == package or _belongs(package, each.distribution, each.cls.__module__)
    )
    broken = tuple(each for each in chosen.broken if _belongs(package, each.distribution, each.module))
    if not plugins and not broken:
        origins = [each.distribution for each in chosen.plugins] + [
            each.distribution for each in chosen.broken
        ]
        known = {each.split()[0] for each in origins}
        hint = "; a plugin's name will do, too: myosotis plugins lists them"
        raise ConfigurationError(unknown_name("installed package of plugins", package, known) + hint)
    return replace(chosen, plugins=plugins, broken=broken)


def _belongs(package: str, distribution: str, module: str) -> bool:
    named = canonicalize_name(package) == canonicalize_name(distribution.split()[0])
    return named or module == package or module.startswith(f"{package}.")


def _given_suites(registry: Registry) -> tuple[dict[tuple[Kind, str], type[Suite]], list[BrokenPlugin]]:
    distributions = {each.cls.__module__: each.distribution for each in registry}
    found: dict[tuple[Kind, str], type[Suite]] = {}
    broken = []
    for implementation in registry.hook.myosotis_suites.get_hookimpls():
        module = implementation.plugin_name
        try:
            found |= {(_kind(suite), name): suite for name, suite in implementation.function().items()}
        except Exception as error:  # an author's mistake must not end the other checks
            text = f"myosotis_suites: {in_one_line(error)}"
            broken.append(BrokenPlugin(module, distributions.get(module, "no distribution"), text))
    return found, broken


def _kind(suite: type[Suite]) -> Kind:
    for kind, cls in SUITES.items():
        if issubclass(suite, cls):
            return kind
    raise PluginError(f"a suite must extend one of myosotis.testing, but got {suite!r}")


def check(registry: Registry, chosen: Chosen) -> Iterator[Checked]:
    """Check what is chosen, one plugin after another."""
    grounds = Grounds(registry)
    for origin in chosen.plugins:
        with _quiet():
            found = _checked(origin, chosen.suites.get((origin.kind, origin.name)), grounds)
        yield found


def _checked(origin: PluginOrigin, given: type[Suite] | None, grounds: Grounds) -> Checked:
    try:
        suite = GENERIC[origin.kind](origin, grounds) if given is None else given()
    except (ConfigurationError, OSError) as error:
        return Checked(origin, obstacle=first_line(error))
    except Exception as error:
        rule = "It can be made of its defaults." if given is None else "Its suite can be made."
        return Checked(origin, checks=1, failures=(Failure(rule, _words(error, origin)),))
    left_out = () if given else LEFT_TO_AUTHORS
    names = [name for name in dir(suite) if name.startswith("test_") and name not in left_out]
    failures = [each for each in (_run(suite, name, origin) for name in names) if each is not None]
    return Checked(origin, suite.ground, len(names), tuple(failures))


def _run(suite: Suite, name: str, origin: PluginOrigin) -> Failure | None:
    check = getattr(suite, name)
    with TemporaryDirectory() as folder:
        folders = [Path(folder)] if inspect.signature(check).parameters else []
        try:
            check(*folders)
        except Exception as error:
            rule = (inspect.getdoc(check) or name.removeprefix("test_").replace("_", " ")).split("\n")[0]
            return Failure(rule, _words(error, origin))
    return None


def _words(error: Exception, origin: PluginOrigin) -> str:
    """Give what an assertion says; of any other error also where it happened, in the plugin's file if it can be."""
    if isinstance(error, AssertionError) and str(error):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == origin.file] or frames
    return f"{in_one_line(error)} ({own[-1].filename}:{own[-1].lineno})"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what trainers and libraries print to themselves."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
