"""A trial in two processes: the numbers of one at the same rows a batch, told once; one that fails ends both."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from myosotis.batches import BatchLoader, EncodedPart, MixedBatch, mean_loss
from myosotis.curriculum import MixtureSampler, Part
from myosotis.devices import check_devices
from myosotis.errors import ConfigurationError, TrialsFailed
from myosotis.interfaces import Method, Share, Task
from myosotis.ledger import StudyRecord, read_json, read_scores
from myosotis.ranks import Ranks
from tests import toy as toys
from tests.core.commands import resolved, run_at, search_path, toy
from tests.core.test_processes import offline

MODULES = "tests.toy,tests.core.hazards"
ON_THIS_MACHINE = {"GLOO_SOCKET_IFNAME": "lo"}
SLOW = """
import time

from myosotis import hookimpl
from myosotis.interfaces import Method

MYOSOTIS_API = 1


class Slow(Method):
    def adapt(self, model, context):
        model.module.register_forward_pre_hook(lambda *_: time.sleep(0.03))
        return model.module


@hookimpl
def myosotis_methods():
    return {"slow": Slow}
"""
"""A method that takes 0.03 s a forward pass."""
SETTING = (
    "method=[side,pull,hazard]",
    "curriculum=stages",
    "curriculum.stages=[{right: 1},{right: 0.3, up: 0.7}]",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "trainer.checkpoint_every_n_steps=5",
    "trainer.accumulate_grad_batches=2",
    "study=trial",
)


def command(devices: int, *overrides: str) -> list[str]:
    keys = {override.split("=")[0] for override in overrides}
    kept = [each for each in toy(*SETTING) if each.split("=")[0] not in keys]
    return [*kept, *overrides, f"trainer.devices={devices}", f"trainer.batch_size={4 // devices}"]


def run(folder: Path, devices: int, *overrides: str) -> StudyRecord:
    return run_at(folder, *command(devices, *overrides), modules=MODULES)


def trial(record: StudyRecord) -> Path:
    [name] = record.trials.trial
    return record.folder / str(name)


def log(record: StudyRecord) -> list[dict[str, float]]:
    return [json.loads(line) for line in (trial(record) / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    return run(tmp_path_factory.mktemp("one"), 1, "evaluation.every=5")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        return run(tmp_path_factory.mktemp("two"), 2, "evaluation.every=5", "logger=wandb")


# The same numbers


def test_losses_are_those_of_one_process_at_the_same_rows_a_batch(one: StudyRecord, two: StudyRecord) -> None:
    assert len(log(one)) == len(log(two)) == 24
    for expected, found in zip(log(one), log(two), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    assert {"loss", "penalty/pull"} <= log(two)[0].keys()


def test_scores_and_costs_are_those_of_one_process(one: StudyRecord, two: StudyRecord) -> None:
    columns = ["stage", "step", "task", "metric"]
    assert two.scores[columns].equals(one.scores[columns])
    assert set(two.scores.step) == {0, 5, 10, 12}
    np.testing.assert_allclose(two.scores.value, one.scores.value, atol=1e-4)
    costs = [read_json(trial(record) / "manifest.json") for record in (one, two)]
    assert costs[0]["realised_mixture"] == costs[1]["realised_mixture"]
    assert [each["cost"]["tokens"] for each in costs] == [2 * 12 * 8, 2 * 12 * 8]


def test_it_is_told_once(two: StudyRecord) -> None:
    assert offline(trial(two)).exit_code == 0  # there is one run, or this fails
    assert len([row for row in offline(trial(two)).history if "loss" in row]) == 24
    assert len(read_scores(trial(two) / "scores.jsonl")) == len(two.scores)
    assert (trial(two) / "log.txt").read_text().count("the trial begins") == 1


def parts(points: int) -> list[EncodedPart]:
    return [
        EncodedPart(
            Task(name, "task", dataset, toys.PointObjective(), {}),
            toys.PointObjective().encode(dataset.split("train") or [], toys.ToyModel().load([])),
        )
        for name, dataset in (("a", toys.Points(0, points)), ("b", toys.Points(90, points)))
    ]


def loaded(batch_size: int, ranks: Ranks, accumulated: int = 2) -> list[MixedBatch]:
    share = Share(0.2, 0.8)
    made = parts(16)
    sampler = MixtureSampler([Part("a", 16, share), Part("b", 16, Share(0.8, 0.2))], batch_size, 6, seed=3)
    return list(BatchLoader(made, sampler, toys.ToyModel().load([]), accumulated, ranks))


def test_processes_have_the_rows_of_one_in_their_order() -> None:
    whole = loaded(6, Ranks())
    own = [loaded(6, Ranks(rank, 3)) for rank in range(3)]
    for number, batch in enumerate(whole):
        points = [each[number].groups[0].batch["points"] for each in own]
        assert [len(each) for each in points] == [2, 2, 2]
        torch.testing.assert_close(torch.cat(points), batch.groups[0].batch["points"], rtol=0, atol=0)
        assert {each[number].rows for each in own} == {batch.rows}


class Counted(toys.PointObjective):
    """Rows count differently, as those of texts do by their tokens."""

    def weights(self, batch: Any) -> torch.Tensor:
        return batch["labels"] * 4 + 1.0

    def loss(self, outputs: Any, batch: Any) -> Any:
        losses = torch.nn.functional.cross_entropy(outputs, batch["labels"], reduction="none")
        return (losses * self.weights(batch)).sum() / self.count(batch)

    def count(self, batch: Any) -> int:
        return int(self.weights(batch).sum())


def gradient(module: torch.nn.Module, batches: Sequence[MixedBatch]) -> torch.Tensor:
    """Give the mean gradient, as accumulating and averaging over processes do."""
    module.zero_grad()
    for batch in batches:
        (mean_loss(module, batch) / len(batches)).backward()  # type: ignore[no-untyped-call]
    return torch.cat([each.grad.flatten() for each in module.parameters() if each.grad is not None])


def test_the_mean_gradient_is_that_of_the_mean_over_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toys, "PointObjective", Counted)
    module = toys.ToyModel().load([]).module.eval()
    [whole] = loaded(12, Ranks(), accumulated=1)[:1]
    own = [loaded(12, Ranks(rank, 3), accumulated=1)[0] for rank in range(3)]
    assert len({Counted().count(each.groups[0].batch) for each in own}) > 1
    torch.testing.assert_close(gradient(module, own), gradient(module, [whole]), rtol=1e-5, atol=1e-7)


def test_processes_that_compute_together_run_the_module_equally_often() -> None:
    """One that has rows of a single objective, where another has both, runs some again for nothing."""
    module = toys.ToyModel().load([]).module.eval()
    own = [list(two_objectives(Ranks(rank, 2), together=True)) for rank in range(2)]
    alone = [list(two_objectives(Ranks(rank, 2), together=False)) for rank in range(2)]
    passes = [[len(batch.groups) for batch in each] for each in own]
    assert passes[0] == passes[1]
    assert [[len(batch.groups) for batch in each] for each in alone] != passes
    for rank in range(2):
        for batch, plain in zip(own[rank], alone[rank], strict=True):
            torch.testing.assert_close(gradient(module, [batch]), gradient(module, [plain]))


def two_objectives(ranks: Ranks, together: bool) -> BatchLoader:
    made = [
        replace(part, task=replace(part.task, objective=objective()))
        for part, objective in zip(parts(16), (toys.PointObjective, Counted), strict=True)
    ]
    drawn = [Part("a", 16, Share(0.25, 0.25)), Part("b", 16, Share(0.75, 0.75))]
    sampler = MixtureSampler(drawn, 4, 12, seed=0)
    return BatchLoader(made, sampler, toys.ToyModel().load([]), ranks=ranks, together=together)


WATCHING = """
import os

