"""A plugin's constructor as a structured configuration, by hydra-zen."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any

from hydra_zen import BuildsFn
from omegaconf import DictConfig, OmegaConf


class _Builds(BuildsFn[Any]):  # type: ignore[misc]
    """hydra-zen's `builds`, which takes `int | None` for anything; here it stays what it is."""

    @classmethod
    def _sanitized_type(cls, type_: Any, **settings: Any) -> Any:
        if isinstance(type_, types.UnionType):
            type_ = typing.Union[typing.get_args(type_)]  # noqa: UP007 - the form that OmegaConf reads
        return super()._sanitized_type(type_, **settings)


def structured(cls: type) -> DictConfig:
    """Give the structured configuration that makes a class: its parameters, their types and defaults.

    A mapping takes any keys. Where it may be None by default, it is empty instead: OmegaConf merges no mapping into
    nothing.
    """
    parameters = inspect.signature(cls).parameters
    mappings = [name for name, kind in _hints(cls).items() if name in parameters and _is_mapping(kind)]
    empty: dict[str, dict[str, Any]] = {name: {} for name in mappings if parameters[name].default is None}
    made = _Builds.builds(cls, populate_full_signature=True, hydra_convert="all", **empty)
    node: DictConfig = OmegaConf.structured(made)
    for name in mappings:
        if isinstance(node._get_node(name), DictConfig):
            OmegaConf.set_struct(node._get_node(name), False)  # type: ignore[arg-type]
    return node


def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls.__init__)  # type: ignore[misc]


def _is_mapping(kind: Any) -> bool:
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return any(typing.get_origin(each) is dict for each in options)
