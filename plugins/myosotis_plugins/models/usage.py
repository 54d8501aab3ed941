"""Python that loads an exported folder, `{folder}` standing for where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Package:
    """A package that a base comes with.

    Attributes:
        name: as the index knows it.
        module: as Python does.
        folder: where in it the base is.
    """

    name: str
    module: str
    folder: str


def whole(kind: str) -> str:
    """Give the lines that load whole weights.

    Args:
        kind: the class of transformers, such as `AutoModelForCausalLM`.
    """
    return _lines(
        f"from transformers import {kind}, AutoTokenizer", f'model = {kind}.from_pretrained("{{folder}}")'
    )


def adapter(kind: str, base: str | Package | None, options: Mapping[str, Any]) -> str:
    """Give the lines that load an adapter.

    Args:
        kind: the class of transformers for its base.
        base: the base's folder, or the package that has it; None where PEFT finds what the adapter names.
        options: what the base's configuration does not say, such as labels.
    """
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    if base is None:
        loader = f"AutoPeft{kind.removeprefix('Auto')}"
        return _lines(
            f"from peft import {loader}\nfrom transformers import AutoTokenizer",
            f'model = {loader}.from_pretrained("{{folder}}"{given})',
        )
    imports = f"from peft import PeftModel\nfrom transformers import {kind}, AutoTokenizer"
    place = f'"{base}"'
    if isinstance(base, Package):
        imports = f"from importlib.resources import files\n\n{imports}"
        place = f'files("{base.module}") / "{base.folder}"'
    return _lines(
        imports,
        f"base = {kind}.from_pretrained({place}{given})\n"
        'model = PeftModel.from_pretrained(base, "{folder}")',
    )


def _lines(imports: str, model: str) -> str:
    return f'{imports}\n\n{model}\ntokenizer = AutoTokenizer.from_pretrained("{{folder}}")'
