"""Feeds Hydra from the plugins, for this project's own commands only.

Hydra imports this module at the start of every Hydra program of the environment, and 1.3.8 runs it
before it is in `sys.modules`: no dataclasses, no postponed annotations, no import of the core up here.
"""

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class MyosotisSearchPath(SearchPathPlugin):
    """Adds the plugins' presets and the working folder's own, and stores the plugins' parameters."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Act where the program's own configuration is this project's; leave every other as it is."""
        # No command of this project composes without it, and no other program pays for its import.
        config = sys.modules.get("myosotis.config")
        main = [entry.path for entry in search_path.get_path() if entry.provider == "main"]
        if config is not None and str(config.conf_folder()) in [
            path.removeprefix("file://") for path in main
        ]:
            config.extend_search_path(search_path)
