"""The built-in plugins and no others, a tiny Llama in a folder, one thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.plugins import tiny

BUILT_IN = (
    "datasets.file",
    "datasets.hub",
    "datasets.lm_eval",
    "datasets.pycode",
    "datasets.pydocs",
    "datasets.pymodule",
    "datasets.pysummary",
    "methods.finetuned",
    "methods.freeze",
    "methods.full",
    "methods.lora",
    "methods.replay",
    "metrics.against_base",
    "metrics.labels",
    "metrics.language",
    "metrics.lm_eval",
    "metrics.tags",
    "metrics.text",
    "models.endpoint",
    "models.huggingface",
    "models.nano",
    "models.minilm",
    "objectives.classification",
    "objectives.instruction",
    "objectives.language_modeling",
    "objectives.lm_eval",
    "objectives.sequence_to_sequence",
    "objectives.token_classification",
)


@pytest.fixture(autouse=True)
def _built_in_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYOSOTIS_PLUGINS", ",".join(f"myosotis_plugins.{name}" for name in BUILT_IN))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.llama(), tmp_path_factory.mktemp("models") / "llama")
