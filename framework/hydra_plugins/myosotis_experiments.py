"""Finds a working folder's own studies, `experiments/NAME.yaml`, and nothing else in that folder.

Hydra imports this module at the start of every Hydra program of the environment: no dataclasses, no
postponed annotations, no import of the core up here.
"""

from typing import Optional

from hydra._internal.core_plugins.file_config_source import (
    FileConfigSource,  # the public module has the base alone
)
from hydra.core.object_type import ObjectType


class ExperimentsSource(FileConfigSource):
    """A folder of which only `experiments/` is looked at.

    The folder itself on the search path would make every folder in it a group: once `studies/` is there,
    `studies=elsewhere` would no longer set the key.
    """

    @staticmethod
    def scheme() -> str:
        """Give what its entries on the search path begin with."""
        return "experiments"

    def available(self) -> bool:
        """Tell whether there are studies."""
        return super().is_group("experiments")

    def is_group(self, config_path: str) -> bool:
        """Tell whether a path is a folder within `experiments/`."""
        return _within(config_path) and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """Tell whether a path is a file within `experiments/`."""
        return _within(config_path) and super().is_config(config_path)

    def list(self, config_path: str, results_filter: Optional[ObjectType]) -> list[str]:
        """List a folder within `experiments/`."""
        if not _within(config_path):
            return ["experiments"] if config_path == "" and results_filter != ObjectType.CONFIG else []
        return super().list(config_path, results_filter)


def _within(config_path: str) -> bool:
    return config_path.strip("/").split("/")[0] == "experiments"
