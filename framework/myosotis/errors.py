"""One tree of exceptions: what is the user's to mend, and what befell a trial."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager


class MyosotisError(Exception):
    """Anything that this project raises on purpose; the command line shows its text alone."""

    exit_code = 1


class ConfigurationError(MyosotisError):
    """The command or a configuration file asks for what cannot be; nothing was run."""

    exit_code = 2


class DataError(ConfigurationError):
    """A dataset's files or rows are not what the configuration says they are."""


class RowError(DataError):
    """A row is not what its objective reads; whoever gave the rows knows where it stands.

    Args:
        problem: what is wrong with it.
        row: which one of those that were given, from 1.
    """

    def __init__(self, problem: str, row: int | None = None) -> None:
        super().__init__(problem if row is None else f"row {row}: {problem}")
        self.problem = problem
        self.row = row


class ModelError(ConfigurationError):
    """A model's files cannot be loaded as the configuration says."""


class PluginError(ConfigurationError):
    """A plugin breaks the contract of its kind, or two claim one name."""


class TrialError(MyosotisError):
    """One trial cannot go on; the others can."""


class NonFiniteLoss(TrialError):
    """The loss became infinite or not a number."""


class StorageError(MyosotisError):
    """A file of a study cannot be written, or does not hold what was written."""


class Held(MyosotisError):
    """Another process holds the lock on what this one needs."""


class Interrupted(MyosotisError):
    """The study was asked to stop; what ran is saved."""

    exit_code = 130


class TrialsFailed(MyosotisError):
    """The study is over, and some of its trials failed."""


def first_line(error: BaseException) -> str:
    """Give the first line of what an error says, or its name where it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def check_parameters(place: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuse parameters that what stands at a place of the configuration does not have."""
    for name in given:
        if name not in known:
            raise ConfigurationError(unknown_name(f"parameter of {place}", name, known))


REINSTALL = "if an installation broke off, install again what has it; myosotis doctor tells what is missing"
"""What to do about a module that is not there."""


def in_one_line(error: BaseException) -> str:
    """Give an error's name, and the first line of what it says."""
    name, first = type(error).__name__, first_line(error)
    missing = f"; {REINSTALL}" if isinstance(error, ModuleNotFoundError) else ""
    return name if first == name else f"{name}: {first}{missing}"


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put the place that a mistake is in before its text."""
    try:
        yield
    except ConfigurationError as error:
        raise type(error)(f"{where}: {error}") from error


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, with the nearest names and the full list."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    listed = ", ".join(names) if names else "none"
    return f"there is no {what} named {name!r}.{meant} Known: {listed}"
