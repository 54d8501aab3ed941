"""A search's journal: Optuna's storage in one file of the study, which every process may append to.

Optuna's CMA-ES keeps its state there as a pickle: go on with a journal from those whose plugins you run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

from myosotis.locks import FOLDER, Lock

if TYPE_CHECKING:
    from optuna.storages import JournalStorage

FILE = "search.journal"
FOREVER = -1.0


def open_journal(folder: Path) -> JournalStorage:
    """Open the journal of a study, or begin it.

    Args:
        folder: the study's.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / FILE
    return optuna.storages.JournalStorage(JournalFileBackend(str(path), cast(Any, JournalLock(path))))


@final
class JournalLock:
    """The right to append, as Optuna asks for it; the kernel takes it back from whoever dies.

    Args:
        path: the journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        study = path.parent
        self.lock = Lock(study / FOLDER / "journal.lock", f"the journal of study {study.name}", FOREVER)

    def acquire(self) -> bool:
        """Wait for the right, and take away what a killed process has half written."""
        taken = self.lock.take(FOREVER)
        mend(self.path)
        return taken

    def release(self) -> None:
        """Let others append."""
        self.lock.release()


def mend(path: Path) -> None:
    """Cut a file of lines to its last whole one: what came behind a torn one would be lost with it."""
    with path.open("rb+") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
