"""Which dropout is on in a step of a trial: of what trains of the base, and never of what is frozen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import myosotis
from myosotis import hookimpl
from myosotis.interfaces import Context, Method
from tests.plugins import tiny

MYOSOTIS_API = 1
SEEN: list[dict[str, bool]] = []
"""Of each step, which dropouts were on."""


class Look(Method):
    """Does nothing but look."""

    def after_step(self, module: nn.Module, context: Context) -> None:
        SEEN.append({n: each.training for n, each in module.named_modules() if isinstance(each, nn.Dropout)})


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    return {"look": Look}


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=len(tiny.tokenizer()), n_positions=64, n_embd=16, n_layer=2, n_head=2)
    return tiny.save(GPT2LMHeadModel(config), tmp_path_factory.mktemp("gpt2"))


def study(folder: Path, model: Path, *overrides: str) -> Any:
    (folder / "plays.txt").write_text("\n".join(tiny.POEM * 4))
    return myosotis.run(
        [
            *(
                "model=huggingface",
                f"model.path={model}",
                "dataset=[]",
                "probe=[]",
                "logger=none",
                "data_check=false",
            ),
            *("+dataset@dataset.plays=file", "dataset.plays.train=plays.txt", "dataset.plays.length=16"),
            *(
                "trainer.max_steps=4",
                "trainer.batch_size=2",
                "evaluation.every=2",
                "evaluation.resamples=100",
            ),
            *overrides,
        ]
    )


@pytest.mark.parametrize(
    ("overrides", "on"),
    [
        (("method=[full,look]",), {"drop", "0", "1"}),
        (("method=[full,look]", "trainer.base_dropout=false"), set()),
        (("method=[freeze,look]", "method.freeze.first=1"), {"1"}),
        (("method=[lora,look]", "method.lora.dropout=0.1"), {"lora"}),
        (("method=[lora,look]", "method.lora.dropout=0.1", "trainer.base_dropout=false"), {"lora"}),
    ],
    ids=["full", "full without", "freeze", "lora", "lora without"],
)
def test_what_trains_has_dropout_in_every_step(
    gpt2_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    on: set[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYOSOTIS_PLUGINS", f"{os.environ['MYOSOTIS_PLUGINS']},{__name__}")
    SEEN.clear()
    study(tmp_path, gpt2_folder, *overrides)
    assert len(SEEN) == 4  # an evaluation lies between
    for step in SEEN:
        places = {
            "lora"
            if "lora" in name
            else "drop"
            if name.endswith("transformer.drop")
            else name.split(".h.")[1][0]
            for name, is_on in step.items()
            if is_on
        }
        assert places == on
