"""Blocks that are computed again in the backward pass: the same numbers in less memory, alone and in cohorts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaMLP

from myosotis.errors import ConfigurationError
from myosotis.interfaces import Method, ModelFactory, Objective, Share, Stage
from myosotis.stacking import Branch, Stack
from myosotis.testing.rehearsal import Rehearsal, rehearse_together
from myosotis_plugins.gradient_checkpointing import checkpoint_blocks, is_checkpointed
from myosotis_plugins.methods.adapters import Adapters
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.full import Full
from myosotis_plugins.methods.kl_to_base import KLToBase
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.prefix import Prefix
from myosotis_plugins.methods.prompt import Prompt
from myosotis_plugins.models.huggingface import HuggingFace
from myosotis_plugins.objectives.classification import Classification
from myosotis_plugins.objectives.language_modeling import LanguageModeling
from myosotis_plugins.objectives.sequence_to_sequence import SequenceToSequence
from tests.plugins import tiny
from tests.plugins.encoders import FOLDERS

ONE = (Stage(1, {"poem": Share(1, 1)}),)


def factory(folder: Path, checkpointed: bool = True, **options: Any) -> HuggingFace:
    return HuggingFace(str(folder), gradient_checkpointing=checkpointed, **options)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Each run of a block's feed-forward part: whether gradients are taken."""
    seen: list[bool] = []
    run = LlamaMLP.forward

    def seeing(self: Any, hidden: Tensor) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return run(self, hidden)

    monkeypatch.setattr(LlamaMLP, "forward", seeing)
    return seen


METHODS: Mapping[str, Callable[[], Mapping[str, Method]]] = {
    "full": lambda: {"full": Full()},
    "lora": lambda: {"lora": LoRA(rank=2)},
    "lora with dropout": lambda: {"lora": LoRA(rank=2, dropout=0.3)},
    "lora and kl_to_base": lambda: {"lora": LoRA(rank=2), "kl": KLToBase(strength=2)},
    "adapters": lambda: {"adapters": Adapters(bottleneck=4)},
    "prompt": lambda: {"prompt": Prompt(tokens=3)},
}


