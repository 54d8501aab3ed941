"""Peak memory of a cohort of 8 against one trial, on a model of 100 M parameters, batches of 1x64.

Each side is a whole `myosotis run` in one process: start, base row, training, evaluation, report. The model is a
random Llama in float32, made on the spot; so is the text. Peaks are the kernel's, of the resident set.

    python experiments/benchmarks/memory.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

WORDS = ("forget", "me", "not", "said", "the", "flower", "by", "brook")
LINES = 2_000
BAR = 1.5


def make(folder: Path, width: int, layers: int, vocabulary: int) -> None:
    """Write a random Llama with a tokenizer of bytes, and a text."""
    import random

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=27 * width // 10,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        num_key_value_heads=max(1, width // 64),
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "model")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: each for each, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder / "model")
    draw = random.Random(0)
    lines = (" ".join(draw.choices(WORDS, k=8)) for _ in range(LINES))
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"a Llama of {parameters:,} parameters in float32, vocabulary of {vocabulary:,}", flush=True)


def command(folder: Path, trials: int, args: argparse.Namespace) -> list[str]:
    """Write the command of a study whose trials train together in one process."""
    text = f"'{folder / 'text.txt'}'"
    return [
        *(sys.executable, "-m", "myosotis", "run"),
        "model=huggingface",
        f"model.path='{folder / 'model'}'",
        "dataset=[]",
        "+dataset@dataset.new=file",
        f"dataset.new.train={text}",
        f"dataset.new.test={text}",
        f"dataset.new.length={args.length}",
        "probe=[]",
        "method.lora.rank=8",
        f"seed={','.join(map(str, range(trials)))}",
        f"trainer.batch_size={args.batch}",
        f"trainer.max_steps={args.steps}",
        "logger=none",
        f"hydra.launcher.cohort={trials}",
        "hydra.launcher.workers=1",
        "study=memory",
    ]


def peak(words: Sequence[str], folder: Path) -> int:
    """Run a command to its end, and give its peak resident memory; bytes."""
    with tempfile.TemporaryFile() as output:
        # This process stays small: a child's peak starts from what its parent held when it forked.
        child = subprocess.Popen(words, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, code, usage = os.wait4(child.pid, 0)
        if code:
            output.seek(0)
            sys.exit(f"{' '.join(words)} failed:\n{output.read().decode()[-2000:]}")
    return usage.ru_maxrss * 1024


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Measure both sides in turn, each time in an empty folder, and print the ratio."""
    own = [sys.executable, __file__, "--width", str(args.width), "--layers", str(args.layers)]
    subprocess.run([*own, "--vocabulary", str(args.vocabulary), "--make", str(folder)], check=True)
    peaks: dict[int, list[int]] = {1: [], args.trials: []}
    for number in range(args.rounds):
        for trials, found in peaks.items():
            place = folder / f"{number}-{trials}"
            place.mkdir()
            found.append(peak(command(folder, trials, args), place))
            print(f"  {trials} trials: {found[-1] / 1e6:,.0f} MB", flush=True)
    ratios = [many / one for one, many in zip(peaks[1], peaks[args.trials], strict=True)]
    print(
        f"{args.trials} trials over one, {args.batch}x{args.length}: {statistics.median(ratios):.3f} times "
        f"({min(ratios):.3f} to {max(ratios):.3f}), n = {len(ratios)}; at most {BAR}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make(args.make, args.width, args.layers, args.vocabulary)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(args, Path(folder))


if __name__ == "__main__":
    main()
