"""Keeping other libraries' bars and advice out of a study's progress lines."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Load models and insert adapters without progress bars and notices that the user can do nothing about."""
    from transformers.utils import logging as transformers_logging

    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # would list a head's weights as missing, which are to be new
    # Recommends an optional package of kernels, at the first import.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # A property of transformers that PEFT still asks for.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            # An adapter is put onto an outline for its shapes alone.
            warnings.filterwarnings(
                "ignore", message=".*copying from a non-meta parameter", category=UserWarning
            )
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
