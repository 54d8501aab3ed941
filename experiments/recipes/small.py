"""Make a small GPT-2 or OPT to pretrain: random weights, the embedded model's tokenizer and its text.

    python experiments/recipes/small.py gpt2 --output small-gpt2

writes `small-gpt2/untrained`, a folder that `model=huggingface` loads, and `small-gpt2/train.jsonl` and
`small-gpt2/test.jsonl`, the prose of Python's standard library that no benchmark of the project trains or scores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from myosotis_plugins.datasets import standard_library
from myosotis_plugins.models.nano import FOLDER

WIDTH, LAYERS, HEADS, POSITIONS = 160, 6, 4, 512
SIZES = {
    "gpt2": {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS},
    "opt": {
        "hidden_size": WIDTH,
        "word_embed_proj_dim": WIDTH,
        "ffn_dim": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": POSITIONS,
    },
}
HELD_OUT = 20
"""Every so many texts are scored."""


def make(kind: str, folder: Path) -> None:
    """Write the untrained model and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SIZES[kind],
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{kind}: {model.num_parameters():,} parameters")


def write_texts(texts: Sequence[str], file: Path) -> None:
    """Write texts as JSON lines."""
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=SIZES)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    make(options.kind, options.output / "untrained")
    texts = standard_library.pretraining_texts()
    write_texts(
        [text for number, text in enumerate(texts) if number % HELD_OUT], options.output / "train.jsonl"
    )
    write_texts(texts[::HELD_OUT], options.output / "test.jsonl")


if __name__ == "__main__":
    main()
