"""Completes the last word of a study's overrides: groups and what can be chosen, parameters and their values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from myosotis.config import Composer, composer, is_value, literals, plain
from myosotis.errors import MyosotisError
from myosotis.points import expand, set_shared, whole_study
from myosotis.schema import PLUGIN_GROUPS

WORD_BREAKS = ("=", ":", "@")
"""Where bash cuts a word in three."""


def completions(words: Sequence[str], incomplete: str) -> list[str]:
    """Give what may stand in a word's place, after the words before it; nothing where those are mistaken."""
    *before, word = joined(words, incomplete)
    with suppress(MyosotisError), composer() as compose:
        overrides = [each for each in before if "=" in each or each.startswith("~")]
        found = Completer(compose, overrides).complete(word)
        return [each[len(word) - len(incomplete) :] for each in found]
    return []


def joined(words: Sequence[str], incomplete: str) -> list[str]:
    """Put the words together that bash cut; others come whole."""
    whole: list[str] = []
    for each in words:
        if whole and (each in WORD_BREAKS or whole[-1].endswith(WORD_BREAKS)):
            whole[-1] += each
        else:
            whole.append(each)
    last = whole[-1] if whole else ""
    if last.endswith(WORD_BREAKS):
        return [*whole[:-1], last + incomplete]
    if last and not incomplete and "=" not in last and last[0] not in "-~":
        return [*whole[:-1], last + "="]  # typer takes a word that is = alone for an empty one
    return [*whole, incomplete]


class Completer:
    """Completes a word after others, whose configurations are composed when they are asked for."""

    def __init__(self, compose: Composer, before: Sequence[str]) -> None:
        self._compose = compose
        self._before = before
        self._composed: list[DictConfig] = []

    def complete(self, word: str) -> list[str]:
        """Give what begins with a word.

        Where one is left that cannot end there, what may follow comes too: shells set a space behind the only one.
        """
        key, equals, value = word.partition("=")
        if equals:
            made = [f"{key}={each}" for each in (*self._choices(key, value), *self._values(key))]
        elif key.startswith("+"):
            made = list(self._added(key))
        else:
            made = [*(f"{group}=" for group in self._groups()), *self._keys(key)]
        found = sorted({each for each in made if each.startswith(word)})
        if len(found) == 1 and found[0] != word and found[0][-1] in ".=/":
            return sorted({*found, *self.complete(found[0])})
        return found

    def _configs(self) -> list[DictConfig]:
        """Compose each choice of groups that arms and sweeps make; the first has what the study has as a whole."""
        if not self._composed:
            parsed = self._compose.parse(self._before)
            master = self._compose.master("config", list(whole_study(parsed)))
            self._composed.append(master)
            # Arms may wait for a value that is yet to come.
            with suppress(MyosotisError, OmegaConfBaseException):
                set_shared(master, parsed)
                lines = [str(each.input_line) for each in parsed if not is_value(each)]
                arms, params = plain(master.arms) or {}, master.hydra.sweeper.params
                points = expand(self._compose, "config", lines, arms, params, ends=True)
                made = [self._compose.chosen("config", point.overrides) for point in points]
                whole = OmegaConf.masked_copy(master, "hydra")
                self._composed = [whole, *{id(each): each for each in made}.values()]
        return self._composed

    def _groups(self) -> set[str]:
        """Give the groups of which something is chosen."""
        chosen = map(str, self._configs()[0].hydra.runtime.choices)
        return {*PLUGIN_GROUPS, *(group for group in chosen if "@" not in group)}

    def _keys(self, word: str) -> Iterator[str]:
        """Give the keys beside a key: sections end with a dot."""
        section, dot, _ = word.rpartition(".")
        for config in self._configs():
            node = OmegaConf.select(config, section) if section else config
            for key in map(str, node) if isinstance(node, DictConfig) else ():
                if not key.startswith("_"):
                    end = "." if OmegaConf.is_dict(node._get_node(key)) else "="
                    yield f"{section}{dot}{key}{end}"
            if section == "mix":
                yield from (f"mix.{task}=" for task in map(str, config.get("dataset") or ()))

    def _added(self, word: str) -> Iterator[str]:
        """Give what a plus begins: plugins under a name of one's own, and groups of which nothing is chosen."""
        yield from (f"+{group}@{group}." for group, (_, several) in PLUGIN_GROUPS.items() if several)
        folder, slash, _ = word[1:].rpartition("/")
        for name in self._options(folder, ObjectType.GROUP):
            group = f"{folder}{slash}{name}"
            if group in {"hydra", *self._groups()}:
                continue
            if self._options(group, ObjectType.CONFIG):
                yield f"+{group}="
            folders = [f"{group}/{each}" for each in self._options(group, ObjectType.GROUP)]
            if any(self._options(each, ObjectType.CONFIG) for each in folders):
                yield f"+{group}/"

    def _options(self, group: str, kind: ObjectType) -> list[str]:
        return self._compose.loader.get_group_options(group, kind)

    def _choices(self, key: str, value: str) -> list[str]:
        """Give what can be chosen of a group, behind what is already in the list or the sweep."""
        group = key.lstrip("+").partition("@")[0]
        match = re.fullmatch(r"(.*[\[,])?([^\[\],]*)", value)
        if match is None or "." in group:
            return []
        lead, name = match[1] or "", match[2]
        taken = lead[lead.rfind("[") + 1 :].split(",")
        options = self._options(group, ObjectType.CONFIG)
        found = [each for each in options if each.startswith(name) and each not in taken]
        if len(found) == 1 and lead.rfind("[") > lead.rfind("]"):
            return [f"{lead}{found[0]}{end}" for end in ",]"]
        return [f"{lead}{each}" for each in found]

    def _values(self, key: str) -> Iterator[str]:
        """Give the values that a parameter is known to take: those of its type, or the one that it has."""
        section, _, name = key.rpartition(".")
        for config in self._configs():
            node = OmegaConf.select(config, section) if section else config
            if isinstance(node, DictConfig) and name in node and not OmegaConf.is_interpolation(node, name):
                allowed: tuple[Any, ...] | None = None
                if section.partition(".")[0] in PLUGIN_GROUPS and "_target_" in node:
                    allowed = literals(get_class(node._target_)).get(name)
                yield from map(_written, allowed or _of_its_type(node[name]))


def _of_its_type(value: Any) -> tuple[Any, ...]:
    """Give the values that are known from the type of one, or that one; none of lists and sections."""
    if isinstance(value, bool):
        return True, False
    return () if OmegaConf.is_config(value) else (value,)


def _written(value: Any) -> str:
    """Write a value in Hydra's grammar."""
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