@pytest.mark.parametrize("name", METHODS)
def test_losses_are_those_without_it(
    name: str, llama_folder: Path, tmp_path: Path, passes: list[bool]
) -> None:
    """All run the frozen base as in evaluation, where transformers' own switch does nothing."""
    found = []
    for checkpointed in (False, True):
        passes.clear()
        losses, scores = tiny.losses(
            tmp_path / str(checkpointed),
            factory(llama_folder, checkpointed),
            tiny.text_task("poem", tiny.POEM),
            METHODS[name](),
            steps=4,
            stages=ONE,
        )
        assert passes.count(True) == tiny.BLOCKS * 4 * (2 if checkpointed else 1)
        found.append((losses, [score.value for score in scores]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)
    assert len(set(found[0][0])) == 4


def test_frozen_blocks_in_front_are_not_computed_again(
    llama_folder: Path, tmp_path: Path, passes: list[bool]
) -> None:
    tiny.losses(
        tmp_path / "trial",
        factory(llama_folder),
        tiny.text_task("poem", tiny.POEM),
        {"freeze": Freeze(first=1)},
        steps=4,
        stages=ONE,
    )
    assert passes.count(True) == 4 * (1 + 2 * (tiny.BLOCKS - 1))


def test_a_cohort_has_the_losses_of_each_trial_alone(
    llama_folder: Path, tmp_path: Path, passes: list[bool]
) -> None:
    def trials(folder: str) -> list[Rehearsal]:
        return [
            Rehearsal(
                tmp_path / folder / str(rank),
                factory(llama_folder),
                {"poem": tiny.text_task("poem", tiny.POEM), "prose": tiny.text_task("prose", tiny.PROSE, 12)},
                LoRA(rank=rank),
                # Rows of two objectives in a batch: two forward passes, then one backward pass.
                stages=(Stage(1, {"poem": Share(0.5, 0.5), "prose": Share(0.5, 0.5)}),),
                trainer={"log_every_n_steps": 1, "batch_size": rank + 2},
            )
            for rank in (1, 3)
        ]

    alone, together = trials("alone"), trials("together")
    for trial in alone:
        trial.run()
    rehearse_together(together)
    for one, other in zip(alone, together, strict=True):
        assert [each.value for each in one.scores] == pytest.approx(
            [each.value for each in other.scores], rel=1e-5
        )
    assert any(passes)


def test_a_stack_computes_each_pass_again_with_its_own_rows(llama_folder: Path) -> None:
    """Two passes of different rows before their backward passes."""
    gradients = []
    for checkpointed in (False, True):
        base = factory(llama_folder, checkpointed).load([])
        branches = [Branch(base.module) for _ in range(2)]
        adapted = []
        for number, branch in enumerate(branches):
            model = tiny.model(branch.module)
            torch.manual_seed(number)
            module = LoRA(rank=2).adapt(model, tiny.context(model))
            for name, value in module.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(value, std=0.1)
            adapted.append(module)
        stack = Stack(base.module, branches, [LoRA])
        losses = []
        for sizes, length in (((3, 1), 8), ((0, 2), 5)):
            ids = torch.arange(sum(sizes) * length).reshape(sum(sizes), length) % 250
            with stack.rows(sizes):
                losses.append(stack.module(ids, use_cache=False).logits.square().mean())
        torch.stack(losses).sum().backward()
        gradients.append(
            [each.grad for module in adapted for each in module.parameters() if each.requires_grad]
        )
    assert any(each is not None and each.abs().sum() > 0 for each in gradients[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def kept_bytes(module: nn.Module, ids: Tensor) -> int:
    """Count what a forward pass keeps for the backward one, outside of what it computes again."""
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        kept[value.data_ptr()] = value.numel() * value.element_size()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        module(ids, use_cache=False).logits.sum()
    return sum(kept.values())


def test_less_is_kept(tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama(blocks=6), tmp_path / "deep")
    ids = torch.arange(256).reshape(4, 64)
    whole, less = (
        kept_bytes(LoRA(rank=2).adapt(model, tiny.context(model)), ids)
        for model in (factory(folder, checkpointed).load([]) for checkpointed in (False, True))
    )
    assert less < whole / 2


@pytest.mark.parametrize(
    ("kind", "objective", "rows"),
    [
        ("gpt2", Classification(("a", "b"), by="head"), [{"text": "one", "label": "a"}] * 2),
        ("bert", Classification(("a", "b"), by="head"), [{"text": "one", "label": "a"}] * 2),
        ("distilbert", LanguageModeling(length=12), [{"text": text} for text in tiny.POEM]),
        ("t5", SequenceToSequence(), [{"source": "one", "target": "two"}] * 2),
    ],
)
def test_gradients_of_every_shape_of_model(
    kind: str, objective: Objective, rows: Any, tmp_path: Path
) -> None:
    """Those with a cache of keys and values too."""
    folder = FOLDERS[kind](tmp_path / kind)
    gradients = []
    for checkpointed in (False, True):
        model = factory(folder, checkpointed).load([objective])
        model.module.eval()
        batch = objective.collate(objective.encode(rows, model), model)
        objective.loss(objective.forward(model.module, batch), batch).backward()
        gradients.append({name: each.grad for name, each in model.module.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("quantization", ["8bit", "nf4"])
def test_a_quantized_base_with_norms_and_output_in_float32(quantization: Any, tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama(width=64, blocks=2, tied=False), tmp_path / "wide")
    made: ModelFactory = factory(folder, quantization=quantization, dtype="bfloat16")
    loaded: Any = made.load([]).module
    norms = {name: each.weight.dtype for name, each in loaded.named_modules() if "norm" in name}
    assert len(norms) == 2 * 2 + 1
    assert {*norms.values(), loaded.lm_head.weight.dtype} == {torch.float32}
    assert loaded(torch.tensor([[1, 2, 3]])).logits.dtype == torch.float32
    losses, _ = tiny.losses(
        tmp_path / "trial",
        made,
        tiny.text_task("poem", tiny.POEM),
        {"lora": LoRA(rank=4)},
        steps=12,
        stages=ONE,
    )
    assert sum(losses[-3:]) < sum(losses[:3])


def test_a_prefix_is_refused_on_an_outline(llama_folder: Path) -> None:
    for model in (factory(llama_folder).outline([]), factory(llama_folder).load([])):
        assert is_checkpointed(model.module)
        with pytest.raises(ConfigurationError, match="set it to false, or take prompt"):
            Prefix().adapt(model, tiny.context(model))
    assert not is_checkpointed(factory(llama_folder, False).load([]).module)


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"blocks are transformers' own, but this is a Linear"):
        checkpoint_blocks(nn.Linear(2, 2))
