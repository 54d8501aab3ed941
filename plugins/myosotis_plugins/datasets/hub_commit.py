"""Asking the Hub for a data set, once."""

from __future__ import annotations

from functools import cache

from myosotis.errors import DataError, first_line


@cache
def commit(hub: str, revision: str | None) -> str:
    """Name a data set's commit; asks the Hub but once, and in its offline mode not at all.

    Loading would ask for half a minute where there is no network.

    Raises:
        DataError: the Hub does not answer, or does not have it.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return hub
    try:
        return f"{hub}@{HfApi().dataset_info(hub, revision=revision, timeout=10).sha}"
    except (
        Exception
    ) as error:  # the client's errors of the network share no base, and change with its versions
        raise DataError(f"the Hub must give {hub}, but does not: {first_line(error)}") from error