from torch.distributed.fsdp import FSDPModule

from tests.toy import PointObjective

MYOSOTIS_API = 1
forward = PointObjective.forward


def watched(self, module, batch):
    with open(os.environ["WATCHED"], "a") as file:
        print(isinstance(module, FSDPModule), module.training, file=file)
    return forward(self, module, batch)


PointObjective.forward = watched
"""
"""Writes down whether what computes is divided."""


def test_divided_weights_train_and_predict_in_parts_alone(
    tmp_path: Path, write_plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base's row, the steps, the scores within and after a stage, and early stopping."""
    write_plugin("watching", WATCHING)
    monkeypatch.setattr(toys.PointObjective, "forward", toys.PointObjective.forward)  # put back at the end
    monkeypatch.setenv("WATCHED", str(tmp_path / "watched"))
    stopping = ("trainer.early_stopping.patience=9", "trainer.early_stopping.every_n_steps=4")
    held_out = ("dataset.right.held_out=true", "dataset.up.held_out=true")
    setting = ("method=[plain]", "trainer.strategy=fsdp", "evaluation.every=5", *stopping, *held_out)
    run_at(tmp_path, *command(2, *setting), modules=f"{MODULES},watching")
    watched = (tmp_path / "watched").read_text().splitlines()
    assert {"True True", "True False"} == set(watched)


