"""What the built-in plugins are checked with: tiny models of real architectures, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from myosotis.cohort import run_trial
from myosotis.interfaces import (
    Context,
    Method,
    Model,
    ModelFactory,
    Row,
    Rows,
    Split,
    Stage,
    Task,
    TaskDataset,
)
from myosotis.ledger import Score
from myosotis.schema import TrainerConfig
from myosotis.testing import MethodTestSuite, make_task
from myosotis.testing.rehearsal import Rehearsal, registry_without_plugins
from myosotis.workspace import Workspace
from myosotis_plugins.metrics.language import CrossEntropy
from myosotis_plugins.models.huggingface import HuggingFace
from myosotis_plugins.objectives.instruction import Instruction
from myosotis_plugins.objectives.language_modeling import LanguageModeling

VOCABULARY = 257
BLOCKS = 3

POEM = (
    "the rose is red and the violet blue",
    "sugar is sweet",
    "a myosotis forgets you not",
    "forget me not said the flower by the brook",
    "for every rose there is a thorn",
    "all that is gold does not glitter",
)
PROSE = (
    "rows are read from a file",
    "each block has as many tokens as its length",
    "the model is loaded once",
    "an adapter is inserted into each linear layer",
    "what is frozen does not change",
    "every trial has a folder of its own",
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer with a token for each byte, and one for the end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, "</s>"])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")


def encoder_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer with a token for each byte, and those that encoders add."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*special, *alphabet])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )


def distilbert(seed: int = 0) -> DistilBertForMaskedLM:
    """Make an encoder with the head that predicts masked tokens."""
    config = DistilBertConfig(
        vocab_size=260,
        dim=16,
        hidden_dim=32,
        n_layers=2,
        n_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    return DistilBertForMaskedLM(config)


def bert(seed: int = 0) -> BertModel:
    """Make the body of an encoder, whose pooling layer is part of what classifies."""
    config = BertConfig(
        vocab_size=260,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    torch.manual_seed(seed)
    return BertModel(config)


def t5(seed: int = 0) -> T5ForConditionalGeneration:
    """Make an encoder and a decoder."""
    config = T5Config(
        vocab_size=260, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    torch.manual_seed(seed)
    return T5ForConditionalGeneration(config)


def save_encoder(module: Any, folder: Path) -> Path:
    """Save a model with the encoders' tokenizer as a folder."""
    module.save_pretrained(folder)
    encoder_tokenizer().save_pretrained(folder)
    return folder


def llama(
    attention: str = "sdpa", width: int = 16, blocks: int = BLOCKS, seed: int = 0, tied: bool = True
) -> LlamaForCausalLM:
    """Make a Llama, whose head is its embeddings where it is tied."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        # Larger than usual, so that an untrained model's predictions differ from token to token.
        initializer_range=0.3,
    )
    return _made(LlamaForCausalLM, config, attention, seed)


def gpt2(attention: str = "sdpa", seed: int = 0) -> GPT2LMHeadModel:
    """Make a GPT-2, whose positions are learned."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=128,
        n_embd=16,
        n_layer=2,
        n_head=4,
        initializer_range=0.3,
    )
    return _made(GPT2LMHeadModel, config, attention, seed)


def opt(attention: str = "sdpa", seed: int = 0) -> OPTForCausalLM:
    """Make an OPT, whose projections have biases and whose positions have an offset."""
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        word_embed_proj_dim=16,
        init_std=0.3,
    )
    return _made(OPTForCausalLM, config, attention, seed)


