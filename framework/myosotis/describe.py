"""What a plugin says of itself: description, parameters with types and defaults, what it stores, paper."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

from myosotis import forgetting
from myosotis.errors import ConfigurationError, unknown_name
from myosotis.interfaces import Method
from myosotis.plugins import PluginOrigin, Registry

SECTION = re.compile(r"\n+(Args|Returns|Raises):\n(?: {4}.*\n?|\n)*")
"""A section of a docstring that is about calling it."""


def explain(name: str, registry: Registry) -> str:
    """Define a measure of forgetting, or a metric: what it is, its equation, its source.

    Raises:
        ConfigurationError: there is none of this name.
    """
    measure = _measures().get(name)
    if measure is not None:
        matrix = (inspect.getdoc(forgetting) or "").split("\n\n")[1]
        definition = SECTION.sub("\n", inspect.getdoc(measure) or "").strip()
        return f"{name}\n\n{definition}\n\n{matrix}"
    metrics = registry.plugins["metric"]
    if name not in metrics:
        raise ConfigurationError(unknown_name("measure or metric", name, explained_names(registry)))
    return describe(metrics[name])


def explained_names(registry: Registry) -> set[str]:
    """Name all that `explain` knows."""
    return {*_measures(), *registry.plugins["metric"]}


def _measures() -> dict[str, Callable[..., object]]:
    """Give what measures learning and forgetting by its name: each public function of `forgetting` but a helper."""
    functions = inspect.getmembers(forgetting, inspect.isfunction)
    own = {name: each for name, each in functions if each.__module__ == forgetting.__name__}
    return {name: each for name, each in own.items() if not name.startswith("_") and name != "oriented"}


def describe(found: PluginOrigin) -> str:
    """Describe a plugin from its class alone."""
    documentation = inspect.getdoc(found.cls) or ""
    head = f"{found.kind} {found.name}  ({found.distribution}, {found.file}:{found.line})"
    sections = [head, documentation.split("\nArgs:")[0].strip(), _parameters(found, documentation)]
    if issubclass(found.cls, Method):
        sections.append(f"stores between stages: {found.cls.stores}")
    if found.cls.paper:
        sections.append(f"paper: {found.cls.paper}")
    sections.append(f"example: {example(found)}")
    return "\n\n".join(section for section in sections if section)


EXAMPLES = {
    "method": "myosotis run 'method=[{name}]'",
    "dataset": "myosotis run 'dataset=[{name}]'",
    "model": "myosotis run model={name}",
    "objective": "myosotis run dataset.TASK.objective={name}",
    "metric": "myosotis run 'dataset.TASK.metrics=[{name}]'",
}
"""How each kind is chosen; TASK is a dataset that leaves the choice open."""
KEYS = {"method": "method.{name}", "dataset": "dataset.{name}", "model": "model"}
"""Where the parameters of a kind are set."""


def example(found: PluginOrigin) -> str:
    """Give a command that chooses a plugin, and sets what it must be told, or else its first parameter."""
    command = EXAMPLES[found.kind].format(name=found.name)
    if found.kind not in KEYS:
        return command
    key = KEYS[found.kind].format(name=found.name)
    parameters = inspect.signature(found.cls).parameters.values()
    needed = [f"{key}.{each.name}={each.name.upper()}" for each in parameters if each.default is each.empty]
    told = [
        f"{key}.{each.name}={str(each.default).lower() if isinstance(each.default, bool) else each.default}"
        for each in parameters
        if isinstance(each.default, int | float)
        or (isinstance(each.default, str) and each.default.isidentifier())
    ]
    return " ".join([command, *(needed or told[:1])])


def _parameters(found: PluginOrigin, documentation: str) -> str:
    explained = dict(re.findall(r"^ {4}(\w+): (.+(?:\n {6,}.+)*)", documentation, flags=re.MULTILINE))
    lines = []
    for name, parameter in inspect.signature(found.cls).parameters.items():
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        text = re.sub(r"\s+", " ", explained.get(name, ""))
        lines.append(f"  {name}: {parameter.annotation}{default}" + (f"\n      {text}" if text else ""))
    return "parameters:\n" + "\n".join(lines) if lines else "no parameters"
