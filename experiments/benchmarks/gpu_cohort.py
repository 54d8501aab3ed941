"""Tokens per second, peak memory and MFU of one trial, of plain PEFT with `transformers.Trainer`, and of cohorts.

Needs nothing downloaded: weights are random, at the shapes of real models, made on the device. Every figure is
printed as soon as it is known and kept in a JSON file; running out of memory, or of time, is a row.

    python experiments/benchmarks/gpu_cohort.py --minutes 8 --profile
    python experiments/benchmarks/gpu_cohort.py --device cpu --shapes tiny --batches 1x16 --cohorts 1 2
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn

from myosotis.errors import NonFiniteLoss
from myosotis.interfaces import (
    Example,
    Model,
    ModelFactory,
    Objective,
    Rows,
    Share,
    Split,
    Stage,
    TaskDataset,
)
from myosotis.joint import JointForward
from myosotis.resolve import TrialConfig
from myosotis.schema import EvaluationConfig, OptimizerConfig, ScheduleConfig, TrainerConfig
from myosotis.stacking import Branch, Stack
from myosotis.testing import make_task
from myosotis.testing.rehearsal import registry_without_plugins
from myosotis.trial import TrialRun
from myosotis.workspace import Workspace
from myosotis_plugins.methods.lora import LoRA
from myosotis_plugins.metrics.language import CrossEntropy
from myosotis_plugins.objectives.language_modeling import LanguageModeling

WARM_UP = 4
"""Steps before the clock runs; the last of them is timed to choose how many follow."""
FEWEST, MOST = 3, 30
"""Timed steps."""
PROFILED = 3
"""Steps in a profile."""
LOGGED = 10
"""Steps between two readings of the loss, on both sides."""
LIBRARY = "PEFT + Trainer"
PROFILE_SUFFIX = ".profile.txt"


# The models


@dataclass(frozen=True)
class Shape:
    """A decoder's shape.

    Attributes:
        kind: its architecture.
        vocabulary: tokens.
        width: of the hidden states.
        inner: width inside the multilayer perceptrons.
        layers: blocks.
        heads: query heads, `width / heads` wide.
        groups: key-value heads.
        tied: whether the output head is the embeddings.
        parameters: how many it must come out with, where that is published.
    """

    kind: str
    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    groups: int
    tied: bool = True
    parameters: int | None = None

    def make(self, device: torch.device) -> nn.Module:
        """Make the model with random weights on a device, in bfloat16."""
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(
            self.kind,
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.groups,
            max_position_embeddings=2048,
            tie_word_embeddings=self.tied,
        )
        with device:
            module: nn.Module = AutoModelForCausalLM.from_config(
                config, dtype=torch.bfloat16, attn_implementation="sdpa"
            )
        return module


SHAPES: Mapping[str, Shape] = {
    "SmolLM2-135M": Shape("llama", 49_152, 576, 1_536, 30, 9, 3, parameters=134_515_008),
    "Qwen2.5-0.5B": Shape("qwen2", 151_936, 896, 4_864, 24, 14, 2, parameters=494_032_768),
    "Llama-3.2-1B": Shape("llama", 128_256, 2_048, 8_192, 16, 32, 8, parameters=1_235_814_400),
    "tiny": Shape("llama", 512, 32, 64, 2, 4, 2),
}
SMALLER = ("SmolLM2-135M", "Qwen2.5-0.5B")
"""The shapes whose aim is 16 trials in an eighth of their time one by one."""


# Arithmetic


def frozen_weights(module: nn.Module) -> int:
    """Count the weights that multiply: linear layers and the head, tied or not; a look-up costs nothing."""
    return sum(each.weight.numel() for each in module.modules() if isinstance(each, nn.Linear))


def flops(frozen: int, adapters: float) -> float:
    """Give the model's operations a trained token: 4 a frozen weight, 6 an adapter's.

    Two forward, two for the gradient of the inputs, and for what trains two for its own gradient.
    """
    return 4 * frozen + 6 * adapters


def attention_flops(layers: int, width: int, length: int) -> float:
    """Give the operations a token of causal attention's two products, forward and backward.

    A token attends to half of the length on average; MFU counts none of it.
    """
    return 3 * layers * 2 * (2 * width * length / 2)


PEAKS: Sequence[tuple[str, float]] = (
    ("H200", 989.0),
    ("GH200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("L4", 121.0),
    ("A10G", 70.0),
    ("A10", 125.0),
    ("4090", 165.2),
    ("3090", 71.0),
)
"""Dense bfloat16 peaks in TFLOP/s, accumulated in float32, from the makers' data sheets; the first that fits."""