def qwen2(attention: str = "sdpa", seed: int = 0) -> Qwen2ForCausalLM:
    """Make a Qwen2, whose queries, keys and values have biases."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    return _made(Qwen2ForCausalLM, config, attention, seed)


def _made(kind: Any, config: Any, attention: str, seed: int) -> Any:
    config._attn_implementation = attention
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config).eval()


MODELS: Mapping[str, Callable[[], Any]] = {"llama": llama, "gpt2": gpt2, "opt": opt}


def model(module: Any = None) -> Model:
    """Give a model with the byte tokenizer."""
    return Model(llama() if module is None else module, tokenizer())


def save(module: Any, folder: Path) -> Path:
    """Save a model with the byte tokenizer as a folder."""
    module.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


class Texts(TaskDataset):
    """Given texts to train on, and the same in capitals to be scored on."""

    def __init__(self, texts: Sequence[str], length: int = 16) -> None:
        self.texts = texts
        self.length = length

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        return "language_modeling", {"length": self.length}

    def split(self, name: Split) -> Rows | None:
        if name == "validation":
            return None
        return [{"text": text.upper() if name == "test" else text} for text in self.texts]


def text_task(name: str, texts: Sequence[str], length: int = 16) -> Task:
    """Make a language modelling task of texts."""
    return make_task(name, Texts(texts, length), LanguageModeling(length), {"cross_entropy": CrossEntropy()})


def text_tasks() -> dict[str, Task]:
    """Make two tasks."""
    return {"poem": text_task("poem", POEM), "prose": text_task("prose", PROSE)}


class Questions(TaskDataset):
    """Given questions and answers, the same ones in all splits, and a corpus to look them up in."""

    def __init__(self, rows: Sequence[Row], passages: Sequence[str], objective: str = "instruction") -> None:
        self.rows = rows
        self.passages = passages
        self.chosen = objective

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        return self.chosen, {}

    def split(self, name: Split) -> Rows | None:
        return None if name == "validation" else self.rows

    def corpus(self) -> Sequence[str]:
        return self.passages


def question_task(name: str, dataset: Questions) -> Task:
    """Make a task of questions."""
    return make_task(
        name, dataset, Instruction(length=96, template="plain"), {"cross_entropy": CrossEntropy()}
    )


def question_tasks() -> dict[str, Task]:
    """Make two tasks of questions about texts."""
    return {
        name: question_task(
            name, Questions([{"prompt": each[:9], "response": each[9:]} for each in texts], texts)
        )
        for name, texts in (("poem", POEM), ("prose", PROSE))
    }


def context(
    of: Model, frozen: frozenset[str] = frozenset(), tasks: Mapping[str, Task] | None = None
) -> Context:
    """Make a context outside of a trial."""
    return Context(
        model=of,
        tasks=tasks or {},
        stage=Stage(0, {}),
        step=0,
        steps=0,
        generator=torch.Generator().manual_seed(0),
        frozen=frozen,
        outline=False,
        training_loss=lambda module, batch: torch.zeros(()),
        training_batches=lambda size: iter(()),
    )


def losses(
    folder: Path,
    factory: ModelFactory,
    task: Task,
    methods: Mapping[str, Method],
    steps: int,
    **settings: Any,
) -> tuple[list[float], list[Score]]:
    """Train methods on one task as a trial does; give the loss of every step, and the scores."""
    rehearsal = Rehearsal(folder, factory, {task.name: task}, Method())
    trainer = TrainerConfig(max_steps=steps, batch_size=4, accelerator="cpu", log_every_n_steps=1)
    config = replace(rehearsal.config(), methods=methods, trainer=trainer, **settings)
    run_trial(config, folder, "study", "trial", Workspace(folder.parent, registry_without_plugins()))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines], rehearsal.scores


def factory(folder: Path, quantization: Literal["none", "8bit", "nf4"] = "none") -> HuggingFace:
    """Give the factory of a folder."""
    return HuggingFace(str(folder), quantization=quantization)


class OnLlama(MethodTestSuite):
    """Checks a method on a tiny Llama from a folder, with two tasks of texts."""

    @pytest.fixture(autouse=True)
    def _folder(self, llama_folder: Path) -> None:
        self.folder = llama_folder

    def model(self) -> ModelFactory:
        return factory(self.folder)

    def tasks(self) -> Mapping[str, Task]:
        return text_tasks()
