"""A real pretrained model: the base's score, and LoRA's effect beside a script that uses none of this project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import myosotis
from myosotis.ledger import StudyRecord

SHARED = Path(__file__).parents[2] / "shared"
MODEL = SHARED / "models" / "stories260K"
PLAYS = SHARED / "data" / "tinyshakespeare" / "input.txt"
STORIES = SHARED / "data" / "tinystories_sample" / "heldout.jsonl"
PEER = SHARED / "peers" / "hf_trainer.py"
BASELINE = Path(__file__).parents[1] / "experiments" / "benchmarks" / "baseline.py"
SEEDS = (0, 1, 2)

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir() and not os.environ.get("CI"), reason="the shared models and data are not here"
)


def study(*overrides: str) -> StudyRecord:
    plays = ["dataset=[]", "+dataset@dataset.plays=file", f"dataset.plays.train='{PLAYS}'"]
    stories = ["probe=[]", "+probe@probe.stories=file", f"probe.stories.test='{STORIES}'"]
    model = ["model=huggingface", f"model.path='{MODEL}'"]
    return myosotis.run(
        [*model, *plays, f"dataset.plays.test='{PLAYS}'", *stories, "logger=none", *overrides]
    )


def value(record: StudyRecord, stage: int, task: str) -> float:
    """Give the mean over seeds of a cross-entropy."""
    scores = record.scores
    chosen = scores[
        (scores["stage"] == stage) & (scores["task"] == task) & (scores["metric"] == "cross_entropy")
    ]
    return float(chosen["value"].mean())


@needs_shared
def test_the_base_of_stories260k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = study("method=[]", "curriculum=stages", "curriculum.stages=[]")
    assert value(record, 0, "stories") == pytest.approx(1.6902, abs=0.0005)
    row = record.scores[(record.scores["task"] == "stories") & (record.scores["metric"] == "cross_entropy")]
    assert row["n"].tolist() == [64 * 127]  # 64 blocks of 128 tokens, the first of each not predicted


def script(path: Path, seed: int, steps: int) -> dict[str, float]:
    """Run a script that trains one LoRA without this project, and give its scores afterwards."""
    command = [sys.executable, str(path), "--model", str(MODEL), "--train", str(PLAYS), "--rank", "8"]
    command += ["--eval", f"stories={STORIES}", "--eval", f"plays={PLAYS}"]
    command += ["--steps", str(steps), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["before"]["stories"] == pytest.approx(1.6902, abs=0.0005)
    after: dict[str, float] = result["after"]
    return after


@needs_shared
@pytest.mark.slow
def test_lora_ends_where_the_peer_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Between seeds the peer alone differs by up to 0.09, so means over three are compared.
    monkeypatch.chdir(tmp_path)
    record = study("trainer.max_steps=200", f"seed={','.join(map(str, SEEDS))}")
    assert record.trials["trainable_parameters"].tolist() == [46_240] * len(SEEDS)
    after = [script(PEER, seed, steps=200) for seed in SEEDS]
    for task in ("stories", "plays"):
        theirs = sum(each[task] for each in after) / len(after)
        assert value(record, 1, task) == pytest.approx(theirs, abs=0.05)


@needs_shared
def test_the_benchmarks_baseline_agrees_with_the_peer() -> None:
    assert script(BASELINE, 0, steps=20) == pytest.approx(script(PEER, 0, steps=20), abs=1e-4)
