"""The embedded model is a real one: it knows more of unseen prose than the best n-gram of the same text."""

from __future__ import annotations

import importlib.util
import json
import math
import platform
import sys
from pathlib import Path
from types import ModuleType

import pytest

from myosotis_plugins.datasets import standard_library
from myosotis_plugins.models.nano import FOLDER

RECIPE = Path(__file__).parents[2] / "experiments" / "nano"
TRAINED_ON = "3.11.7"


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, RECIPE / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_nano_beats_the_five_gram(capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(FOLDER)
    model = LlamaForCausalLM.from_pretrained(FOLDER)
    texts = [row["text"] for row in standard_library.docs("test")]
    pretrain = load("pretrain")
    nats = pretrain.nats(model, pretrain.encode(tokenizer, texts))
    measured = nats / math.log(2) / sum(len(text.encode()) for text in texts)
    load("kneser_ney").main()
    five_gram = float(capsys.readouterr().out.split("5-gram: ")[1].split()[0])
    assert measured < five_gram
    if platform.python_version() == TRAINED_ON:
        # Another version's documentation is another held-out text.
        reference = json.loads((RECIPE / "reference.json").read_text(encoding="utf-8"))
        assert measured == pytest.approx(reference["bits_per_byte"], abs=0.001)


def test_the_weights_are_small_enough_to_travel() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6_000_000


def test_the_recipe_trains_and_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a tiny size: three steps, few texts; the whole of it takes an hour."""
    pretrain = load("pretrain")
    texts = [row["text"] for row in standard_library.docs("test")[:40]]
    recipe = pretrain.Recipe(steps=3, warmup_steps=1, batch_size=1, block=16, hidden=32, intermediate=32)
    monkeypatch.setattr(pretrain, "Recipe", lambda: recipe)
    monkeypatch.setattr(pretrain, "texts_of", lambda part: texts[:2])
    monkeypatch.setattr(standard_library, "pretraining_texts", lambda: texts)
    paths = {"output": tmp_path / "nano-again", "losses": tmp_path / "losses.json"}
    arguments = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    monkeypatch.setattr("sys.argv", ["pretrain.py", *arguments])
    pretrain.main()
    losses = json.loads(paths["losses"].read_text(encoding="utf-8"))
    reference = json.loads((RECIPE / "reference.json").read_text(encoding="utf-8"))
    assert losses.keys() == reference.keys()
    vocabulary = len(json.loads((paths["output"] / "tokenizer.json").read_text())["model"]["vocab"])
    assert losses["test_loss"] == pytest.approx(math.log(vocabulary), rel=0.1)  # hardly trained
    assert losses["test_loss"] == losses["validation_loss"]  # of the same texts
