"""What a trial asks of the machine's devices: refused before anything starts where it is not there."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from myosotis.adaptation import overriding
from myosotis.errors import ConfigurationError
from myosotis.evaluation import choose_runtime
from myosotis.interfaces import Method, Model
from myosotis.resolve import EIGHT_BIT, TrialConfig

WHOLE_HOOKS = ("loss", "penalty", "after_backward", "after_step", "parameter_groups")
"""Hooks that look at parameters or gradients while they train, which under `fsdp` no process has whole."""


def check_devices(config: TrialConfig) -> None:
    """See that the devices that a trial asks for are there, and that it can train on them.

    Raises:
        ConfigurationError: says what is missing, or what cannot be.
    """
    runtime = choose_runtime(config.trainer.accelerator, config.trainer.precision)
    _check_count(config, on_gpu=runtime.device.type == "cuda")
    _check_optimizer(config, on_gpu=runtime.device.type == "cuda")
    if config.trainer.divides and config.trainer.precision == "16-mixed":
        raise ConfigurationError(
            "trainer.precision must be 32-true or bf16-mixed with trainer.strategy=fsdp, whose parts no gradient "
            "scaler sees whole, but is 16-mixed"
        )
    if config.trains and config.trainer.processes > 1:
        _check_methods(config.methods, config.trainer.divides)


def check_divisible(config: TrialConfig, outline: Model) -> None:
    """See that the processes of a trial can each take a part of its weights.

    Raises:
        ConfigurationError: they are quantized, which an outline tells by what cannot train.
    """
    whole = all(parameter.requires_grad for parameter in outline.module.parameters())
    if config.trainer.divides and not whole:
        raise ConfigurationError(
            "trainer.strategy=fsdp must have weights of plain numbers to divide, but those of this base are "
            "quantized; take trainer.strategy=ddp, or a base that is not"
        )


def _check_count(config: TrialConfig, on_gpu: bool) -> None:
    trainer = config.trainer
    if trainer.num_nodes > 1 or "WORLD_SIZE" in os.environ:
        _check_started(trainer.devices, trainer.num_nodes)
    if trainer.devices == 1 or trainer.accelerator == "cpu":
        return
    there = torch.cuda.device_count() if on_gpu else 0
    if trainer.devices > there:
        raise ConfigurationError(
            f"trainer.devices must be at most the {there} GPUs that torch sees, but got {trainer.devices}; "
            + ("lower it" if there else "for processes on the CPU, add trainer.accelerator=cpu")
        )


def _check_started(devices: int, nodes: int) -> None:
    started = os.environ.get("WORLD_SIZE")
    if started is None:
        raise ConfigurationError(
            f"trainer.num_nodes={nodes} must be started on every node by torchrun, which sets WORLD_SIZE, but it "
            "is not set; see the README, or leave trainer.num_nodes out"
        )
    if int(started) != devices * nodes:
        raise ConfigurationError(
            f"trainer.devices times trainer.num_nodes must be the {started} processes that were started "
            f"(WORLD_SIZE), but is {devices} times {nodes}"
        )


def _check_optimizer(config: TrialConfig, on_gpu: bool) -> None:
    name = config.optimizer.name
    if name not in EIGHT_BIT:
        return
    if not on_gpu:
        raise ConfigurationError(
            f"optimizer.name={name} must have a GPU, whose memory it is made to save, but this trial computes on "
            "the CPU; take optimizer.name=adamw"
        )
    if config.trainer.divides:
        raise ConfigurationError(
            f"optimizer.name={name} must have whole parameters, which trainer.strategy=fsdp divides; take "
            "optimizer.name=adamw, or trainer.strategy=ddp"
        )


def _check_methods(methods: Mapping[str, Method], sharded: bool) -> None:
    keeping = [name for name, method in methods.items() if method.keeps_batches]
    if keeping:
        raise ConfigurationError(
            f"method {', '.join(keeping)} keeps rows of the batches that it sees, and of several processes each "
            "sees its own alone; leave it out, or set trainer.devices=1"
        )
    looking = [hook for hook in WHOLE_HOOKS if sharded and overriding(methods, hook)]
    if looking:
        names = sorted({name for hook in looking for name in overriding(methods, hook)})
        raise ConfigurationError(
            f"method {', '.join(names)} looks at parameters or gradients while they train ({', '.join(looking)}), "
            "which trainer.strategy=fsdp divides among the processes; take trainer.strategy=ddp"
        )
