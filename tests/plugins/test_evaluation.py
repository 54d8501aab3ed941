"""Whole trials are scored as by hand: the base untouched and with labels shifted, each row as if alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

from myosotis.cohort import run_trial
from myosotis.interfaces import Method, Metric, Objective, Stage, Task
from myosotis.ledger import Score
from myosotis.schema import EarlyStoppingConfig
from myosotis.testing import make_task
from myosotis.testing.rehearsal import Rehearsal, registry_without_plugins, rehearse_together
from myosotis.workspace import Workspace
from myosotis_plugins.methods.finetuned import Finetuned
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.prefix import Prefix
from myosotis_plugins.methods.prompt import Prompt
from myosotis_plugins.metrics.labels import LabelCrossEntropy
from myosotis_plugins.metrics.language import CrossEntropy
from myosotis_plugins.models.huggingface import HuggingFace
from myosotis_plugins.objectives.classification import Classification
from myosotis_plugins.objectives.instruction import Instruction
from myosotis_plugins.objectives.language_modeling import LanguageModeling
from tests.plugins import tiny

QUESTIONS = [{"prompt": text, "response": text[:5]} for text in tiny.POEM]
UNTRAINED = [Stage(1, {})]


class Given(tiny.Texts):
    """Given rows, in every split."""

    def __init__(self, rows: Sequence[Mapping[str, str]]) -> None:
        super().__init__(())
        self.rows = rows

    def split(self, name: Any) -> Any:
        return self.rows


def instructions() -> Task:
    objective = Instruction(length=128, template="question")
    return make_task("questions", Given(QUESTIONS), objective, {"cross_entropy": CrossEntropy()})


def tasks() -> dict[str, Task]:
    return {"poem": tiny.text_task("poem", tiny.POEM), "questions": instructions()}


def value(scores: Sequence[Score], stage: int, task: str) -> float:
    [found] = [each.value for each in scores if (each.stage, each.task) == (stage, task)]
    return found


def by_hand(module: nn.Module, task: str, shift: int = 1) -> float:
    """Score the tokens that the task predicts, each from those before it."""
    rows: list[tuple[list[int], int]]
    if task == "poem":
        text = "".join(tiny.POEM).upper()
        ids = tiny.tokenizer()(text)["input_ids"]
        rows = [(ids[start : start + 16], 1) for start in range(0, len(ids) - 15, 16)]
    else:
        rows = []
        for row in QUESTIONS:
            prompt = tiny.tokenizer()(f"Question: {row['prompt']}\nAnswer: ")["input_ids"]
            response = tiny.tokenizer()(row["response"])["input_ids"]
            rows.append(([*prompt, *response, tiny.tokenizer().eos_token_id], len(prompt)))
    losses = []
    for ids, first in rows:
        with torch.no_grad():
            scores = module.eval()(torch.tensor([ids])).logits[0]
        predicted = scores[first - shift : len(ids) - shift]
        losses.append(functional.cross_entropy(predicted, torch.tensor(ids[first:]), reduction="none"))
    return float(torch.cat(losses).mean())


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that is not the identity."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(tiny.llama(), config).save_pretrained(str(folder))
    return folder


BEGINNINGS: Mapping[str, Callable[[Path], Method]] = {
    "an adapter that is not the identity": lambda folder: Finetuned(str(folder)),
    "a prefix": lambda folder: Prefix(tokens=3),
    "virtual tokens": lambda folder: Prompt(tokens=3),
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_row_0_is_the_base_with_the_adapter_off_and_labels_shifted(
    beginning: str, adapter: Path, llama_folder: Path, tmp_path: Path
) -> None:
    method = BEGINNINGS[beginning](adapter)
    scores = (
        Rehearsal(tmp_path / "trial", tiny.factory(llama_folder), tasks(), method, stages=UNTRAINED)
        .run()
        .scores
    )
    base = tiny.llama()
    for task in tasks():
        assert value(scores, 0, task) == pytest.approx(by_hand(base, task), rel=1e-5)
        # What the two errors would give is something else.
        assert abs(value(scores, 1, task) - by_hand(base, task)) > 1e-3
        assert abs(by_hand(base, task, shift=0) - by_hand(base, task)) > 1e-2


def test_row_0_is_the_base_after_others_have_trained_in_its_memory(
    llama_folder: Path, tmp_path: Path
) -> None:
    """The second task is new to the workspace once the first trials are over."""
    first = [
        Rehearsal(
            tmp_path / str(rank), tiny.factory(llama_folder), {"poem": tasks()["poem"]}, LoRA(rank=rank)
        )
        for rank in (1, 2)
    ]
    rehearse_together(first)
    later = Rehearsal(tmp_path / "later", tiny.factory(llama_folder), tasks(), LoRA(rank=2)).run()
    for task in tasks():
        assert value(later.scores, 0, task) == pytest.approx(by_hand(tiny.llama(), task), rel=1e-5)
        assert value(later.scores, 2, task) != value(later.scores, 0, task)


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({"dtype": "bfloat16"}, "32-true"),
        ({"quantization": "8bit"}, "32-true"),
        ({"quantization": "nf4"}, "32-true"),
        ({}, "bf16-mixed"),
    ],
    ids=["bfloat16", "8bit", "nf4", "bf16-mixed"],
)
def test_base_and_tuned_model_have_one_prompt_type_and_precision(
    options: Any, precision: str, tmp_path: Path
) -> None:
    """LoRA begins as a change of nothing: what is scored before it has trained is what the base was scored with."""
    folder = tiny.save(tiny.llama(width=64), tmp_path / "base")
    found = [
        Rehearsal(
            tmp_path / name / "trial",
            HuggingFace(str(folder), **chosen),
            tasks(),
            LoRA(rank=2),
            stages=UNTRAINED,
            trainer={"precision": kind},
        )
        .run()
        .scores
        for name, chosen, kind in (("coarse", options, precision), ("whole", {}, "32-true"))
    ]
    for task in tasks():
        base, tuned, whole = value(found[0], 0, task), value(found[0], 1, task), value(found[1], 0, task)
        assert tuned == pytest.approx(base, rel=1e-6)
        assert abs(base - whole) > 1e-5  # or there would be nothing to tell apart
    assert {score.n for score in found[0]} == {score.n for score in found[1]}


# Batches and packing


WORDS = Classification(("red", "blue", "green"), length=64)
TEXTS = [{"text": text} for text in tiny.POEM]


@pytest.mark.parametrize(
    ("objective", "rows", "metric"),
    [
        (LanguageModeling(length=16), TEXTS, CrossEntropy()),
        (LanguageModeling(length=64, packing="isolated"), TEXTS, CrossEntropy()),
        (Instruction(length=128), QUESTIONS, CrossEntropy()),
        (WORDS, [{**row, "label": "red"} for row in TEXTS], LabelCrossEntropy()),
    ],
    ids=["joined", "isolated", "instructions", "labels"],
)
def test_scores_do_not_depend_on_the_batch_size(
    objective: Objective, rows: Any, metric: Metric, llama_folder: Path, tmp_path: Path
) -> None:
    task = make_task("rows", Given(rows), objective, {"metric": metric})
    found = []
    for size in (1, 4, 64):
        folder = tmp_path / str(size) / "trial"
        rehearsal = Rehearsal(folder, tiny.factory(llama_folder), {"rows": task}, LoRA(rank=2))
        config = rehearsal.config()
        config = replace(config, evaluation=replace(config.evaluation, batch_size=size))
        run_trial(config, folder, "study", "trial", Workspace(folder.parent, registry_without_plugins()))
        found.append([[each.value, each.low, each.high, each.n] for each in rehearsal.scores])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)
    np.testing.assert_allclose(found[0], found[2], rtol=1e-4)


@pytest.mark.parametrize("size", [1, 3, 64])
def test_early_stopping_watches_the_mean_over_tokens_whatever_the_batches(
    size: int, llama_folder: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": text, "response": text[: 1 + 3 * number]} for number, text in enumerate(tiny.POEM)]
    objective = Instruction(length=128, template="question")
    task = make_task("questions", Given(rows), objective, {"cross_entropy": CrossEntropy()})
    rehearsal = Rehearsal(tmp_path / "trial", tiny.factory(llama_folder), {"questions": task}, LoRA(rank=2))
    config = rehearsal.config()
    watching = EarlyStoppingConfig(patience=1_000, every_n_steps=1, split="test", restore_best=False)
    config = replace(
        config,
        evaluation=replace(config.evaluation, batch_size=size),
        trainer=replace(config.trainer, early_stopping=watching),
    )
    run_trial(config, tmp_path / "trial", "study", "trial", Workspace(tmp_path, registry_without_plugins()))
    log = [json.loads(line) for line in (tmp_path / "trial/metrics.jsonl").read_text().splitlines()]
    watched = [entry["held_out_loss"] for entry in log if "held_out_loss" in entry]
    # The same rows are scored when the stage is over, by a metric that counts tokens.
    assert watched[-1] == pytest.approx(value(rehearsal.scores, 1, "questions"), rel=1e-5)


@pytest.mark.parametrize("make", [*tiny.MODELS.values(), tiny.qwen2], ids=[*tiny.MODELS, "qwen2"])
def test_scores_of_isolated_documents_do_not_depend_on_how_they_are_packed(make: Any) -> None:
    """Blocks of one document and of several, which are padded differently."""
    model = tiny.model(make())
    longest = max(len(text) for text in tiny.POEM)
    found = []
    for length in (longest, 2 * longest, 120):
        objective = LanguageModeling(length=length, packing="isolated")
        examples = objective.encode([{"text": text} for text in tiny.POEM], model)
        with torch.no_grad():
            columns = objective.predict(model.module, examples, model)
        found.append((len(examples), columns["loss"].sum(), columns["tokens"].sum(), columns["bytes"].sum()))
    assert len({blocks for blocks, *_ in found}) == 3
    for _, loss, tokens, size in found:
        assert loss == pytest.approx(found[0][1], rel=1e-5)
        assert tokens == size == sum(len(text) - 1 for text in tiny.POEM)


def test_label_options_are_scored_with_the_prompt_computed_once() -> None:
    model = tiny.model()
    labels = ("red", "a dark blue", "green as grass")
    objective = Classification(labels, length=64)
    [example] = objective.encode([{"text": "the grass", "label": "red"}], model)
    seen: list[int] = []

    def count(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(given[0].numel())

    handle = model.module.get_input_embeddings().register_forward_hook(count)  # type: ignore[operator]
    with torch.no_grad():
        objective.predict(model.module, [example], model)
    handle.remove()
    prompt = len("the grass\nLabel:")
    assert seen == [prompt + sum(len(f" {label}") for label in labels)]
