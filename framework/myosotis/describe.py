"""What a plugin says of itself: description, parameters with types and defaults, what it stores, paper."""

from __future__ import annotations

import inspect
import re

from myosotis.interfaces import Method
from myosotis.plugins import PluginOrigin


def describe(found: PluginOrigin) -> str:
    """Describe a plugin from its class alone."""
    documentation = inspect.getdoc(found.cls) or ""
    head = f"{found.kind} {found.name}  ({found.distribution}, {found.file}:{found.line})"
    sections = [head, documentation.split("\nArgs:")[0].strip(), _parameters(found, documentation)]
    if issubclass(found.cls, Method):
        sections.append(f"stores between stages: {found.cls.stores}")
    if found.cls.paper:
        sections.append(f"paper: {found.cls.paper}")
    return "\n\n".join(section for section in sections if section)


def _parameters(found: PluginOrigin, documentation: str) -> str:
    explained = dict(re.findall(r"^ {4}(\w+): (.+(?:\n {6,}.+)*)", documentation, flags=re.MULTILINE))
    lines = []
    for name, parameter in inspect.signature(found.cls).parameters.items():
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        text = re.sub(r"\s+", " ", explained.get(name, ""))
        lines.append(f"  {name}: {parameter.annotation}{default}" + (f"\n      {text}" if text else ""))
    return "parameters:\n" + "\n".join(lines) if lines else "no parameters"
