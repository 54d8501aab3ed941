"""Real methods in two processes: the losses of one process at the same rows a batch, to the token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import myosotis
from myosotis.devices import check_devices
from myosotis.errors import ConfigurationError
from myosotis_plugins.methods.derpp import DERPP
from tests.core.commands import resolved
from tests.plugins import tiny

MODULES = (
    "datasets.file",
    "methods.adapter_per_task",
    "methods.agem",
    "methods.ewc",
    "methods.full",
    "methods.l2sp",
    "methods.lora",
    "methods.replay",
    "metrics.language",
    "metrics.text",
    "models.huggingface",
    "objectives.instruction",
    "objectives.language_modeling",
)


@pytest.fixture(autouse=True)
def _methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYOSOTIS_PLUGINS", ",".join(f"myosotis_plugins.{name}" for name in MODULES))


def write_rows(folder: Path) -> None:
    """Write two tasks, whose rows are of very different lengths."""
    for name, texts in (("poem", tiny.POEM), ("prose", tiny.PROSE)):
        rows = [
            {"prompt": text[: 5 + number], "response": text[: 3 + 6 * (number % 4)]}
            for number, text in enumerate(texts * 2)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def losses(model: Path, devices: int, *overrides: str) -> list[dict[str, float]]:
    record = myosotis.run(
        [
            *("model=huggingface", f"model.path='{model}'", "dataset=[]", "probe=[]", "logger=none"),
            *("+dataset@dataset.poem=file", "dataset.poem.train=poem.jsonl", "dataset.poem.test=poem.jsonl"),
            *("+dataset@dataset.prose=file", "dataset.prose.train=prose.jsonl", "dataset.prose.test=prose.jsonl"),
            *("dataset.poem.objective=instruction", "dataset.prose.objective=instruction"),
            *("dataset.poem.length=64", "dataset.prose.length=64"),
            *("trainer.max_steps=8", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu"),
            *(f"trainer.devices={devices}", f"trainer.batch_size={4 // devices}", f"study=on{devices}"),
            *("evaluation.resamples=100", "optimizer.learning_rate=0.01", *overrides),
        ]
    )
    [trial] = record.trials.trial
    return [json.loads(line) for line in (record.folder / trial / "metrics.jsonl").read_text().splitlines()]


METHODS = {
    "what is held and replayed": [
        "method=[lora,l2sp,ewc,replay]",
        "method.ewc.strength=1e4",
        "method.l2sp.strength=0.1",
        "method.replay.share=0.5",
    ],
    "gradients projected": ["method=[lora,agem]"],
    "parameters that rest": ["method=[adapter_per_task]", "evaluation.every=3"],
}


@pytest.mark.parametrize("name", METHODS)
def test_losses_are_those_of_one_process(
    name: str, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two, the blocks are computed again in the backward pass besides."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    one = losses(llama_folder, 1, *METHODS[name])
    two = losses(llama_folder, 2, *METHODS[name], "model.gradient_checkpointing=true")
    assert len(one) == len(two) == 16
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_a_buffer_of_batches_is_refused() -> None:
    assert DERPP.keeps_batches
