"""OPT-6.7B in 8 bits with LoRA: memory of its weights, and speed beside PEFT and `transformers.Trainer`.

The shape is OPT-6.7B's, the weights are random, so that nothing is downloaded: they are written once, in float16,
13 GB. Both sides read them in 8 bits, put LoRA of rank 16 on queries and values, keep norms and output in float32,
recompute blocks in the backward pass, and train the same steps; each run is a process of its own, in interleaved
rounds. Ours is `myosotis run` as a user types it.

    python experiments/benchmarks/gpu_opt.py --rounds 3
    python experiments/benchmarks/gpu_opt.py --device cpu --shape tiny --steps 2 --batch 2 --length 16 --rounds 1
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import myosotis
from myosotis_plugins.models.huggingface import HuggingFace
from myosotis_plugins.models.nano import FOLDER
from myosotis_plugins.objectives.language_modeling import LanguageModeling

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "opt-6.7b": {
        "vocab_size": 50_272,
        "hidden_size": 4_096,
        "word_embed_proj_dim": 4_096,
        "ffn_dim": 16_384,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2_048,
    },
    "tiny": {
        "vocab_size": 4_096,
        "hidden_size": 64,
        "word_embed_proj_dim": 64,
        "ffn_dim": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
    },
}
PROMISED = 7.0
"""Gigabytes of weights that the guides promise of OPT-6.7B in 8 bits."""
RANK, ALPHA, TARGETS, RATE = 16, 32, ["q_proj", "v_proj"], 2e-4
LINE = "the quick brown fox jumps over the lazy dog\n"
"""What is trained on, again and again; at least 9 tokens."""


def write_model(shape: str, folder: Path, device: str) -> None:
    """Write random weights with the embedded model's tokenizer, which has fewer tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model("opt", **SHAPES[shape], **ids)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{shape}: {model.num_parameters():,} parameters")


def weights(module: nn.Module, device: str) -> dict[str, float]:
    """Count the gigabytes of parameters and buffers, and all that the device holds for them."""
    counted: Any = module
    held = {"weights": counted.get_memory_footprint() / 1e9}
    if device == "cuda":
        gc.collect()
        held["allocated"] = torch.cuda.memory_allocated() / 1e9
    return held


def ours(args: argparse.Namespace) -> dict[str, float]:
    """Load for the memory, then train by a study of one trial."""
    model = HuggingFace(str(args.model), dtype="float16", quantization="8bit", gradient_checkpointing=True)
    loaded = model.load([LanguageModeling()]).module
    loaded.to(args.device)
    held = weights(loaded, args.device)
    del loaded
    gc.collect()
    with tempfile.TemporaryDirectory() as studies:
        study = myosotis.run(
            [
                "model=huggingface",
                f"model.path={args.model}",
                "model.dtype=float16",
                "model.quantization=8bit",
                "model.gradient_checkpointing=true",
                "method=[lora]",
                f"method.lora={{rank:{RANK},alpha:{ALPHA},targets:[{','.join(TARGETS)}]}}",
                "dataset=[]",
                "+dataset@dataset.text=file",
                f"dataset.text.train={args.text}",
                f"dataset.text.length={args.length}",
                "probe=[]",
                f"trainer.batch_size={args.batch}",
                f"trainer.max_steps={args.steps}",
                f"trainer.accelerator={'gpu' if args.device == 'cuda' else 'cpu'}",
                f"trainer.precision={precision(args)}",
                "trainer.save=false",
                f"optimizer.learning_rate={RATE}",
                "evaluation.limit=4",
                "evaluation.resamples=100",
                "data_check=false",
                "logger=none",
                "study=opt",
                f"studies={studies}",
            ]
        )
        [manifest] = Path(studies).glob("opt/*/manifest.json")
        cost = json.loads(manifest.read_text(encoding="utf-8"))["cost"]
        [trained] = study.trials["trainable_parameters"]
    return {
        **held,
        "trained": trained,
        "tokens_per_second": cost["tokens"] / cost["training_seconds"],
        "peak": cost["peak_memory_bytes"] / 1e9,
    }


