"""Short names of configurations: the arm and the swept values, as a legend can hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SweptValues = Mapping[str, Any]


def labels(arms: Iterable[str], swept: Iterable[SweptValues], configurations: Iterable[str]) -> list[str]:
    """One label a configuration, in order; where a short one would stand twice, its whole name.

    The arm is named where there are several or nothing else tells.
    """
    arms, swept = list(arms), list(swept)
    several, keys = len(set(arms)) > 1, short_keys(swept)
    short = [label(arm if several else "", values, keys) for arm, values in zip(arms, swept, strict=True)]
    count = Counter(short)
    return [
        name if name and count[name] == 1 else whole
        for name, whole in zip(short, map(_whole, arms, configurations), strict=True)
    ]


def label(arm: str, swept: SweptValues, keys: Mapping[str, str]) -> str:
    """The arm and each swept value, `arm · rank=4`; `keys` are the short ones."""
    parts = [f"{keys[key]}={value_text(value)}" for key, value in swept.items()]
    return " · ".join([arm, *parts] if arm else parts)


def short_keys(swept: Iterable[SweptValues]) -> dict[str, str]:
    """The last part of each key, `rank` for `method.NAME.rank`, where it tells the key from the others.

    A task's share keeps its first part: `mix.plays` says what `plays` alone would not.
    """
    last = {key: key.rsplit(".", 1)[-1] for values in swept for key in values}
    count = Counter(last.values())
    return {
        key: name if count[name] == 1 and not key.startswith("mix.") else key for key, name in last.items()
    }


def value_text(value: Any) -> str:
    """A swept value as the command line has it; lists are joined by plus signs."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return "+".join(map(value_text, value)) or "none"
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _whole(arm: str, configuration: str) -> str:
    return (
        f"{arm} · {configuration}" if arm and arm not in configuration else configuration or arm or "default"
    )
