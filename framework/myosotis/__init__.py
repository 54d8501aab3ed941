"""Myosotis: which way of fine-tuning this model learns the most and forgets the least?"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker

if TYPE_CHECKING:
    from myosotis.study import load_study as load_study
    from myosotis.study import run as run

__version__ = version("myosotis")

hookimpl = HookimplMarker("myosotis")
"""Marks a function of a plugin module as an implementation of one of `myosotis.hookspecs`."""

__all__ = ["__version__", "hookimpl", "load_study", "run"]


def __getattr__(name: str) -> Any:
    # Composing configurations costs a second of imports that `--help` and plugin modules do not need.
    if name in {"run", "load_study"}:
        from myosotis import study

        return getattr(study, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
