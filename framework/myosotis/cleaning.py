"""What a study no longer needs on disk, and taking it away; nothing that a process is writing, no links."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from myosotis.errors import ConfigurationError, StorageError
from myosotis.ledger import PREFIX_FOLDER, TrialEntry, read_entries, status
from myosotis.locks import FOLDER, Lock, StudyLock, TrialLock

RUN_FOLDER = re.compile(r"(?P<trial>[0-9a-f]{12})(?:\.(?P<number>\d+))?")
TEMPORARY = re.compile(r"\.adapter|.*\.partial|\..+\.[a-z0-9_]{8}")
CACHES = (PREFIX_FOLDER,)
"""Folders of a study that are computed again when they are missing."""
SETTLED_SECONDS = 600
"""A study's own temporary that is older is nobody's: what writes it takes seconds."""


@dataclass(frozen=True)
class Choice:
    """What is cleaned beside what nothing needs.

    Attributes:
        superseded: run folders that a newer one, made with force=true, stands for.
        unlisted: run folders of trials that the study does not list.
        wandb: finished trials' W&B files, uploaded or not.
        adapters: finished trials' adapters or weights.
    """

    superseded: bool = False
    unlisted: bool = False
    wandb: bool = False
    adapters: bool = False


@dataclass(frozen=True)
class Leftover:
    """Something that can go.

    Attributes:
        path: a file or a folder of the study.
        what: what it is.
        run: the name of the run folder that it is in; None where it is the study's own.
        bytes: the room it takes on the disk.
    """

    path: Path
    what: str
    run: str | None
    bytes: int


def leftovers(study: Path, choice: Choice) -> list[Leftover]:
    """List what can go, without what a process holds the lock of.

    Raises:
        ConfigurationError: the study's folder is a link.
        StorageError: a `study.json` is damaged, so that nobody knows what it lists.
    """
    if study.is_symlink():
        raise ConfigurationError(
            f"{study} must be a folder, but it is a link; give the folder that it leads to"
        )
    runs = [path for path in _entries(study) if RUN_FOLDER.fullmatch(path.name) and path.is_dir()]
    free = [run for run in runs if not is_held(TrialLock(study, run.name))]
    whole = list(_run_folders(study, free, choice))
    gone = {each.run for each in whole}
    within = [each for run in free if run.name not in gone for each in _within(run, choice)]
    return [*whole, *within, *_own(study, idle=free == runs)]


def remove(study: Path, said: Sequence[Leftover], choice: Choice) -> list[Leftover]:
    """Remove what was said, as far as it can still go, and give what was removed.

    Raises:
        StorageError: one could not be removed; those before it are gone.
    """
    with StudyLock(study):  # no trial is listed meanwhile
        still = {each.path for each in leftovers(study, choice)}
        return [each for each in said if each.path in still and _remove(study, each)]


def is_held(lock: Lock) -> bool:
    """Tell whether a process holds a lock; looking makes no file."""
    if not lock.path.is_file():
        return False
    free = lock.take()
    lock.release()
    return not free


def room(path: Path) -> int:
    """Measure the room that a file or a folder takes on the disk, in bytes; links are not followed."""
    with suppress(OSError):  # it went meanwhile
        inside = sum(map(room, path.iterdir())) if _is_folder(path) else 0
        return inside + path.lstat().st_blocks * 512
    return 0


def _run_folders(study: Path, runs: Sequence[Path], choice: Choice) -> Iterator[Leftover]:
    """List whole run folders that can go; none that any study lists."""
    if not (choice.superseded or choice.unlisted):
        return
    listed = {each.id: each for each in read_entries(study)}
    in_use = _in_use(study.parent)
    for run in runs:
        if run.resolve() in in_use:
            continue
        match = RUN_FOLDER.fullmatch(run.name)
        assert match is not None
        entry = listed.get(match["trial"])
        if entry is None and choice.unlisted:
            yield _leftover(run, "run folders of trials that the study does not list", run.name)
        if entry is not None and choice.superseded and _is_newer(study, entry, int(match["number"] or 1)):
            yield _leftover(run, "run folders that a newer one stands for", run.name)


def _is_newer(study: Path, entry: TrialEntry, number: int) -> bool:
    match = RUN_FOLDER.fullmatch(entry.folder)
    if match is None or status(study / entry.folder) != "finished":
        return False
    return int(match["number"] or 1) > number


def _in_use(studies: Path) -> set[Path]:
    """List the run folders that the studies list, of which one may be another study's."""
    folders = [path.parent for path in studies.glob("*/study.json")]
    return {(folder / entry.folder).resolve() for folder in folders for entry in read_entries(folder)}


def _within(run: Path, choice: Choice) -> Iterator[Leftover]:
    """List what can go of a run folder."""
    finished = status(run) in {"finished", "pruned"}
    places = [run] if finished else [run, run / "checkpoints"]
    for path in [path for place in places for path in _entries(place)]:
        if TEMPORARY.fullmatch(path.name):
            yield _leftover(path, "half-written files", run.name)
    wanted = {
        "checkpoints": "checkpoints of finished trials",
        "wandb": "W&B's files" if _uploaded(run / "wandb") else "W&B's files with runs not yet uploaded",
        "adapter": "adapters and weights",
    }
    chosen = {"checkpoints": True, "wandb": choice.wandb, "adapter": choice.adapters}
    for name, what in wanted.items():
        if finished and chosen[name] and _is_folder(run / name):
            yield _leftover(run / name, what, run.name)


def _uploaded(folder: Path) -> bool:
    return all(
        path.with_name(f"{path.name}.synced").is_file() for path in folder.glob("offline-run-*/*.wandb")
    )


def _own(study: Path, idle: bool) -> Iterator[Leftover]:
    """List what can go of the study's own; its caches only while no trial runs."""
    for name in CACHES:
        if idle and _is_folder(study / name):
            yield _leftover(study / name, "caches", None)
    for path in _entries(study):
        settled = time.time() - path.lstat().st_mtime > SETTLED_SECONDS
        if path.is_file() and settled and TEMPORARY.fullmatch(path.name):
            yield _leftover(path, "half-written files", None)
    for path in _entries(study / FOLDER):
        if path != StudyLock(study).path and not is_held(Lock(path, path.stem, patience=0)):
            yield _leftover(path, "locks that nobody holds", None)


def _entries(folder: Path) -> list[Path]:
    """List a folder's files and folders, but no links."""
    if not _is_folder(folder):
        return []
    return [path for path in sorted(folder.iterdir()) if not path.is_symlink()]


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _leftover(path: Path, what: str, run: str | None) -> Leftover:
    return Leftover(path, what, run, room(path))


def _remove(study: Path, each: Leftover) -> bool:
    """Remove something under its lock; tell whether it is gone."""
    if each.path.parent == study / FOLDER:
        lock = Lock(each.path, each.path.stem, patience=0)
    elif each.run is not None:
        lock = TrialLock(study, each.run)
    else:
        _delete(each.path)
        return True
    if not lock.take():
        return False
    try:
        _delete(each.path)
    finally:
        lock.remove()
    return True


def _delete(path: Path) -> None:
    try:
        if _is_folder(path):
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{path} must be removed, but {error.strerror}; what came before it is gone"
        ) from error
