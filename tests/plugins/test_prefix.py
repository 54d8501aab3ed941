"""Frozen blocks of real architectures: found, silent, and served to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    XGLMConfig,
    XGLMForCausalLM,
)

import myosotis
from myosotis.adaptation import Adapted, adapt, frozen_names
from myosotis.interfaces import Batch, Blocks, Method, Model
from myosotis.prefix import FrozenPrefix
from myosotis.prefix_store import PrefixStore
from myosotis_plugins.blocks import chained_blocks
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.models.huggingface import HuggingFace
from myosotis_plugins.objectives import causal
from tests.plugins import tiny

BLOCKS = 3
LIMIT = 1 << 24
SIZES: dict[str, Any] = {"vocab_size": 50, "num_hidden_layers": BLOCKS, "hidden_size": 16}
HEADS: dict[str, Any] = {**SIZES, "num_attention_heads": 4}


@dataclass(frozen=True)
class Architecture:
    """A tiny model with the dropout that its configuration ships, and the modules before its first block."""

    kind: Any
    config: Any
    before: Sequence[str]

    def make(self) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.kind(self.config)


ARCHITECTURES = {
    "llama": Architecture(
        LlamaForCausalLM,
        # The MLP's width is no multiple of a vector's.
        LlamaConfig(**HEADS, intermediate_size=43, initializer_range=0.3),
        ["model.embed_tokens", "model.rotary_emb"],
    ),
    "gpt2": Architecture(
        GPT2LMHeadModel,
        GPT2Config(vocab_size=50, n_layer=BLOCKS, n_embd=16, n_head=4, initializer_range=0.3),
        ["transformer.wte", "transformer.wpe", "transformer.drop"],
    ),
    "opt": Architecture(
        OPTForCausalLM,
        OPTConfig(**HEADS, ffn_dim=32, word_embed_proj_dim=16, init_std=0.3),
        ["model.decoder.embed_tokens", "model.decoder.embed_positions"],
    ),
    "opt with projections": Architecture(
        OPTForCausalLM,
        OPTConfig(**HEADS, ffn_dim=32, word_embed_proj_dim=8, init_std=0.3),
        ["model.decoder.embed_tokens", "model.decoder.embed_positions", "model.decoder.project_in"],
    ),
    "neox": Architecture(
        GPTNeoXForCausalLM,
        GPTNeoXConfig(**HEADS, intermediate_size=32, hidden_dropout=0.1),
        ["gpt_neox.embed_in", "gpt_neox.emb_dropout", "gpt_neox.rotary_emb"],
    ),
    "bloom": Architecture(
        BloomForCausalLM,
        BloomConfig(vocab_size=50, hidden_size=16, n_layer=BLOCKS, n_head=4),
        ["transformer.word_embeddings", "transformer.word_embeddings_layernorm"],
    ),
    "xglm": Architecture(
        XGLMForCausalLM,
        XGLMConfig(vocab_size=50, d_model=16, ffn_dim=32, num_layers=BLOCKS, attention_heads=4),
        ["model.embed_tokens", "model.embed_positions"],
    ),
}
THREE = ("llama", "gpt2", "opt")


def adapted(name: str, methods: Mapping[str, Method]) -> Adapted:
    """Adapt a model and put it into training."""
    model = Model(ARCHITECTURES[name].make())
    made = adapt(
        model, methods, tiny.context(model, frozen_names(model, methods)), trains=True, blocks=chained_blocks
    )
    made.train()
    return made


def freeze(name: str, first: int) -> Adapted:
    return adapted(name, {"freeze": Freeze(first=first)})


def epochs(lengths: Sequence[int], count: int, rows: int = 8) -> Iterator[Batch]:
    """Shuffle examples of such lengths into batches, epoch after epoch."""
    generator = torch.Generator().manual_seed(1)
    examples = [torch.randint(50, (length,), generator=generator).tolist() for length in lengths]
    for _ in range(count):
        for chosen in torch.randperm(len(examples), generator=generator).split(rows):
            prompts = [examples[index] for index in chosen]
            batch = causal.completion_batch([row[:2] for row in prompts], [row[2:] for row in prompts])
            if len({*map(len, prompts)}) == 1:  # blocks of running text come without a mask
                batch = {key: value for key, value in batch.items() if key != "attention_mask"}
            yield batch


Steps = list[tuple[float, list[Tensor]]]


def train(made: Adapted, prefix: AbstractContextManager[Any], batches: Iterator[Batch]) -> Steps:
    """Take a step on each batch; give losses and gradients."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(made.trainable().values(), lr=1e-2)
    steps = []
    for batch in batches:
        optimizer.zero_grad()
        with prefix:
            scores = causal.logits(made.model.module, batch)
        loss = causal.mean_token_loss(scores, batch["labels"])
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [each.grad.clone() for each in made.trainable().values() if each.grad is not None]
        steps.append((loss.item(), gradients))
        optimizer.step()
    return steps


def prefix_of(made: Adapted, folder: Path, limit: int = LIMIT) -> FrozenPrefix:
    return FrozenPrefix(made.model.module, made.prefix, PrefixStore(folder, limit), "tiny")


