"""Cohorts of a real pretrained model: every trial's numbers, one by one and together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from myosotis.ledger import StudyRecord, read_json
from tests.test_stories import MODEL, needs_shared, study

EIGHT = "\n".join(
    f"  r{rank}: {{method.lora.rank: {rank}, optimizer.learning_rate: {rate}, seed: {seed}}}"
    for seed, (rank, rate) in enumerate(
        [(1, 3e-3), (2, 1e-3), (4, 5e-4), (8, 2e-3), (16, 1e-3), (32, 1e-4), (48, 7e-4), (64, 3e-4)]
    )
)


def run(cohort: int, *overrides: str) -> StudyRecord:
    return study(
        *overrides,
        "trainer.log_every_n_steps=1",
        "trainer.batch_size=2",
        "dataset.plays.length=64",
        "evaluation.resamples=100",
        f"study=cohort{cohort}",
        f"hydra.launcher.cohort={cohort}",
        "hydra.launcher.workers=1",
        "force=true",
    )


def losses(record: StudyRecord) -> dict[str, list[float]]:
    folders = {trial: record.folder / trial for trial in record.trials.trial}
    return {
        trial: [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()]
        for trial, folder in folders.items()
    }


def compare(one: StudyRecord, other: StudyRecord, tolerance: float, scores: float) -> None:
    """Hold each step's loss and each score of one study against another's."""
    assert sorted(one.trials.trial) == sorted(other.trials.trial)
    found = losses(other)
    for trial, expected in losses(one).items():
        np.testing.assert_allclose(found[trial], expected, rtol=tolerance)
        assert len(read_json(other.folder / trial / "manifest.json")["cohort"]) == len(found)
    np.testing.assert_allclose(other.scores.value, one.scores.value, atol=scores)


@needs_shared
@pytest.mark.slow
def test_eight_together_are_each_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "eight.yaml").write_text(f"# @package _global_\narms:\n{EIGHT}\n")
    setting = ("+experiments=eight", "trainer.max_steps=200", "trainer.save=true")
    one, eight = run(1, *setting), run(8, *setting)
    assert len(one.trials) == 8
    assert {len(each) for each in losses(eight).values()} == {200}
    compare(one, eight, 1e-5, 1e-4)
    _is_a_peft_folder(eight)


def _is_a_peft_folder(record: StudyRecord) -> None:
    """What a cohort saves loads by PEFT alone, and scores as it did in the cohort."""
    [trial] = record.trials[record.trials.arm == "r16"].trial
    from tests.test_stories import STORIES

    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(MODEL), record.folder / trial / "adapter"
    )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    texts = [json.loads(line)["text"] for line in STORIES.read_text().splitlines()]
    stream = [token for ids in tokenizer(texts)["input_ids"] for token in ids]
    blocks = torch.tensor(stream[: 64 * 128]).view(64, 128)
    with torch.no_grad():
        loss = float(model.eval()(input_ids=blocks, labels=blocks).loss)
    scores = record.scores
    chosen = scores[(scores.trial == trial) & (scores.task == "stories") & (scores.stage == 1)]
    assert loss == pytest.approx(float(chosen[chosen.metric == "cross_entropy"].value.iloc[0]), abs=1e-4)


@needs_shared
@pytest.mark.parametrize(
    ("setting", "tolerance"),
    [
        (("model.quantization=nf4",), 1e-5),
        (("model.quantization=8bit",), 1e-5),
        # bfloat16 has 8 bits of mantissa: another order of additions moves a loss by 2^-8 of itself at most.
        (("trainer.precision=bf16-mixed",), 2**-8),
    ],
    ids=["nf4", "8bit", "bf16"],
)
def test_quantized_and_reduced_bases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: tuple[str, ...], tolerance: float
) -> None:
    monkeypatch.chdir(tmp_path)
    setting = (*setting, "method.lora.rank=2,16", "trainer.max_steps=20", "evaluation.limit=8")
    compare(run(1, *setting), run(2, *setting), tolerance, 10 * tolerance)
