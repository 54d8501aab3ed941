"""An architecture with random weights, as a model of myosotis: what is pretraining worth?"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from myosotis import hookimpl
from myosotis.interfaces import ModelFactory
from myosotis.ledger import cache_folder
from myosotis_plugins.models.huggingface import HuggingFace
from myosotis_plugins.models.packaged import PackagedModel

if TYPE_CHECKING:
    from myosotis.testing import ModelFactoryTestSuite

MYOSOTIS_API = 1


class FromScratch(PackagedModel):
    """Has the configuration and the tokenizer of a decoder, and none of its weights: they are drawn by a seed.

    The arm beside the pretrained one: `myosotis run model=huggingface,from_scratch`.

    Args:
        path: a folder, or an id of the Hub.
        seed: what the weights are drawn by.
    """

    locations = frozenset({"path"})

    def __init__(self, path: str, seed: int = 0) -> None:
        self.path = path
        self.seed = seed

    def folder(self) -> HuggingFace:
        """Give the factory of the folder that holds the drawn weights, in the cache."""
        return HuggingFace(str(drawn(self.path, self.seed)))


@functools.cache
def drawn(path: str, seed: int) -> Path:
    """Draw the weights once, and write them beside the tokenizer; the same seed gives the same weights."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(path)
    key = hashlib.sha256(json.dumps([config.to_dict(), path, seed], sort_keys=True, default=str).encode())
    folder = cache_folder() / "from_scratch" / key.hexdigest()[:16]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            AutoModelForCausalLM.from_config(config).save_pretrained(made)
        AutoTokenizer.from_pretrained(path).save_pretrained(made)
        if not folder.is_dir():  # another process may have been faster, with the same weights
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


@hookimpl
def myosotis_models() -> Mapping[str, type[ModelFactory]]:
    """Give the model."""
    return {"from_scratch": FromScratch}


@hookimpl
def myosotis_suites() -> Mapping[str, type[ModelFactoryTestSuite]]:
    """Give what the model is checked by."""
    from myosotis_from_scratch_suite import FromScratchSuite

    return {"from_scratch": FromScratchSuite}