def assert_same(one: Steps, other: Steps) -> None:
    assert [loss for loss, _ in one] == [loss for loss, _ in other]
    assert len({loss for loss, _ in one}) == len(one)
    for (_, gradients), (_, others) in zip(one, other, strict=True):
        assert len(gradients) == len(others) > 0
        assert all(torch.equal(*pair) for pair in zip(gradients, others, strict=True))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("first", [1, 2])
def test_losses_and_gradients_are_the_same_to_the_bit(tmp_path: Path, name: str, first: int) -> None:
    # What else stands before the first block is not among the embeddings that `first` freezes.
    pattern = {"opt with projections": "project_in", "bloom": "embeddings_layernorm"}.get(name, "")
    plain, made = (adapted(name, {"freeze": Freeze(first=first, pattern=pattern)}) for _ in range(2))
    assert len(made.prefix) == first
    prefix = prefix_of(made, tmp_path)
    lengths = [16] * 24
    assert_same(train(plain, nullcontext(), epochs(lengths, 4)), train(made, prefix, epochs(lengths, 4)))
    # Bloom's blocks give attention weights too, which are not kept.
    assert (prefix.computed, prefix.served) == ((8, 0) if name == "bloom" else (24, 3 * 24))


@pytest.mark.parametrize("name", THREE)
def test_with_padding(tmp_path: Path, name: str) -> None:
    plain, made = freeze(name, 2), freeze(name, 2)
    prefix = prefix_of(made, tmp_path)
    lengths = [*range(5, 16), *[16] * 13, *[24] * 8]
    assert_same(train(plain, nullcontext(), epochs(lengths, 6)), train(made, prefix, epochs(lengths, 6)))
    assert prefix.served > 0


@pytest.mark.parametrize("name", THREE)
def test_shapes_in_which_places_matter(tmp_path: Path, name: str) -> None:
    plain, made = freeze(name, 2), freeze(name, 2)
    prefix = prefix_of(made, tmp_path)
    lengths = [13] * 21
    batches = [list(epochs(lengths, 4, rows=7)), list(epochs(lengths, 4, rows=7))]
    assert_same(train(plain, nullcontext(), iter(batches[0])), train(made, prefix, iter(batches[1])))
    assert prefix.served == 0


def test_within_a_bound_and_by_a_second_trial(tmp_path: Path) -> None:
    lengths = [16] * 24
    kept = 4 * 16 * 16 + 32
    for limit, served in ((20 * kept, None), (LIMIT, 24), (LIMIT, 48 - 8)):
        plain, made = freeze("gpt2", 2), freeze("gpt2", 2)
        prefix = prefix_of(made, tmp_path, limit)
        assert_same(train(plain, nullcontext(), epochs(lengths, 2)), train(made, prefix, epochs(lengths, 2)))
        assert served is None or prefix.served >= served
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit


def test_low_rank_adapters_behind_frozen_blocks(tmp_path: Path) -> None:
    methods: dict[str, Method] = {"freeze": Freeze(first=2), "lora": LoRA(rank=2)}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        plain = adapted("gpt2", methods)
        torch.manual_seed(3)
        made = adapted("gpt2", methods)
    assert len(made.prefix) == 2
    prefix = prefix_of(made, tmp_path)
    lengths = [16] * 16
    assert_same(train(plain, nullcontext(), epochs(lengths, 3)), train(made, prefix, epochs(lengths, 3)))
    assert prefix.served == 32


def test_evaluation_is_served_too(tmp_path: Path) -> None:
    made = freeze("llama", 2)
    made.model.module.eval()
    batch = next(epochs([16] * 8, 1))
    prefix = prefix_of(made, tmp_path)
    with torch.no_grad():
        expected = causal.token_losses(made.model.module, batch)
    with torch.no_grad(), prefix:
        for _ in range(3):
            assert (causal.token_losses(made.model.module, batch)["loss"] == expected["loss"]).all()
    assert prefix.served == 16


@pytest.mark.parametrize("asked", [{"use_cache": True}, {"output_hidden_states": True}])
def test_calls_that_ask_for_more_are_computed(tmp_path: Path, asked: dict[str, bool]) -> None:
    made = freeze("llama", 2)
    ids = next(epochs([16] * 8, 1))["input_ids"]
    expected = made.model.module(ids, **asked)
    prefix = prefix_of(made, tmp_path)
    with prefix:
        for _ in range(3):
            made.model.module(ids, use_cache=False)
        given = made.model.module(ids, **asked)
    assert prefix.served == 16
    if "use_cache" in asked:
        assert given.past_key_values.get_seq_length() == 16
    else:
        pairs = zip(given.hidden_states, expected.hidden_states, strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_runs_before_the_first_block(name: str, device: str) -> None:
    with torch.device(device):
        module = ARCHITECTURES[name].make()
    module.train()
    state = torch.get_rng_state()
    blocks = chained_blocks(module)
    named = {each: path for path, each in module.named_modules()}
    assert [named[each] for each in blocks.before] == ARCHITECTURES[name].before
    assert [named[each].rpartition(".")[2] for each in blocks.chain] == ["0", "1", "2"]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(each.training for each in module.modules())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())


