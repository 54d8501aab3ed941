"""Full fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping

from myosotis import hookimpl
from myosotis.interfaces import Method

MYOSOTIS_API = 1


class Full(Method):
    """Train every parameter of the base that nothing freezes: every hook's default.

    Cost: beside the weights, a gradient and AdamW's two numbers for each, 16 bytes a parameter in float32.
    """


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"full": Full}
