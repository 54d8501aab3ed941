"""Files that are there whole or not at all, and what a disk did to the others in words."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from myosotis.errors import MyosotisError, StorageError

RERUN = "run the same command again: nothing finished is lost"
ADVICE = {
    errno.ENOSPC: f"free some space and {RERUN}",
    errno.EDQUOT: f"free some of your quota and {RERUN}",
    errno.EFBIG: f"raise the limit on the size of a file (ulimit -f) and {RERUN}",
    errno.EACCES: f"make the folder writable, or give another as studies=FOLDER, and {RERUN}",
    errno.EPERM: f"make the folder writable, or give another as studies=FOLDER, and {RERUN}",
    errno.EROFS: f"make the folder writable, or give another as studies=FOLDER, and {RERUN}",
    errno.ENOTDIR: "give a folder as studies=FOLDER",
    errno.ENOENT: "give a folder that can be made as studies=FOLDER",
    errno.EMFILE: f"raise the limit on open files (ulimit -n), or run fewer trials at once, and {RERUN}",
    errno.ENFILE: f"close other programs, or run fewer trials at once, and {RERUN}",
}
"""What helps against each way in which writing fails."""


@contextmanager
def stored(path: Path) -> Iterator[None]:
    """Say which file could not be written, what happened, how much is free, and what to do.

    Raises:
        StorageError: in place of an `OSError`, or of what a library made of one.
    """
    try:
        yield
    except MyosotisError:
        raise
    except Exception as error:
        told = _told_by_system(error)
        if told is None:
            raise
        advice = ADVICE.get(told.errno or 0, f"see to the disk and {RERUN}")
        what = told.strerror or str(told)
        raise StorageError(f"{path} must be written, but {what} ({_free(path)}); {advice}") from error


def check_writable(folder: Path) -> None:
    """See before any work that a folder can be written, or made; nothing is left behind.

    Raises:
        StorageError: it cannot.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    with stored(folder), tempfile.TemporaryDirectory(dir=there, prefix=".writable."):
        pass


def _told_by_system(error: BaseException | None) -> OSError | None:
    """Find what the system said: torch raises an error of its own beside it, safetensors quotes its number."""
    if error is None or isinstance(error, OSError):
        return error
    quoted = re.search(r"\(os error (\d+)\)", str(error))
    if quoted:
        return OSError(int(quoted[1]), os.strerror(int(quoted[1])))
    return _told_by_system(error.__cause__ or error.__context__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file to write in a file's stead; it takes the file's place once it is whole.

    Raises:
        StorageError: it could not be written; the file is as it was, and the temporary is gone.
    """
    with stored(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            sync(temporary)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        with suppress(OSError):  # the file is in its place; some file systems cannot sync a folder
            sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def size(number: float) -> str:
    """Write a number of bytes as a person says it."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 99.95 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def _free(path: Path) -> str:
    for folder in path.parents:
        with suppress(OSError):
            return f"{size(shutil.disk_usage(folder).free)} free in {folder}"
    return "free space not known"
