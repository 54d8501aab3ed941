"""What a user does without this project: one process a trial, `transformers.Trainer` and PEFT.

Fine-tunes a causal model on a text or JSON-lines file, with LoRA or whole but for its first blocks, scores
held-out files before and after, and prints one JSON object. It is the other side of `compare.py`.

    python baseline.py --model DIR --train plays.txt --eval stories=stories.jsonl --rank 8 --steps 200
    python baseline.py --model DIR --train plays.txt --freeze-first 3 --epochs 10
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()  # imports are part of what a process a trial costs


def documents(path: Path) -> list[str]:
    """Read the texts of a file: the column `text` of JSON lines, or the lines that are not empty."""
    lines = path.read_text(encoding="utf-8").split("\n")
    if path.suffix == ".jsonl":
        return [json.loads(line)["text"] for line in lines if line.strip()]
    return [line.strip() for line in lines if line.strip()]


def blocks(tokenizer: Any, texts: Sequence[str], length: int) -> list[dict[str, list[int]]]:
    """Join all documents and cut them into blocks."""
    stream = [token for ids in tokenizer(list(texts))["input_ids"] for token in ids]
    starts = range(0, len(stream) - length + 1, length)
    return [{"input_ids": stream[at : at + length], "labels": stream[at : at + length]} for at in starts]


def cross_entropy(model: Any, rows: Sequence[dict[str, list[int]]], batch: int) -> float:
    """Give the mean loss over all predicted tokens, in nats."""
    import torch

    model.eval()
    losses: list[float] = []
    weights: list[int] = []
    with torch.no_grad():
        for start in range(0, len(rows), batch):
            ids = torch.tensor([row["input_ids"] for row in rows[start : start + batch]], device=model.device)
            losses.append(model(input_ids=ids, labels=ids).loss.item())
            weights.append(len(ids))
    return sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--eval", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--limit", type=int, default=64, help="evaluated blocks a file")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument(
        "--freeze-first", type=int, help="no LoRA: all trains but embeddings and these blocks"
    )
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--epochs", type=int, help="instead of steps")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def freeze_first(model: Any, blocks: int) -> Any:
    """Freeze the embeddings, with them a tied head, and the first blocks of a Llama."""
    for module in (model.get_input_embeddings(), *model.model.layers[:blocks]):
        module.requires_grad_(False)
    return model


def with_lora(model: Any, rank: int) -> Any:
    """Put adapters on all linear layers."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def main() -> None:
    args = arguments()
    import transformers

    transformers.set_seed(args.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model)
    train = blocks(tokenizer, documents(args.train), args.length)
    files = dict(each.split("=", 1) for each in args.eval)
    held_out = {
        name: blocks(tokenizer, documents(Path(file)), args.length)[: args.limit]
        for name, file in files.items()
    }
    before = {name: cross_entropy(model, rows, 16) for name, rows in held_out.items()}
    lora = args.freeze_first is None
    model = with_lora(model, args.rank) if lora else freeze_first(model, args.freeze_first)
    trainer = transformers.Trainer(
        model=model,
        train_dataset=train,
        data_collator=transformers.default_data_collator,
        args=transformers.TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=args.batch,
            max_steps=-1 if args.epochs else args.steps,
            num_train_epochs=args.epochs or 1,
            learning_rate=args.learning_rate,
            lr_scheduler_type="constant",
            save_strategy="no",
            report_to="none",
            logging_steps=10,
            disable_tqdm=True,
            seed=args.seed,
        ),
    )
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    after = {name: cross_entropy(model, rows, 16) for name, rows in held_out.items()}
    tokens = args.length * (args.epochs * len(train) if args.epochs else args.steps * args.batch)
    result = {
        "rank": args.rank,
        "trained_parameters": sum(each.numel() for each in model.parameters() if each.requires_grad),
        "frozen_parameters": sum(each.numel() for each in model.parameters() if not each.requires_grad),
        "steps": trainer.state.global_step,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "training_seconds": seconds,
        "seconds": time.perf_counter() - STARTED,
        "before": before,
        "after": after,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
