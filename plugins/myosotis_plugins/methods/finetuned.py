"""An existing fine-tune in the base's place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ModelError
from myosotis.interfaces import Context, Method, Model, file_hash
from myosotis_plugins.models.saved import is_whole, put_on
from myosotis_plugins.models.weights import weight_files

MYOSOTIS_API = 1


class Finetuned(Method):
    """Put what an earlier training gave onto the base: an adapter, or whole weights.

    Cost: an adapter's products in every forward pass; of whole weights, none.

    Args:
        path: the folder of the adapter or of the weights.
    """

    locations = frozenset({"path"})
    changes_base = True

    def __init__(self, path: str) -> None:
        self.folder = Path(path)
        if not self.folder.is_dir():
            raise ModelError(f"path must be a folder with an adapter or weights, but there is no {path}")
        self.files = weight_files(self.folder)

    def fingerprint(self) -> str:
        """Hash the weights and their configuration, in which an adapter's scale stands."""
        return file_hash([*self.files, *sorted(self.folder.glob("*.json"))])

    def base_weights(self) -> Path | None:
        """Name the folder, unless it holds an adapter, which goes on training as one."""
        return self.folder if is_whole(self.folder) else None

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Load the adapter onto the base, or the weights instead of the base's.

        Raises:
            ModelError: the weights do not fit the base.
            ConfigurationError: another method has put adapters in.
        """
        return put_on(model, self.folder, context.outline)


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"finetuned": Finetuned}
