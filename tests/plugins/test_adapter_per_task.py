"""With an adapter for every task, no later stage changes a task's score by one bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from myosotis.cohort import run_trial
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Method, Model, Share, Stage, Task
from myosotis.schema import EarlyStoppingConfig
from myosotis.testing import MethodTestSuite
from myosotis.testing.rehearsal import Rehearsal, registry_without_plugins
from myosotis.workspace import Workspace
from myosotis_plugins.methods.adapter_per_task import AdapterPerTask
from myosotis_plugins.methods.freeze import Freeze
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.methods.replay import Replay
from tests.plugins import tiny
from tests.plugins.test_lora import logits, trained

WHOLE = Share(1, 1)
STAGES = (Stage(1, {"poem": WHOLE}), Stage(2, {"prose": WHOLE}))


class TestAdapterPerTask(tiny.OnLlama):
    def make(self) -> Method:
        return AdapterPerTask(rank=2)


class TestAdapterPerTaskOnLinearLayers(MethodTestSuite):
    def make(self) -> Method:
        return AdapterPerTask(rank=2)


def tasks() -> dict[str, Task]:
    probe = replace(tiny.text_task("probe", [*tiny.POEM[::2], *tiny.PROSE[::2]]), role="probe")
    return {**tiny.text_tasks(), "probe": probe}


def rehearsal(folder: Path, into: Path, **settings: Any) -> Rehearsal:
    return Rehearsal(into / "trial", tiny.factory(folder), tasks(), AdapterPerTask(rank=2), **settings)


def by_place(made: Rehearsal) -> dict[tuple[int, str], float]:
    return {(score.stage, score.task): score.value for score in made.scores}


def test_a_later_stage_changes_no_score_of_an_earlier_task(llama_folder: Path, tmp_path: Path) -> None:
    scores = by_place(rehearsal(llama_folder, tmp_path, stages=STAGES, others={"replay": Replay()}).run())
    assert scores[2, "poem"] == scores[1, "poem"]
    assert scores[1, "poem"] < scores[0, "poem"]
    assert scores[2, "prose"] < scores[0, "prose"]
    # What is not trained yet, and what never is, is the base's.
    assert scores[1, "prose"] == scores[0, "prose"]
    assert {scores[stage, "probe"] for stage in (0, 1, 2)} == {scores[0, "probe"]}


def test_a_task_that_is_trained_again_has_its_last_adapter(llama_folder: Path, tmp_path: Path) -> None:
    stages = (*STAGES, Stage(3, {"poem": WHOLE}))
    scores = by_place(rehearsal(llama_folder, tmp_path, stages=stages).run())
    assert scores[2, "poem"] == scores[1, "poem"] != scores[3, "poem"]
    assert scores[3, "prose"] == scores[2, "prose"]


def test_a_joint_stage_has_one_adapter_for_its_tasks(llama_folder: Path, tmp_path: Path) -> None:
    stages = (Stage(1, {"poem": Share(0.5, 0.5), "prose": Share(0.5, 0.5)}),)
    made = rehearsal(llama_folder, tmp_path, stages=stages).run()
    scores = by_place(made)
    assert scores[1, "poem"] < scores[0, "poem"]
    assert scores[1, "prose"] < scores[0, "prose"]
    assert scores[1, "probe"] == scores[0, "probe"]
    assert {name.split(".")[-2] for name in made.after.ends[-1]} == {"stage1"}


def test_each_stage_trains_as_lora_alone_does(llama_folder: Path, tmp_path: Path) -> None:
    """The second task's losses begin at the base's, whatever the first has learned."""
    made = rehearsal(llama_folder, tmp_path, stages=STAGES).run()
    assert {name.split(".")[-2] for name in made.after.ends[0]} == {"stage1"}
    assert {name.split(".")[-2] for name in made.after.ends[1]} == {"stage2"}
    plain = Rehearsal(
        tmp_path / "plain" / "trial", tiny.factory(llama_folder), tasks(), LoRA(rank=2), stages=STAGES[:1]
    ).run()
    assert by_place(plain)[1, "poem"] == pytest.approx(by_place(made)[1, "poem"], rel=1e-6)


def test_looking_in_between_changes_nothing_that_is_trained(llama_folder: Path, tmp_path: Path) -> None:
    """An evaluation switches adapters: the stage's own is back before the next step, and early stopping's look."""

    def run(name: str, every: int) -> tuple[dict[str, torch.Tensor], list[str]]:
        made = rehearsal(llama_folder, tmp_path / name, stages=STAGES)
        config = made.config()
        stopping = EarlyStoppingConfig(patience=5, every_n_steps=2, split="train")
        config = replace(
            config,
            trainer=replace(config.trainer, early_stopping=stopping, checkpoint_every_n_steps=2),
            evaluation=replace(config.evaluation, every=every),
        )
        run_trial(
            config, made.folder, "study", "trial", Workspace(made.folder.parent, registry_without_plugins())
        )
        lines = (made.folder / "metrics.jsonl").read_text().splitlines()
        return made.after.ends[-1], [line for line in lines if "held_out_loss" in line]

    (quiet, held_out), (looked, looked_held_out) = run("quiet", 0), run("looked", 2)
    assert all(torch.equal(quiet[name], looked[name]) for name in quiet)
    assert len(held_out) == 6
    keys = ("held_out_loss", "step")
    assert [_values(line, keys) for line in held_out] == [_values(line, keys) for line in looked_held_out]


def _values(line: str, keys: tuple[str, ...]) -> list[Any]:
    return [json.loads(line)[key] for key in keys]


def test_what_is_saved_is_one_adapter_a_stage(llama_folder: Path, tmp_path: Path) -> None:
    factory = tiny.factory(llama_folder)
    model = factory.load([])
    base = logits(model.module)
    method = AdapterPerTask(rank=2)
    all_tasks = tasks()
    context = replace(tiny.context(model, tasks=all_tasks), stages=STAGES)
    module = trained(method.adapt(model, context))
    factory.save(Model(module), tmp_path / "adapter")
    for stage, task in ((1, "poem"), (2, "prose")):
        method.before_evaluation(all_tasks[task], replace(context, stage=STAGES[1]))
        expected = logits(module)
        loaded = PeftModel.from_pretrained(factory.load([]).module, tmp_path / "adapter" / f"stage{stage}")
        assert torch.equal(logits(loaded), expected)
        assert not torch.allclose(expected, base, atol=1e-2)
    method.before_evaluation(all_tasks["probe"], replace(context, stage=STAGES[1]))
    assert torch.equal(logits(module), base)


@pytest.mark.parametrize("quantization", ["8bit", "nf4"])
def test_learns_on_a_quantized_base_with_a_frozen_block(quantization: Any, tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama(width=64, blocks=2), tmp_path / "wide")
    made = Rehearsal(
        tmp_path / "trial",
        tiny.factory(folder, quantization),
        tiny.text_tasks(),
        AdapterPerTask(rank=2),
        others={"freeze": Freeze(first=1)},
    ).run()
    scores = by_place(made)
    assert scores[1, "poem"] == scores[2, "poem"] < scores[0, "poem"]


def test_parameters_are_float32_on_a_base_in_bfloat16() -> None:
    model = tiny.model(tiny.llama().to(torch.bfloat16))
    module = AdapterPerTask(rank=2).adapt(model, replace(tiny.context(model), stages=STAGES))
    assert {each.dtype for each in module.parameters() if each.requires_grad} == {torch.float32}


def test_adapters_on_adapters_are_refused() -> None:
    for first, second in ((AdapterPerTask(), LoRA()), (LoRA(), AdapterPerTask())):
        model = tiny.model()
        once = Model(first.adapt(model, tiny.context(model)))
        with pytest.raises(ConfigurationError, match="must go onto a base without adapters"):
            second.adapt(once, tiny.context(once))


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="rank must be at least 1, but got 0"):
        AdapterPerTask(rank=0)
