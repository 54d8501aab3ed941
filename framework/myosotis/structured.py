"""A plugin's constructor as a structured configuration, by hydra-zen."""

from __future__ import annotations

import types
import typing
from typing import Any

from hydra_zen import BuildsFn


class _Builds(BuildsFn[Any]):  # type: ignore[misc]
    """hydra-zen's `builds`, which takes `int | None` for anything; here it stays what it is."""

    @classmethod
    def _sanitized_type(cls, type_: Any, **settings: Any) -> Any:
        if isinstance(type_, types.UnionType):
            type_ = typing.Union[typing.get_args(type_)]  # noqa: UP007 - the form that OmegaConf reads
        return super()._sanitized_type(type_, **settings)


def structured(cls: type) -> Any:
    """Give the structured configuration that makes a class: its parameters, their types and defaults."""
    return _Builds.builds(cls, populate_full_signature=True, hydra_convert="all")