def peak_tflops(name: str) -> float | None:
    """Give a device's dense bfloat16 peak by its name; None where it is not known."""
    words = set(re.split(r"[^A-Za-z0-9]+", name))
    return next((peak for device, peak in PEAKS if words.issuperset(device.split())), None)


# What is trained


@dataclass(frozen=True)
class Batch:
    """Rows and their length in tokens."""

    rows: int
    length: int

    @classmethod
    def read(cls, text: str) -> Batch:
        """Read a text such as `4x512`."""
        rows, _, length = text.partition("x")
        return cls(int(rows), int(length))

    def __str__(self) -> str:
        return f"{self.rows}x{self.length}"

    @property
    def tokens(self) -> int:
        """How many they are together."""
        return self.rows * self.length


class RandomModel(ModelFactory):
    """A model of a shape with random weights."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.shape = shape
        self.device = device

    def load(self, objectives: Collection[Objective]) -> Model:
        return Model(self.shape.make(self.device))

    def outline(self, objectives: Collection[Objective]) -> Model:
        return Model(self.shape.make(torch.device("meta")))

    def save(self, model: Model, folder: Path) -> None:
        """Keep nothing."""


class RandomTokens(TaskDataset):
    """Blocks of random tokens, enough for every step."""

    def __init__(self, batch: Batch, vocabulary: int) -> None:
        count = batch.rows * (WARM_UP + MOST)
        self.blocks = np.random.default_rng(0).integers(vocabulary, size=(count, batch.length))

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        return "tokens", {}

    def split(self, name: Split) -> Rows | None:
        return [{"input_ids": block} for block in self.blocks]


class Tokens(LanguageModeling):
    """Language modelling of rows that are tokens already."""

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        return [rows[index] for index in range(len(rows))]


@dataclass(frozen=True)
class Settings:
    """How everything is measured."""

    device: torch.device
    precision: str
    ranks: Sequence[int]
    seconds: float

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def accelerator(self) -> str:
        """Lightning's name of the device."""
        return "gpu" if self.device.type == "cuda" else "cpu"


# Timing


class Stepwise(Protocol):
    """Follows the steps of a training."""

    def step(self) -> bool:
        """Take note of a step; tell whether it was the last."""


@dataclass
class Window:
    """Times steps after a warm-up, between two synchronisations: as many as fill the seconds asked for."""

    settings: Settings
    count: int = 0
    steps: int = 0
    elapsed: float = 0.0
    _since: float = 0.0

    def step(self) -> bool:
        self.count += 1
        if self.count == WARM_UP - 1:
            self._since = self._now()
        elif self.count == WARM_UP:
            begun = self._now()
            fitting = round(self.settings.seconds / (begun - self._since))
            self.steps, self._since = min(max(fitting, FEWEST), MOST), begun
        elif self.steps and self.count == WARM_UP + self.steps:
            self.elapsed = self._now() - self._since
            return True
        return False

    def _now(self) -> float:
        self.settings.synchronize()
        return time.perf_counter()


