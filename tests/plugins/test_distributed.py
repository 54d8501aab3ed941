"""Real methods in two processes: the losses and scores of one process at the same rows a batch, to the token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import myosotis
from myosotis.errors import ConfigurationError
from tests.plugins import tiny

MODULES = (
    "datasets.file",
    "methods.adapter_per_task",
    "methods.agem",
    "methods.derpp",
    "methods.ewc",
    "methods.full",
    "methods.l2sp",
    "methods.lora",
    "methods.replay",
    "methods.wise_ft",
    "metrics.against_base",
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


@dataclass(frozen=True)
class Found:
    """What a trial has written down: its training log, its scores, and those of what methods make of it."""

    log: list[dict[str, float]]
    scores: list[dict[str, Any]]
    folder: Path


def train(model: Path, devices: int, *overrides: str) -> Found:
    """Train a trial."""
    record = myosotis.run(
        [
            *("model=huggingface", f"model.path='{model}'", "dataset=[]", "probe=[]", "logger=none"),
            *("+dataset@dataset.poem=file", "dataset.poem.train=poem.jsonl", "dataset.poem.test=poem.jsonl"),
            *(
                "+dataset@dataset.prose=file",
                "dataset.prose.train=prose.jsonl",
                "dataset.prose.test=prose.jsonl",
            ),
            *("dataset.poem.objective=instruction", "dataset.prose.objective=instruction"),
            *("dataset.poem.length=64", "dataset.prose.length=64"),
            *("trainer.max_steps=8", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu"),
            *(f"trainer.devices={devices}", f"trainer.batch_size={4 // devices}", f"study=on{devices}"),
            *("evaluation.resamples=100", "optimizer.learning_rate=0.01", *overrides),
        ]
    )
    [trial] = record.trials.trial
    folder = record.folder / trial
    scored = [line for name in ("scores", "variants") for line in lines(folder / f"{name}.jsonl")]
    return Found(lines(folder / "metrics.jsonl"), scored, folder)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


WRITTEN = (
    "dataset.poem.metrics=[cross_entropy,chrf,kl_against_base]",
    "+dataset.poem.options.max_new_tokens=6",
    "evaluation.limit=5",
    "evaluation.batch_size=2",
)
"""Asks for what the model writes, and what the base would have said."""
STOPPING = (
    "trainer.early_stopping.patience=1",
    "trainer.early_stopping.every_n_steps=2",
    "trainer.early_stopping.split=test",
)
TRIALS = {
    "what is held and replayed": (
        "ddp",
        ["method=[lora,l2sp,ewc,replay]", "method.ewc.strength=1e4", "method.l2sp.strength=0.1"],
    ),
    "gradients projected": ("ddp", ["method=[lora,agem]"]),
    "parameters that rest": ("ddp", ["method=[adapter_per_task]", "evaluation.every=3"]),
    "an adapter divided": ("fsdp", ["method=[lora,replay]", "evaluation.every=3", *WRITTEN]),
    "adapters divided that rest": ("fsdp", ["method=[adapter_per_task]", "evaluation.every=3"]),
    "all weights divided": (
        "fsdp",
        ["method=[full,wise_ft]", "trainer.accumulate_grad_batches=2", *WRITTEN, *STOPPING],
    ),
}


@pytest.mark.parametrize("name", TRIALS)
def test_numbers_are_those_of_one_process(
    name: str, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two, the blocks are computed again in the backward pass besides."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    strategy, overrides = TRIALS[name]
    one = train(llama_folder, 1, *overrides, "studies=alone")
    two = train(
        llama_folder, 2, *overrides, f"trainer.strategy={strategy}", "model.gradient_checkpointing=true"
    )
    assert len(one.log) >= 16
    for expected, found in [*zip(one.log, two.log, strict=True), *zip(one.scores, two.scores, strict=True)]:
        assert found == approximately(expected)


def approximately(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: pytest.approx(value, rel=1e-5, abs=1e-9) if isinstance(value, float) else value
        for name, value in row.items()
    }


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["method=[lora,derpp]"], "method derpp keeps rows of the batches that it sees"),
        (["method=[lora,ewc]", "trainer.strategy=fsdp"], r"method ewc looks at .* \(penalty\)"),
        (["method=[lora,agem]", "trainer.strategy=fsdp"], r"method agem looks at .* \(after_backward\)"),
        (["trainer.strategy=fsdp", "model.quantization=nf4"], "must have weights of plain numbers to divide"),
        (
            ["trainer.strategy=fsdp", "trainer.precision=16-mixed"],
            "trainer.precision must be 32-true or bf16",
        ),
    ],
)
def test_what_several_processes_cannot_do_is_refused(
    overrides: list[str],
    text: str,
    llama_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    with pytest.raises(ConfigurationError, match=text):
        train(llama_folder, 2, "method=[lora]", *overrides)
    assert not (tmp_path / "studies").exists()
