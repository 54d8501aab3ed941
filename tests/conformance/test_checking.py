"""`plugins check`: sound plugins pass on what is installed, broken ones are named in the suites' words."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from myosotis import plugins
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Columns, Context, Method, Metric, Model, Plugin, Rows, Split
from myosotis.plugins import KINDS, Kind, PluginOrigin, Registry, load_registry
from myosotis.testing.checking import Checked, Chosen, check, choose
from tests import toy
from tests.conformance import broken_methods, broken_plugins

Call = Callable[..., tuple[int, str, str]]
Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a plugin module, to be loaded beside the toys."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = []

    def module(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.setenv("MYOSOTIS_PLUGINS", f"tests.toy,{name}")
        names.append(name)

    plugins._load_registry.cache_clear()
    yield module
    plugins._load_registry.cache_clear()
    for name in names:
        sys.modules.pop(name, None)


def checked(cls: type[Plugin], name: str = "own") -> Checked:
    """Check a class beside the toys, or in the place of the one of its name."""
    kind: Kind = next(kind for kind, base in KINDS.items() if issubclass(cls, base))
    toys = load_registry()
    origin = PluginOrigin(kind, name, cls, "tests 1", __file__, 1)
    found: Mapping[Kind, Any] = {**toys.plugins, kind: {**toys.plugins[kind], name: origin}}
    [only] = check(Registry(toys.manager, found, ()), Chosen((origin,), (), {}))
    return only


def test_sound_plugins_of_every_kind_pass() -> None:
    registry = load_registry()
    found = list(check(registry, choose(registry, None)))
    assert {each.origin.name: (each.failures, each.obstacle) for each in found} == {
        each.name: ((), "") for each in registry
    }
    assert all(each.checks >= 9 for each in found)
    grounds = {each.origin.name: each.ground for each in found}
    assert grounds["pull"] == "two linear layers"
    assert grounds["hits"] == "toy with points"


BROKEN: list[tuple[type[Plugin], str, str, str]] = [
    (
        broken_methods.Undocumented,
        "own",
        "The class's docstring has an `Args:`",
        r"must name \['rate'\], but",
    ),
    (
        broken_methods.RollsItsOwnDice,
        "own",
        "Two trials with one seed end with",
        "one seed must give the same",
    ),
    (broken_methods.PullsHalf, "own", "The penalty's gradient agrees with", "must be its derivative, but"),
    (
        broken_methods.ForgetsItself,
        "own",
        "A trial that is killed between its",
        "must end as an unbroken one",
    ),
    (broken_plugins.Leaking, "own", "No row stands in two splits.", "in both train and test, but 1"),
    (broken_plugins.NotANumber, "own", "A model predicts finite numbers", "predictions must be finite, but"),
    (
        broken_plugins.SummedLoss,
        "points",
        "A batch's loss is the mean of",
        "must be the weighted mean of its",
    ),
    (broken_plugins.Summed, "own", "Every example twice gives the same", "twice must not change the score"),
]


@pytest.mark.parametrize(("cls", "name", "rule", "found"), BROKEN, ids=[each[0].__name__ for each in BROKEN])
def test_what_fails_is_told_in_the_suites_words(cls: type[Plugin], name: str, rule: str, found: str) -> None:
    failures = {failure.rule: failure.found for failure in checked(cls, name).failures}
    [told] = [text for begins, text in failures.items() if begins.startswith(rule)]
    assert re.search(found, told)
    assert "Traceback" not in told


class Crashes(Method):
    """Divides by 0 after each step."""

    def after_step(self, module: nn.Module, context: Context) -> None:
        1 / 0  # noqa: B018


def test_a_crash_is_told_with_its_place() -> None:
    line = inspect.getsourcelines(Crashes.after_step)[1] + 1
    told = {failure.found for failure in checked(Crashes).failures}
    assert f"ZeroDivisionError: division by zero ({__file__}:{line})" in told


class Rated(Method):
    """A parameter that only its user knows.

    Args:
        rate: a number.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate


class Secret(Metric):
    """Reads what nothing gives."""

    higher_is_better = True

    def value(self, columns: Columns) -> float:
        return float(columns["secret"].mean())


class Wary(Method):
    """Refuses every model."""

    def adapt(self, model: Model, context: Context) -> nn.Module:
        raise ConfigurationError("the base must be another, but never is")


class Absent(toy.Points):
    """Has no rows here."""

    def split(self, name: Split) -> Rows | None:
        raise OSError("there is no network")


@pytest.mark.parametrize(
    ("cls", "obstacle"),
    [
        (Rated, "it needs rate, which has no default"),
        (Secret, "no installed model says what it reads to an installed dataset"),
        (Wary, "it refuses two linear layers"),
        (Absent, "there is no network"),
    ],
)
def test_what_cannot_be_checked_is_no_failure(cls: type[Plugin], obstacle: str) -> None:
    found = checked(cls)
    assert obstacle in found.obstacle
    assert found.failures == ()


# The command

MODULE = """
from myosotis import hookimpl
from myosotis.interfaces import Method

MYOSOTIS_API = 1


class Rated(Method):
    \"\"\"Does nothing, at a rate.

    Args:
        rate: a number.
    \"\"\"

    def __init__(self, rate: float) -> None:
        self.rate = rate


@hookimpl
def myosotis_methods():
    return {"rated": Rated}
"""
SUITES = """

@hookimpl
def myosotis_suites():
    from myosotis.testing import MethodTestSuite

    class Suite(MethodTestSuite):
        def make(self):
            return Rated(0.5)

        def test_the_rate_is_right(self, tmp_path):
            \"\"\"The rate is one half.\"\"\"
            assert self.make().rate == RATE, "the rate must be one half"

    return {"rated": Suite}
"""


@pytest.mark.parametrize(
    ("rate", "code", "told"),
    [
        ("0.5", 0, "ok  method rated: 26 checks on what its own suite gives"),
        ("0.6", 1, "The rate is one half.\n               the rate must be one half\n"),
    ],
)
def test_a_suite_that_its_author_gives_is_run(
    call: Call, write: Write, rate: str, code: int, told: str
) -> None:
    write("rated", MODULE + SUITES.replace("RATE", rate))
    done = call("plugins", "check", "rated")
    assert done[0] == code, done
    assert told in done[1]
    assert done[1].endswith(
        "1 ok, 0 failed, 0 not checked\n" if code == 0 else "0 ok, 1 failed, 0 not checked\n"
    )


def test_without_one_it_is_said_what_is_missing(call: Call, write: Write) -> None:
    write("rated", MODULE)
    code, printed, _ = call("plugins", "check", "rated")
    assert code == 0
    assert printed == (
        "not checked  method rated: it needs rate, which has no default\n0 ok, 0 failed, 1 not checked\n"
    )


@pytest.mark.parametrize("given", ["int", "gone"])
def test_suites_that_cannot_be_had_are_a_failure(call: Call, write: Write, given: str) -> None:
    write("rated", MODULE + f"\n\n@hookimpl\ndef myosotis_suites():\n    return {{'rated': {given}}}\n")
    code, printed, _ = call("plugins", "check", "rated")
    assert code == 1
    assert "failed  plugin module rated of no distribution could not be loaded: myosotis_suites: " in printed


def test_another_version_of_the_hooks_fails(call: Call, write: Write) -> None:
    write("rated", MODULE.replace("MYOSOTIS_API = 1", "MYOSOTIS_API = 2"))
    code, printed, _ = call("plugins", "check", "rated")
    assert code == 1
    assert "the module says 2; upgrade myosotis" in printed


def test_a_package_that_is_not_there_is_refused(call: Call) -> None:
    code, _, error = call("plugins", "check", "nowhere")
    assert code == 2
    assert "there is no installed package of plugins named 'nowhere'" in error