@dataclass
class Profile:
    """Profiles some steps after a warm-up."""

    settings: Settings
    count: int = 0
    elapsed: float = 0.0

    @cached_property
    def profiler(self) -> torch.profiler.profile:
        """What records."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.settings.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        return torch.profiler.profile(activities=activities)

    def step(self) -> bool:
        self.count += 1
        if self.count == WARM_UP:
            self.settings.synchronize()
            self.profiler.start()
            self.elapsed = -time.perf_counter()
        if self.count < WARM_UP + PROFILED:
            return False
        self.settings.synchronize()
        self.elapsed += time.perf_counter()
        self.profiler.stop()
        return True

    def table(self) -> str:
        """Write the slowest operators, and how much of the time the device was busy."""
        averages = self.profiler.key_averages()
        if self.settings.device.type != "cuda":
            return str(averages.table(sort_by="self_cpu_time_total", row_limit=25))
        # Operators repeat the time of their kernels, and the optimizer's range that of its whole step.
        kernels = (
            each.time_range.elapsed_us()
            for each in self.profiler.events()
            if each.device_type == torch.autograd.DeviceType.CUDA and not each.is_user_annotation
        )
        busy = sum(kernels) / 1e6 / self.elapsed
        table = averages.table(sort_by="self_device_time_total", row_limit=25)
        return f"device busy for {busy:.0%} of {1000 * self.elapsed / PROFILED:.1f} ms a step\n{table}"


@dataclass
class Watch:
    """Follows a stage of ours, and ends it."""

    steps: Stepwise

    def log(self, member: Any, values: Mapping[str, float]) -> None:
        """Log nothing."""

    def lost(self, member: Any, error: NonFiniteLoss) -> None:
        """Let it be the row's failure."""
        raise error

    def reached(self, members: Sequence[Any], optimizer: torch.optim.Optimizer) -> None:
        if self.steps.step():
            for member in members:
                member.active = False


# Both sides