def test_models_whose_rows_are_not_by_themselves_have_no_blocks(llama_folder: Path) -> None:
    experts = MixtralForCausalLM(MixtralConfig(**HEADS, intermediate_size=16, num_local_experts=2))
    assert chained_blocks(experts) == Blocks()
    assert chained_blocks(nn.Linear(1, 1)) == Blocks()
    module = tiny.llama()
    assert HuggingFace(str(llama_folder), quantization="8bit").blocks(module) == Blocks()
    assert len(HuggingFace(str(llama_folder)).blocks(module)) == tiny.BLOCKS


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ({"freeze": Freeze(first=2)}, 2),
        ({"freeze": Freeze(first=3)}, 3),
        ({"freeze": Freeze()}, 0),
        ({"freeze": Freeze(blocks="0-1")}, 0),  # the embeddings train
        ({"freeze": Freeze(embeddings=True)}, 0),
        ({"freeze": Freeze(blocks="0,2", embeddings=True)}, 1),
        ({"lora": LoRA(rank=2)}, 0),
        ({"freeze": Freeze(first=1), "lora": LoRA(rank=2)}, 1),
        ({"lora": LoRA(rank=2, targets=["model.layers.2.mlp.up_proj"])}, 2),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_how_many_blocks_are_frozen(methods: Mapping[str, Method], expected: int, device: str) -> None:
    with torch.device(device):
        model = Model(tiny.llama())
    made = adapt(
        model, methods, tiny.context(model, frozen_names(model, methods)), trains=True, blocks=chained_blocks
    )
    assert len(made.prefix) == expected


def into_block(made: Adapted, number: int, seed: int) -> Tensor:
    """Give what goes into a block in training."""
    seen: list[Tensor] = []

    def look(block: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])

    handle = chained_blocks(made.model.module).chain[number].register_forward_pre_hook(look)
    torch.manual_seed(seed)
    causal.logits(made.model.module, next(epochs([16] * 8, 1)))
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("name", ["gpt2", "opt", "neox", "xglm"])
def test_what_goes_into_the_first_block_that_trains_is_always_the_same(name: str) -> None:
    made = freeze(name, 1)
    assert torch.equal(into_block(made, 1, seed=0), into_block(made, 1, seed=1))
    assert not torch.equal(into_block(made, 2, seed=0), into_block(made, 2, seed=1))


@pytest.mark.parametrize("name", ["gpt2", "neox", "xglm"])
def test_dropout_of_embeddings_stays_where_the_first_block_trains(name: str) -> None:
    made = freeze(name, 0)
    assert not torch.equal(into_block(made, 0, seed=0), into_block(made, 0, seed=1))


def test_a_frozen_beginning_leaves_the_rest_in_training() -> None:
    made = freeze("gpt2", 1)
    training = {path for path, each in made.model.module.named_modules() if each.training}
    silent = {path for path, each in made.model.module.named_modules() if not each.training}
    assert {"", "transformer", "transformer.drop", "transformer.h", "transformer.h.0"} < silent
    assert not any(path.startswith(("transformer.h.1", "transformer.h.2")) for path in silent)
    assert {"transformer.ln_f", "transformer.h.1.mlp.dropout"} < training


# In a study


def test_a_study_of_frozen_blocks_has_the_same_bits_with_and_without_what_is_kept(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plays.txt").write_text("\n".join(tiny.POEM * 4))
    served: list[tuple[int, bool]] = []
    leave = FrozenPrefix.__exit__

    def counting(self: FrozenPrefix, *error: Any) -> None:
        served.append((len(self._blocks), self.served > self.computed))
        leave(self, *error)

    monkeypatch.setattr(FrozenPrefix, "__exit__", counting)

    def run(gigabytes: float) -> dict[str, list[bytes]]:
        record = myosotis.run(
            [
                *("model=huggingface", f"model.path='{llama_folder}'", "dataset=[]", "probe=[]"),
                *("+dataset@dataset.plays=file", "dataset.plays.train=plays.txt"),
                *("dataset.plays.test=plays.txt", "dataset.plays.length=32", "logger=none"),
                *("method=freeze", "method.freeze.first=2,1", "trainer.max_epochs=6", "trainer.batch_size=4"),
                *("trainer.log_every_n_steps=1", f"trainer.prefix_gigabytes={gigabytes}"),
                *("hydra.launcher.workers=1", "hydra.launcher.cohort=1", f"studies=with{gigabytes}"),
            ]
        )
        return {
            trial: [(record.folder / trial / name).read_bytes() for name in ("metrics.jsonl", "scores.jsonl")]
            for trial in record.trials.trial
        }

    kept = run(1)
    assert sorted(served) == [(1, True), (2, True)]
    assert run(0) == kept
    assert len(served) == 2
    assert len(set(map(tuple, kept.values()))) == 2
