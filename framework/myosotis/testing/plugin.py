"""What every plugin's suite checks: its parameters, and what it says about itself."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from myosotis.interfaces import Plugin
from myosotis.plugins import Registry, load_registry

P = TypeVar("P", bound=Plugin)


class PluginTestSuite(ABC, Generic[P]):
    """The checks that suites of all kinds share.

    Attributes:
        ground: what the plugin is checked on, for `myosotis plugins check` to tell.
    """

    ground: str = "what its own suite gives"

    @abstractmethod
    def make(self) -> P:
        """Make the plugin anew, always with the same parameters."""

    def registry(self) -> Registry:
        """Give the plugins that names are looked up in: those of the environment."""
        return load_registry()

    def test_parameters_are_typed(self) -> None:
        """Every constructor parameter has a type; there is no `*args` or `**kwargs`."""
        for parameter in constructor_parameters(type(self.make())):
            assert parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD), (
                f"the constructor must name each parameter, but takes {parameter}"
            )
            assert parameter.annotation is not parameter.empty, f"parameter {parameter.name} must have a type"

    def test_parameters_are_documented(self) -> None:
        """The class's docstring has an `Args:` section with exactly the constructor's parameters."""
        cls = type(self.make())
        expected = {parameter.name for parameter in constructor_parameters(cls)}
        documented = _documented(cls)
        assert documented == expected, (
            f"Args: of {cls.__name__}'s docstring must name {sorted(expected)}, but names {sorted(documented)}"
        )

    def test_says_what_it_is(self) -> None:
        """The class has a docstring and a version that counts from 1."""
        cls = type(self.make())
        assert (cls.__doc__ or "").strip(), f"{cls.__name__} must say in a docstring what it is"
        assert isinstance(cls.version, int), f"version must be a whole number, but is {cls.version!r}"
        assert cls.version >= 1, f"version must be at least 1, but is {cls.version}"

    def test_locations_are_parameters(self) -> None:
        """`locations` names constructor parameters."""
        cls = type(self.make())
        unknown = cls.locations - {parameter.name for parameter in constructor_parameters(cls)}
        assert not unknown, f"locations must name parameters, but names {sorted(unknown)}"

    def test_fingerprint_is_stable(self) -> None:
        """Two instances give one fingerprint; it is empty only where nothing outside is read."""
        plugin, again = self.make(), self.make().fingerprint()
        fingerprint = plugin.fingerprint()
        assert isinstance(fingerprint, str), f"a fingerprint must be text, but is {fingerprint!r}"
        assert fingerprint == again, f"two instances must have one fingerprint, but: {fingerprint}, {again}"
        assert fingerprint or not plugin.reads_outside, (
            "what is read from outside must be in the fingerprint, but it is empty; where parameters alone decide "
            "everything, set reads_outside = False"
        )


def constructor_parameters(cls: type[Plugin]) -> list[inspect.Parameter]:
    """Give the parameters of a plugin's constructor."""
    return list(inspect.signature(cls).parameters.values())


def _documented(cls: type[Plugin]) -> set[str]:
    """Read the names under `Args:` in a class's docstring."""
    _, found, section = (inspect.getdoc(cls) or "").partition("Args:\n")
    if not found:
        return set()
    section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
    indent = re.match(r" *", section)
    names = re.findall(rf"^{indent[0] if indent else ''}(\w+):", section, flags=re.MULTILINE)
    return set(names)