def library(args: argparse.Namespace) -> dict[str, float]:
    """Do as the guides do."""
    import transformers
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.model,
        quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True),
        dtype=torch.float16,
        device_map={"": args.device},
    )
    held = weights(model, args.device)
    model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    ids = tokenizer(args.text.read_text(encoding="utf-8"))["input_ids"]
    starts = range(0, len(ids) - args.length + 1, args.length)
    blocks = [dict.fromkeys(("input_ids", "labels"), ids[at : at + args.length]) for at in starts]
    with tempfile.TemporaryDirectory() as output:
        settings = transformers.TrainingArguments(
            output_dir=output,
            per_device_train_batch_size=args.batch,
            max_steps=args.steps,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            bf16=precision(args) == "bf16-mixed",
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            use_cpu=args.device == "cpu",
            save_strategy="no",
            report_to="none",
            logging_steps=10,
            disable_tqdm=True,
        )
        collate = transformers.default_data_collator
        trainer = transformers.Trainer(
            model=model, args=settings, train_dataset=blocks, data_collator=collate
        )
        seconds = trainer.train().metrics["train_runtime"]
    peak = torch.cuda.max_memory_allocated() / 1e9 if args.device == "cuda" else float("nan")
    return {
        **held,
        "trained": sum(each.numel() for each in model.parameters() if each.requires_grad),
        "tokens_per_second": args.steps * args.batch * args.length / seconds,
        "peak": peak,
    }


SIDES: Mapping[str, Callable[[argparse.Namespace], dict[str, float]]] = {"ours": ours, "library": library}


def precision(args: argparse.Namespace) -> str:
    """Choose how both sides compute."""
    return "bf16-mixed" if args.device == "cuda" else "32-true"


def apart(side: str, given: list[str], model: Path, text: Path) -> dict[str, float]:
    """Run a side in a process of its own."""
    command = [sys.executable, __file__, *given, "--side", side, "--model", str(model), "--text", str(text)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{side}: {found}", flush=True)
    return found


def show(rounds: Mapping[str, list[dict[str, float]]], shape: str) -> None:
    """Print the table, and what holds."""
    print("\n| side | weights, GB | trained | tokens/s | peak, GB |\n|---|---|---|---|---|")
    for side, found in rounds.items():
        speeds = [each["tokens_per_second"] for each in found]
        speed = f"{statistics.median(speeds):,.0f} [{min(speeds):,.0f}, {max(speeds):,.0f}]"
        held, trained, peak = (found[0][name] for name in ("weights", "trained", "peak"))
        print(f"| {side} | {held:.2f} | {trained:,.0f} | {speed} | {peak:.2f} |")
    pairs = zip(rounds["ours"], rounds["library"], strict=True)
    ratios = [mine["tokens_per_second"] / other["tokens_per_second"] for mine, other in pairs]
    print(f"\nours / library: {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
    if shape == "opt-6.7b":
        held = rounds["ours"][0]["weights"]
        print(
            f"weights {held:.2f} GB, {PROMISED:.0f} promised: {'holds' if held <= PROMISED else 'does not hold'}"
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", choices=list(SHAPES), default="opt-6.7b")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    for hidden in ("--side", "--model", "--text"):  # of the processes of their own
        parser.add_argument(hidden, type=str if hidden == "--side" else Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device must be one that torch sees, but it sees no GPU; try --device cpu --shape tiny")
    if args.side:
        print(json.dumps(SIDES[args.side](args)))
        return
    folder = Path(tempfile.mkdtemp())
    try:
        write_model(args.shape, folder / "model", args.device)
        text = folder / "text.txt"
        text.write_text(LINE * (args.steps * args.batch * args.length // 4), encoding="utf-8")
        rounds: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(args.rounds):
            for side, found in rounds.items():
                found.append(apart(side, sys.argv[1:], folder / "model", text))
        show(rounds, args.shape)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
