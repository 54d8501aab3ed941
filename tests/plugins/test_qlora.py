"""The preset is LoRA on all linear layers of a base in NF4 with double quantization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitsandbytes.nn import Linear4bit

from myosotis.config import composer
from myosotis.interfaces import Share, Stage
from myosotis.plugins import load_registry
from myosotis.points import expand
from myosotis.resolve import Resolver, TrialConfig
from myosotis_plugins.methods.lora import LoRA
from tests.plugins import tiny

REST = ("dataset=[pydocs]", "probe=[]", "logger=none")


def composed(*overrides: str) -> Any:
    with composer() as compose:
        return compose.compose("config", compose.parse([*REST, *overrides]))


def resolved(*overrides: str) -> TrialConfig:
    return Resolver(load_registry()).resolve(composed(*overrides))


def test_one_word_sets_the_method_and_the_base() -> None:
    config = composed("method=[qlora]", "method.qlora.rank=16")
    assert list(config.method) == ["qlora"]
    assert (config.method.qlora.rank, config.method.qlora.targets) == (16, "all-linear")
    assert (config.model.quantization, config.model.dtype) == ("nf4", "float32")


def test_it_goes_with_other_methods_and_gives_way_to_the_command() -> None:
    config = composed("method=[qlora,freeze]", "model.quantization=8bit", "method.qlora.targets=[q_proj]")
    assert sorted(config.method) == ["freeze", "qlora"]
    assert (config.model.quantization, config.method.qlora.targets) == ("8bit", ["q_proj"])


def test_it_is_swept_beside_lora_as_another_arm() -> None:
    """Trials are told apart by the names of their methods; under lora's it would pass for one more seed of it."""
    with composer() as compose:
        lines = [*REST, "method=[lora],[qlora]", "method.qlora.rank=4,8"]
        points = expand(compose, "config", lines, {}, {})
        configs = [compose.compose("config", point.overrides) for point in points]
    found = [(list(each.method), each.model.quantization) for each in configs]
    assert found == [(["lora"], "none"), (["qlora"], "nf4"), (["qlora"], "nf4")]


def test_without_it_the_base_is_whole() -> None:
    assert composed("method=[lora]").model.quantization == "none"


def test_it_makes_a_base_of_four_bits_with_adapters_at_every_linear_layer() -> None:
    config = resolved("method=[qlora]", "method.qlora.rank=2")
    lora = config.methods["qlora"]
    assert isinstance(lora, LoRA)
    model = config.model.load([])
    quantized = {name: each for name, each in model.module.named_modules() if isinstance(each, Linear4bit)}
    assert len(quantized) == 7 * model.module.config.num_hidden_layers  # type: ignore[union-attr]
    for each in quantized.values():
        assert each.weight.quant_type == "nf4"
        assert each.weight.quant_state.nested  # its scales are quantized too
    adapted = lora.adapt(model, tiny.context(model))
    trained = {name.partition(".lora_")[0] for name, each in adapted.named_parameters() if each.requires_grad}
    assert trained == {f"base_model.model.{name}" for name in quantized}


def test_it_learns(tmp_path: Path) -> None:
    config = resolved("method=[qlora]")
    losses, _ = tiny.losses(
        tmp_path / "trial",
        config.model,
        tiny.text_task("poem", tiny.POEM),
        config.methods,
        steps=8,
        stages=(Stage(1, {"poem": Share(1, 1)}),),
    )
    assert losses[-1] < losses[0]
