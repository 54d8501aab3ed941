"""Real methods in two processes: the losses of one process at the same rows a batch, to the token."""

from __future__ import annotations

import json
from pathlib import Path

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
    """Train a trial, and give its training log."""
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
    return [json.loads(line) for line in (record.folder / trial / "metrics.jsonl").read_text().splitlines()]


TRIALS = {
    "what is held and replayed": (
        "ddp",
        ["method=[lora,l2sp,ewc,replay]", "method.ewc.strength=1e4", "method.l2sp.strength=0.1"],
    ),
    "gradients projected": ("ddp", ["method=[lora,agem]"]),
    "parameters that rest": ("ddp", ["method=[adapter_per_task]", "evaluation.every=3"]),
    "an adapter divided": ("fsdp", ["method=[lora,replay]", "evaluation.every=3"]),
    "all weights divided": ("fsdp", ["method=[full]", "trainer.accumulate_grad_batches=2"]),
}


@pytest.mark.parametrize("name", TRIALS)
def test_losses_are_those_of_one_process(
    name: str, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two, the blocks are computed again in the backward pass besides."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    strategy, overrides = TRIALS[name]
    one = losses(llama_folder, 1, *overrides)
    two = losses(
        llama_folder, 2, *overrides, f"trainer.strategy={strategy}", "model.gradient_checkpointing=true"
    )
    assert len(one) == len(two) == 16
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-9)


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
        losses(llama_folder, 2, "method=[lora]", *overrides)
    assert not (tmp_path / "studies").exists()
