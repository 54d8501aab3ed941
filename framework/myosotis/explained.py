"""What Hydra and OmegaConf refuse, in the user's words."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core import default_element
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from myosotis.errors import ConfigurationError, first_line, unknown_name
from myosotis.plugins import load_registry
from myosotis.schema import PLUGIN_GROUPS


@contextmanager
def explained(override: str | None = None) -> Iterator[None]:
    """Turn Hydra's and OmegaConf's errors into one in the user's words."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(explain(error, override)) from error
    except YAMLError as error:
        raise ConfigurationError(f"a file is not YAML: {' '.join(str(error).split())}") from error
    except AssertionError as error:
        if Path(traceback.extract_tb(error.__traceback__)[-1].filename) != Path(default_element.__file__):
            raise
        # Hydra tells the order of lines with one value itself, and trips over one with a list.
        raise ConfigurationError(
            "the override lines of a file's defaults must come after all others but _self_, and in one of the "
            "files asked for, an override line with a list comes before another; move it down"
        ) from error


def explain(error: BaseException, override: str | None = None) -> str:
    """Say in a sentence what Hydra or OmegaConf refused, with the nearest names."""
    if isinstance(error, OverrideParseException):
        return f"{error.override} does not follow Hydra's grammar: {_misspelt(error)}"
    within = error.__cause__ or error.__context__  # the latter where Hydra tells in which file it is
    cause = (
        within if isinstance(error, HydraException) and isinstance(within, OmegaConfBaseException) else error
    )
    if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
        return _explain_missing(str(cause.missing_cfg_file), cause.options)
    key = str(getattr(cause, "full_key", None) or "")
    parent = getattr(cause, "parent_node", None)
    text = first_line(cause)
    file = re.match(r"In '(.+)': ", str(error)) if cause is not error else None
    place = f"{file[1]}.yaml: " if file else ""
    if key and "not in" in text and isinstance(parent, DictConfig):
        prefix, _, name = key.rpartition(".")
        known = [str(each) for each in parent if not str(each).startswith("_")]
        known += [] if prefix else ["experiments"]  # the group of written studies
        told = place + unknown_name(f"parameter of {prefix}" if prefix else "key", name, known)
        return told + (_models_with(name) if prefix == "model" else "")
    if key:
        told = f"{place}{key}: {text}" + (f" (from {override})" if override else "")
        is_list = re.match(r"Value '.*' of type 'list(Config)?'", text, flags=re.IGNORECASE)
        how = f"; a list is one value: a sweep is {key}=1,2, in a file {key}: 1,2 under hydra.sweeper.params"
        return told + (how if is_list else "")
    return place + text if place else str(error)


def _models_with(parameter: str) -> str:
    """Say which models have a parameter that the chosen one lacks."""
    models = load_registry().plugins["model"].values()
    having = [each.name for each in models if parameter in inspect.signature(each.cls).parameters]
    return f". For it, add {' or '.join(f'model={each}' for each in sorted(having))}" if having else ""


def _misspelt(error: OverrideParseException) -> str:
    """Say what is wrong with an override in plain words where it is usual, and in the parser's elsewhere."""
    written = str(error.override)
    for opening, closing in ("[]", "{}", "()"):
        if written.count(opening) != written.count(closing):
            return f"each {opening} must have its {closing}; in a shell, write it in quotes, as 'key=[a,b]'"
    if written.endswith(","):
        return "a value must stand behind its last comma"
    if written.endswith((".yaml", ".yml")):
        return f"a file of experiments/ is chosen by its name: +experiments={Path(written).stem}"
    if "=" not in written:
        return "a setting is key=value, without spaces around the ="
    return str(error.message).split("\n")[0]


def _explain_missing(path: str, options: Sequence[str] | None) -> str:
    group, _, name = path.rpartition("/")
    group = group.lstrip("/")
    kind = PLUGIN_GROUPS.get(group, (None, False))[0]
    known = list(options or [])
    if group.startswith("experiments"):
        meant = Path(name).stem
        return (
            f"a file of experiments/ is chosen by its name: +experiments={meant}"
            if meant in known
            else unknown_name("experiment", name, known)
        )
    if kind is None:
        return unknown_name(group or "configuration", name, known)
    registry = load_registry()
    hints = "".join(f". Also, {broken}" for broken in registry.broken)
    return unknown_name(group, name, {*known, *registry.plugins[kind]}) + hints
