"""A module that stands for another one."""

from __future__ import annotations

from typing import Any

from torch import nn


class Wrapper(nn.Module):
    """Stands for a module: it is called, asked and saved as that one, but for what a subclass does otherwise.

    Attributes:
        inner: the module.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        return self.inner(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)
