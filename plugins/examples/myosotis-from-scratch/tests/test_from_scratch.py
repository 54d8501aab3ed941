"""The conformance suite, on a small model that is made on the spot: no test needs a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from myosotis_from_scratch import FromScratch, drawn
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from myosotis.interfaces import Task
from myosotis.testing import ModelFactoryTestSuite, TinyTask, make_task
from myosotis_plugins.metrics.language import CrossEntropy
from myosotis_plugins.objectives.language_modeling import LanguageModeling

WORDS = ("forget", "me", "not", "said", "the", "flower", "by", "a", "brook")


class Lines(TinyTask):
    """Lines of words, in every split."""

    def split(self, name: Any) -> Any:
        return [{"text": " ".join(WORDS[start:] + WORDS[:start])} for start in range(len(WORDS))]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<end>", *sorted(set(WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(made)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(made)
    return made


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYOSOTIS_CACHE", str(tmp_path_factory.mktemp("cache")))
    drawn.cache_clear()


class TestFromScratch(ModelFactoryTestSuite):
    @pytest.fixture(autouse=True)
    def _at(self, folder: Path) -> None:
        self.path = str(folder)

    def make(self) -> FromScratch:
        return FromScratch(self.path)

    def task(self) -> Task:
        return make_task("lines", Lines(), LanguageModeling(length=8), {"cross_entropy": CrossEntropy()})


def test_a_seed_gives_its_weights_and_none_are_the_pretrained_ones(folder: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        drawn.cache_clear()
        model = FromScratch(str(folder), seed).load([LanguageModeling(length=8)])
        return next(model.module.parameters()).detach()

    pretrained = next(LlamaForCausalLM.from_pretrained(folder).parameters()).detach()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert not torch.equal(weights(1), pretrained)
    assert weights(1).shape == pretrained.shape