class Trials:
    """Trials of ours on one random base, and PEFT's model of the same base; made when they are needed."""

    def __init__(self, name: str, batches: Sequence[Batch], settings: Settings, folder: Path) -> None:
        self.shape = SHAPES[name]
        self.batches = list(batches)
        self.settings = settings
        self.folder = folder
        self.runs: list[TrialRun] = []
        self.stacks: dict[int, Stack] = {}
        self.workspace = Workspace(folder, registry_without_plugins())
        self.data = {str(batch): RandomTokens(batch, self.shape.vocabulary) for batch in self.batches}
        runtime = TrialRun(self.config(0), folder, "", "", self.workspace).runtime
        self.base = self.workspace.base(self.config(0), runtime)

    def config(self, number: int) -> TrialConfig:
        """Configure a trial: a stage for each batch size, of which one at a time is trained."""
        tasks = {
            name: make_task(name, data, Tokens(), {"cross_entropy": CrossEntropy()})
            for name, data in self.data.items()
        }
        return TrialConfig(
            id=f"trial{number}",
            seed=number,
            model=RandomModel(self.shape, self.settings.device),
            methods={"lora": LoRA(rank=self.settings.ranks[number % len(self.settings.ranks)])},
            tasks=tasks,
            stages=tuple(Stage(index, {task: Share(1, 1)}) for index, task in enumerate(tasks, 1)),
            trainer=TrainerConfig(
                max_steps=WARM_UP + MOST,
                precision=self.settings.precision,
                accelerator=self.settings.accelerator,
                log_every_n_steps=LOGGED,
            ),
            optimizer=OptimizerConfig(learning_rate=1e-4),
            schedule=ScheduleConfig(),
            evaluation=EvaluationConfig(),
            resolved={},
            identities={name: name for name in ("model", *tasks)},
            logger=OmegaConf.create({}),
        )

    def cohort(self, count: int, batch: Batch, steps: Stepwise) -> None:
        """Train so many trials together, as a study does."""
        from myosotis import training

        self._make(count)
        runs = self.runs[:count]
        for run in runs:
            run.config = replace(run.config, trainer=replace(run.config.trainer, batch_size=batch.rows))
        members = [run.begin_stage(run.config.stages[self.batches.index(batch)]) for run in runs]
        if count not in self.stacks:
            self.stacks[count] = Stack(self.base.module, [run.branch for run in runs], [LoRA])
        forward = JointForward([member.module for member in members], self.stacks[count])
        training.train_stage(members, forward, Watch(steps), runs[0].runtime)

    def _make(self, count: int) -> None:
        for number in range(len(self.runs), count):
            run = TrialRun(self.config(number), self.folder, "", "", self.workspace)
            run.adapt(self.base)
            self.runs.append(run)

    @cached_property
    def peft_model(self) -> nn.Module:
        """What a user makes of the same base by PEFT."""
        from peft import LoraConfig, get_peft_model

        rank = self.settings.ranks[0]
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        module: nn.Module = get_peft_model(Branch(self.base.module).module, config)
        return module

    def library(self, batch: Batch, steps: Stepwise) -> None:
        """Train one model by `transformers.Trainer`."""
        import transformers

        class Callback(transformers.TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
                control.should_training_stop = steps.step()
                return control

        trainer = transformers.Trainer(
            model=self.peft_model,
            train_dataset=[
                {"input_ids": torch.from_numpy(block), "labels": torch.from_numpy(block)}
                for block in self.data[str(batch)].blocks
            ],
            data_collator=transformers.default_data_collator,
            callbacks=[Callback()],
            args=transformers.TrainingArguments(
                output_dir=str(self.folder / "trainer"),
                per_device_train_batch_size=batch.rows,
                max_steps=WARM_UP + MOST,
                learning_rate=1e-4,
                lr_scheduler_type="constant",
                bf16=self.settings.precision == "bf16-mixed",
                use_cpu=self.settings.device.type == "cpu",
                save_strategy="no",
                report_to="none",
                logging_steps=LOGGED,
                disable_tqdm=True,
            ),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()

    def train(self, count: int, batch: Batch, steps: Stepwise) -> None:
        """Train a cohort of ours, or PEFT's model where `count` is 0."""
        if count:
            self.cohort(count, batch, steps)
        else:
            self.library(batch, steps)

    def peak_bytes(self, count: int) -> int | None:
        """Give the device's peak memory since it was reset, without the adapters of who did not train."""
        if self.settings.device.type != "cuda":
            return None
        idle = [run.adapted.model.module for run in self.runs[count:]]
        if count and "peft_model" in vars(self):
            idle.append(self.peft_model)
        adapters = [each for module in idle for each in trained(module)]
        held = sum(each.numel() * each.element_size() for each in adapters)
        return int(torch.cuda.max_memory_allocated(self.settings.device)) - held

    def adapters(self, count: int) -> float:
        """Give the trained parameters of a trial, on average."""
        modules = [run.adapted.model.module for run in self.runs[:count]] if count else [self.peft_model]
        return statistics.mean(sum(each.numel() for each in trained(module)) for module in modules)

    def free(self) -> None:
        """Let go of gradients and of what an error left behind."""
        modules = [run.adapted.model.module for run in self.runs]
        for module in modules + [self.peft_model] * ("peft_model" in vars(self)):
            module.zero_grad(set_to_none=True)
        gc.collect()
        if self.settings.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.settings.device)


def trained(module: nn.Module) -> Iterator[nn.Parameter]:
    """Give the parameters that train."""
    return (parameter for parameter in module.parameters() if parameter.requires_grad)


# Measuring


@dataclass
class Row:
    """What one way of training came to.

    Attributes:
        trials: trials that trained together; 0 is PEFT with `transformers.Trainer`.
        tokens_per_second: of all of them, one value a round.
        mfu: the median's model operations over the device's peak.
        peak_bytes: the most that the device's memory held.
        state: why there is no value, or no further one.
        wall: seconds that the last measurement took, with all that is around it.
    """

    model: str
    batch: str
    trials: int
    tokens_per_second: list[float] = field(default_factory=list)
    mfu: float | None = None
    attention: float | None = None
    peak_bytes: int | None = None
    state: str = ""
    wall: float = 0.0

    @property
    def way(self) -> str:
        """What it is called."""
        return f"ours, {self.trials}" if self.trials else LIBRARY

    @property
    def median(self) -> float:
        """Tokens per second."""
        return statistics.median(self.tokens_per_second)


class Machine:
    """What everything was measured on."""

    def __init__(self, device: torch.device, peak: float | None) -> None:
        cuda = device.type == "cuda"
        self.name = torch.cuda.get_device_name(device) if cuda else platform.processor() or "a processor"
        self.peak = peak or (peak_tflops(self.name) if cuda else None)

    def described(self) -> dict[str, Any]:
        """Give what must be known to read the figures."""
        import lightning
        import peft
        import transformers

        libraries = {each.__name__: each.__version__ for each in (torch, transformers, peft, lightning)}
        return {"device": self.name, "peak_tflops": self.peak, "cuda": torch.version.cuda, **libraries}


@dataclass
class Measurement:
    """Measures the cells of one model within a time, and keeps what it finds."""

    trials: Trials
    name: str
    machine: Machine
    output: Path
    end: float
    rounds: int
    rows: list[Row] = field(default_factory=list)

    def cell(self, batch: Batch, cohorts: Sequence[int], seconds: float) -> list[Row]:
        """Measure all ways in turn, round after round, within about so many seconds."""
        rows = [Row(self.name, str(batch), count) for count in (0, *cohorts)]
        self.rows += rows
        until = time.perf_counter() + seconds
        self.trials.free()
        for number in range(self.rounds):
            longest = 0.0
            for row in rows:
                left = (until if number else self.end) - time.perf_counter()
                # The first time a way takes up to twice what half as many trials took.
                expected = row.wall or 2 * longest
                if not row.state and expected > left:
                    row.state = "" if row.tokens_per_second else "no time left"
                elif not row.state:
                    self._measure(row, batch)
                longest = max(longest, row.wall)
                if row.trials and row.state == "out of memory":
                    self._skip_larger(row, rows)
                self._keep()
        return rows

    def _measure(self, row: Row, batch: Batch) -> None:
        def measure() -> None:
            window = Window(self.trials.settings)
            self.trials.train(row.trials, batch, window)
            tokens = max(1, row.trials) * batch.tokens
            row.tokens_per_second.append(tokens * window.steps / window.elapsed)
            self._count(row, batch)

        begun = time.perf_counter()
        row.state = attempt(measure)
        self.trials.free()
        row.wall = time.perf_counter() - begun
        rate = "" if row.state else f" {row.tokens_per_second[-1]:,.0f} tokens/s,"
        memory = f" {row.peak_bytes / 1e9:.2f} GB," if row.peak_bytes else ""
        say(f"{row.model} {row.batch} {row.way}:{rate}{memory} {row.state} {row.wall:.1f} s")

    def _count(self, row: Row, batch: Batch) -> None:
        shape = self.trials.shape
        row.peak_bytes = self.trials.peak_bytes(row.trials)
        each = flops(frozen_weights(self.trials.base.module), self.trials.adapters(row.trials))
        row.attention = attention_flops(shape.layers, shape.width, batch.length) / each
        if self.machine.peak:
            row.mfu = row.median * each / (self.machine.peak * 1e12)

    def _skip_larger(self, failed: Row, rows: Sequence[Row]) -> None:
        for row in rows:
            if row.trials > failed.trials and not row.state and not row.tokens_per_second:
                row.state = "out of memory, as half as many"

    def _keep(self) -> None:
        kept = {**self.machine.described(), "rows": [asdict(row) for row in self.rows]}
        self.output.write_text(json.dumps(kept, indent=1), encoding="utf-8")

    def profile(self, rows: Sequence[Row], batch: Batch) -> None:
        """Write the slowest operators of one trial, and of the largest cohort of up to 16."""
        ran = [row for row in rows if row.trials and row.tokens_per_second and row.trials <= 16]
        for row in {row.trials: row for row in (*ran[:1], *ran[-1:])}.values():
            if self.end - time.perf_counter() < 2 * row.wall + 10:
                say(f"{row.model} {row.batch} {row.way}: no time left for a profile")
                continue
            profile = Profile(self.trials.settings)

            def run(row: Row = row, profile: Profile = profile) -> None:
                self.trials.train(row.trials, batch, profile)
                title = f"# {row.model}, {row.batch}, {row.way}\n"
                with self.output.with_suffix(PROFILE_SUFFIX).open("a", encoding="utf-8") as file:
                    file.write(f"{title}{profile.table()}\n\n")

            state = attempt(run)
            say(f"{row.model} {row.batch} {row.way}: profile {state or 'written'}")
            self.trials.free()


def say(text: str) -> None:
    print(text, flush=True)


def attempt(action: Callable[[], None]) -> str:
    """Do something that may fail; say how it did: there may never be another run."""
    try:
        action()
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        lacking = isinstance(error, torch.OutOfMemoryError | MemoryError) or "ALLOC_FAILED" in first
        return "out of memory" if lacking else f"failed: {type(error).__name__}: {first}"[:200]
    return ""


# The table


def table(rows: Sequence[Row]) -> str:
    """Write the rows in markdown; a speed-up is against one trial of ours, in the same rounds."""
    lines = [
        "| model | batch | trials | tokens/s | spread | speed-up | MFU | with attention | peak GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        start = f"| {row.model} | {row.batch} | {row.way} |"
        if not row.tokens_per_second:
            lines.append(f"{start} {row.state} | – | – | – | – | – |")
            continue
        low, high = min(row.tokens_per_second), max(row.tokens_per_second)
        gained = speed_up(row, rows)
        with_attention = row.mfu and row.mfu * (1 + (row.attention or 0))
        memory = f"{row.peak_bytes / 1e9:.2f}" if row.peak_bytes else "–"
        lines.append(
            f"{start} {row.median:,.0f} | {low:,.0f} to {high:,.0f}, n = {len(row.tokens_per_second)} "
            f"| {f'{gained:.2f}' if gained else '–'} | {percent(row.mfu)} | {percent(with_attention)} | {memory} |"
        )
    return "\n".join(lines)


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def speed_up(row: Row, rows: Sequence[Row]) -> float | None:
    """Give how many times the tokens of one trial of ours: the median over rounds."""
    alone = [each for each in rows if (each.model, each.batch, each.trials) == (row.model, row.batch, 1)]
    if not alone or not alone[0].tokens_per_second or not row.tokens_per_second:
        return None
    pairs = zip(row.tokens_per_second, alone[0].tokens_per_second, strict=False)
    return statistics.median(mine / single for mine, single in pairs)


def verdict(rows: Sequence[Row]) -> list[str]:
    """Say of each model and batch size what of the aim was reached."""
    lines = []
    for model, batch in dict.fromkeys((row.model, row.batch) for row in rows):
        own = [row for row in rows if (row.model, row.batch) == (model, batch) and row.trials]
        gains = {row.trials: gain for row in own if (gain := speed_up(row, rows))}
        if not gains:
            lines.append(f"{model} {batch}: nothing was measured")
            continue
        together = [gain for trials, gain in gains.items() if trials > 1]
        parts = [f"slowest cohort {min(together):.2f} times one by one (aim: 1)"] if together else []
        if model in SMALLER and batch == "1x256":
            reached = f"{gains[16]:.2f} times" if 16 in gains else "not measured"
            parts.append(f"16 trials {reached} one by one (aim: 8)")
        used = {row.trials: row.mfu for row in own if row.mfu is not None}
        if used.get(1, 1.0) < 0.2:
            parts.append(
                f"MFU {percent(used[1])} alone, {percent(max(used.values()))} at best (aim: 40 %, or why not)"
            )
        lines.append(f"{model} {batch}: " + "; ".join(parts))
    return lines


def show(rows: Sequence[Row], described: Mapping[str, Any]) -> None:
    say("\n" + ", ".join(f"{name} {value}" for name, value in described.items()) + "\n")
    say(table(rows) + "\n")
    say("\n".join(verdict(rows)))


# The command


def measure_shape(name: str, args: argparse.Namespace) -> None:
    """Measure one model's shape in this process."""
    end = time.perf_counter() + 60 * args.minutes
    for each in ("transformers", "lightning.pytorch"):
        logging.getLogger(each).setLevel(logging.ERROR)
    device = torch.device(args.device)
    settings = Settings(device, args.precision, args.ranks, args.seconds)
    machine = Machine(device, args.peak_tflops)
    args.output.with_suffix(PROFILE_SUFFIX).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(name, args.batches, settings, Path(folder))
        check_parameters(name, trials.base.module)
        measurement = Measurement(trials, name, machine, args.output, end, args.rounds)
        for number, batch in enumerate(args.batches):
            left = end - time.perf_counter()
            rows = measurement.cell(batch, args.cohorts, left / (len(args.batches) - number))
            if args.profile:
                measurement.profile(rows, batch)
    show(measurement.rows, machine.described())


def check_parameters(name: str, module: nn.Module) -> None:
    """Hold the number of parameters against the published one."""
    expected = SHAPES[name].parameters
    found = sum(parameter.numel() for parameter in module.parameters())
    if expected not in (None, found):
        sys.exit(f"{name} must have {expected:,} parameters, but came out with {found:,}")
    say(f"{name}: {found:,} parameters, {frozen_weights(module):,} weights that multiply")


def measure_apart(args: argparse.Namespace, given: Sequence[str]) -> None:
    """Measure each shape in a process of its own, so that a broken device context ends with it."""
    end = time.perf_counter() + 60 * args.minutes
    parts = [args.output.with_suffix(f".{name}.json") for name in args.shapes]
    for number, (name, part) in enumerate(zip(args.shapes, parts, strict=True)):
        minutes = (end - time.perf_counter()) / 60 / (len(parts) - number)
        # Of an option that is given twice, the last counts.
        part.unlink(missing_ok=True)
        own = ["--shapes", name, "--output", str(part), "--minutes", f"{max(0.1, minutes - 0.2):.2f}"]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run([sys.executable, __file__, *given, *own], timeout=60 * minutes + 30, check=False)
    found = [json.loads(part.read_text(encoding="utf-8")) for part in parts if part.is_file()]
    if not found:
        sys.exit("nothing was measured")
    merged = {**found[0], "rows": [row for each in found for row in each["rows"]]}
    args.output.write_text(json.dumps(merged, indent=1), encoding="utf-8")
    for part in parts:
        part.unlink(missing_ok=True)
    described = {key: value for key, value in merged.items() if key != "rows"}
    show([Row(**row) for row in merged["rows"]], described)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=[*SHAPES][:3])
    parser.add_argument("--batches", nargs="+", type=Batch.read, default=["1x256", "4x512", "8x1024"])
    parser.add_argument("--cohorts", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--ranks", nargs="+", type=int, default=[8], help="in turn over the trials")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="about so long is timed at once")
    parser.add_argument("--minutes", type=float, default=8.0, help="what does not fit is left out, and said")
    parser.add_argument("--peak-tflops", type=float, help="the device's dense bfloat16 peak")
    parser.add_argument(
        "--profile", action="store_true", help="write the slowest operators beside the output"
    )
    parser.add_argument("--output", type=Path, default=Path("gpu_cohort.json"))
    args = parser.parse_args()
    args.batches = [each if isinstance(each, Batch) else Batch.read(each) for each in args.batches]
    return args


def main() -> None:
    args = arguments()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # the libraries would take all that they see
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("--device must be one that torch sees, but it sees no GPU; try --device cpu --shapes tiny")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if len(args.shapes) > 1:
        measure_apart(args, sys.argv[1:])
    else:
        measure_shape(args.shapes[0], args)


if __name__ == "__main__":
    main()