COUNTING = """
import os

import torch

from myosotis import hookimpl
from myosotis.interfaces import Method

MYOSOTIS_API = 1


def rank():
    return int(os.environ["LOCAL_RANK"])


def count(module, inputs):
    if module.training:
        module.counted += rank() + 1


class Counting(Method):
    def adapt(self, model, context):
        model.module.register_buffer("counted", torch.zeros(()))
        model.module.register_forward_pre_hook(count)
        return model.module

    def end_stage(self, stage, context):
        with open(os.environ["COUNTED"], "a") as file:
            print(rank(), float(context.model.module.counted), file=file)


@hookimpl
def myosotis_methods():
    return {"counting": Counting}
"""
"""Keeps what differs from process to process in a buffer, as batch normalisation does."""


def test_buffers_of_divided_weights_end_as_the_first_process_has_them(
    tmp_path: Path, write_plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin("counting", COUNTING)
    monkeypatch.setenv("COUNTED", str(tmp_path / "counted"))
    setting = ("method=[plain,counting]", "trainer.strategy=fsdp")
    run_at(tmp_path, *command(2, *setting), modules=f"{MODULES},counting")
    counted = sorted((tmp_path / "counted").read_text().splitlines())
    # Two batches a step, twelve steps a stage.
    assert counted == ["0 24.0", "0 48.0", "1 24.0", "1 48.0"]


# What ends a process


def test_a_dead_process_is_as_a_dead_worker(two: StudyRecord, tmp_path: Path) -> None:
    harm = ("method.hazard.harm=kill", f"method.hazard.once={tmp_path}/done", "method.hazard.rank=1")
    record = run(tmp_path, 2, "evaluation.every=5", *harm)
    assert (tmp_path / "done").exists()
    assert list(record.trials.status) == ["finished"]
    assert log(record) == log(two)
    assert "goes on from stage 2, step 5" in (trial(record) / "log.txt").read_text()


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_in_one_process_ends_both(rank: int, tmp_path: Path) -> None:
    with pytest.raises(TrialsFailed, match="RuntimeError: harm"):
        run(tmp_path, 2, "method.hazard.harm=raise", f"method.hazard.rank={rank}")
    [error] = tmp_path.glob("studies/trial/*/error.txt")
    assert error.read_text().startswith("RuntimeError: harm\n")
    assert "in after_step" in error.read_text()
    assert list(error.parent.glob("checkpoints/stage2-step5-*.pt"))


def test_a_loss_that_is_not_finite_names_its_row(tmp_path: Path) -> None:
    text = r"loss must be finite, but is nan at step \d+ on the batch .*right\[0\]"
    with pytest.raises(TrialsFailed, match=text):
        run(tmp_path, 2, "dataset.right.broken=true", "trainer.max_steps=20", "evaluation.split=test")


UNLOADABLE = """
from myosotis import hookimpl
from myosotis.errors import ModelError
from tests.toy import ToyModel

MYOSOTIS_API = 1


class Unloadable(ToyModel):
    def load(self, objectives):
        raise ModelError("the weights are gone")


@hookimpl
def myosotis_models():
    return {"unloadable": Unloadable}
"""


def test_a_base_that_cannot_be_loaded_fails_the_trial(tmp_path: Path, write_plugin: Any) -> None:
    write_plugin("unloadable", UNLOADABLE)
    with pytest.raises(TrialsFailed, match="ModelError: the weights are gone"):
        run_at(tmp_path, *command(2, "model=unloadable"), modules=f"{MODULES},unloadable")
    [error] = tmp_path.glob("studies/trial/*/error.txt")
    assert error.read_text().startswith("ModelError: the weights are gone")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_an_interrupted_trial_goes_on_to_the_same_bits(
    strategy: str, tmp_path: Path, write_plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, which is another one in each process."""
    path = write_plugin("slow", SLOW)
    setting = (
        *("method=[plain,slow]", f"trainer.strategy={strategy}", "trainer.early_stopping.patience=9"),
        *("dataset.right.held_out=true", "dataset.up.held_out=true"),
    )
    modules = f"{MODULES},slow"
    whole = run_at(tmp_path, *command(2, *setting, "studies=whole"), modules=modules)
    environment = {**os.environ, "PYTHONPATH": f"{search_path()}:{path.parent}", "MYOSOTIS_PLUGINS": modules}
    process = subprocess.Popen(
        [sys.executable, "-m", "myosotis", "run", *command(2, *setting)],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob("studies/trial/*/checkpoints/stage2-step5-*")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    record = run_at(tmp_path, *command(2, *setting), modules=modules)
    assert "goes on from stage 2, step" in (trial(record) / "log.txt").read_text()
    assert log(record) == log(whole)
    assert list(record.scores.value) == list(whole.scores.value)


# Processes that are there already


@pytest.mark.slow
def test_nodes_run_one_study(two: StudyRecord, tmp_path: Path) -> None:
    """Two agents of torchrun, as on two machines with one device each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    overrides = [each for each in command(2, "evaluation.every=5") if not each.startswith("trainer.devices")]
    agents = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
                *(f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}"),
                *("-m", "myosotis", "run", *overrides, "trainer.num_nodes=2"),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": search_path(), "MYOSOTIS_PLUGINS": MODULES, **ON_THIS_MACHINE},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    told = [agent.communicate(timeout=120)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], told
    [name] = tmp_path.glob("studies/trial/*/metrics.jsonl")
    assert [json.loads(line) for line in name.read_text().splitlines()] == log(two)
    assert "1 to run" in told[0]
    assert "study" not in told[1]


# What cannot be


class Keeping(Method):
    """Keeps rows of its batches."""

    keeps_batches = True


@pytest.mark.parametrize(
    ("overrides", "environment", "text"),
    [
        (["trainer.devices=4"], {}, "at most the 0 GPUs .*, but got 4; .* add trainer.accelerator=cpu"),
        (["trainer.num_nodes=2"], {}, "started on every node by torchrun, which sets WORLD_SIZE"),
        (
            ["trainer.num_nodes=2"],
            {"WORLD_SIZE": "3"},
            r"the 3 processes .* \(WORLD_SIZE\), but is 1 times 2",
        ),
        (["optimizer.name=adamw_8bit"], {}, "optimizer.name=adamw_8bit must have a GPU"),
        (["optimizer.name=paged_adamw_8bit"], {}, "optimizer.name=paged_adamw_8bit must have a GPU"),
        (
            ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.strategy=fsdp", "method=[pull]"],
            {},
            r"method pull looks at .* \(penalty\), which trainer.strategy=fsdp divides",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    overrides: list[str], environment: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    [config] = resolved(*overrides)
    with pytest.raises(ConfigurationError, match=text):
        check_devices(config)


def test_a_method_that_keeps_rows_of_its_batches_is_refused() -> None:
    [config] = resolved("trainer.devices=2", "trainer.accelerator=cpu")
    check_devices(config)
    config.methods["keeping"] = Keeping()  # type: ignore[index]
    with pytest.raises(ConfigurationError, match="method keeping keeps rows of the batches"):
        check_devices(config)


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices(resolved("trainer.devices=2")[0])
    with pytest.raises(ConfigurationError, match="at most the 2 GPUs that torch sees, but got 3; lower it"):
        check_devices(resolved("trainer.devices=3")[0])
