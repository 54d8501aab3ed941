"""Encoders, decoders and both, loaded for objectives as trials load them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from myosotis.interfaces import Model, Objective
from tests.plugins import tiny

FOLDERS: Mapping[str, Callable[[Path], Path]] = {
    "distilbert": lambda folder: tiny.save_encoder(tiny.distilbert(), folder),
    "bert": lambda folder: tiny.save_encoder(tiny.bert(), folder),
    "t5": lambda folder: tiny.save_encoder(tiny.t5(), folder),
    "llama": lambda folder: tiny.save(tiny.llama(), folder),
    "gpt2": lambda folder: tiny.save(tiny.gpt2(), folder),
}


def loaded(kind: str, folder: Path, *objectives: Objective, **options: Any) -> Model:
    """Save a tiny model of a kind, and load it for objectives."""
    return tiny.factory(FOLDERS[kind](folder / kind), **options).load(objectives)
