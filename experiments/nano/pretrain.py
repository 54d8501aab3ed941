"""Trains `nano`, the small language model that the project carries.

A byte-level tokenizer and a Llama of about two million parameters, on the prose of the pretraining
part of the standard library and the language reference; nothing is downloaded.

    python experiments/nano/pretrain.py --output nano-again
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from myosotis_plugins.datasets import standard_library

START: Final = "<s>"
END: Final = "</s>"
VOCABULARY_SIZE: Final = 2048
POSITIONS: Final = 512
REPORT_EVERY: Final = 200


@dataclass(frozen=True)
class Recipe:
    """What training depends on beside the text; rates are per step, lengths in tokens."""

    steps: int = 2800
    warmup_steps: int = 100
    batch_size: int = 8
    block: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    dropout: float = 0.15
    hidden: int = 160
    intermediate: int = 432
    clip: float = 1.0


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer; every text can be encoded, and starts with `<s>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A $B", special_tokens=[(START, tokenizer.token_to_id(START))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def create_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Returns the untrained model."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def add_dropout(model: LlamaForCausalLM, rate: float) -> None:
    """Drops outputs of the embeddings and of every residual branch, which a Llama does not by itself."""

    def drop(module: nn.Module, _: object, output: Tensor) -> Tensor:
        return functional.dropout(output, rate, module.training)

    model.model.embed_tokens.register_forward_hook(drop)
    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.mlp.down_proj.register_forward_hook(drop)


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of each text, from `<s>` to `</s>`."""
    return [[*ids, tokenizer.eos_token_id] for ids in tokenizer(list(texts))["input_ids"]]


def batches(
    documents: Sequence[Sequence[int]], recipe: Recipe, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yields batches of blocks without end; each epoch joins the documents in a new order."""
    while True:
        order = torch.randperm(len(documents), generator=generator).tolist()
        joined = torch.tensor([token for index in order for token in documents[index]])
        shape = recipe.batch_size, recipe.block
        whole = len(joined) - len(joined) % math.prod(shape)
        yield from joined[:whole].view(-1, *shape)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Returns the rate at a step: a linear warm-up, then a cosine down to a twentieth."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)
    return recipe.learning_rate * (0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Returns the matrices, which decay, and the norms, which do not."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    norms = [weight for weight in model.parameters() if weight.dim() == 1]
    return [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]


def train(
    model: LlamaForCausalLM,
    documents: Sequence[Sequence[int]],
    validation: Sequence[Sequence[int]],
    recipe: Recipe,
    seed: int,
) -> float:
    """Trains the model in place and returns the mean loss of the last `REPORT_EVERY` steps, dropout on."""
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe), betas=(0.9, 0.95))
    stream = batches(documents, recipe, torch.Generator().manual_seed(seed))
    losses = []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        model.train()
        batch = next(stream)
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % REPORT_EVERY == 0:
            recent = fmean(losses[-REPORT_EVERY:])
            held_out = nats(model, validation) / targets(validation)
            print(f"step {step + 1}: train {recent:.4f}, validation {held_out:.4f}", flush=True)
    return fmean(losses[-REPORT_EVERY:])


def nats(model: LlamaForCausalLM, documents: Sequence[Sequence[int]]) -> float:
    """Returns the summed cross-entropy of all tokens after `<s>`, each document alone.

    A document longer than the model's positions is cut into windows that share one token, so that
    every token is predicted once.
    """
    model.eval()
    total = 0.0
    with torch.inference_mode():
        for document in documents:
            for first in range(0, len(document) - 1, POSITIONS - 1):
                window = torch.tensor([document[first : first + POSITIONS]])
                logits = model(input_ids=window[:, :-1], use_cache=False).logits[0]
                total += functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
    return total


def targets(documents: Sequence[Sequence[int]]) -> int:
    """Returns how many tokens are predicted: all but each document's `<s>`."""
    return sum(len(document) - 1 for document in documents)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path) -> LlamaForCausalLM:
    """Writes model and tokenizer, the weights in float16, and returns the model as it is read back.

    The configuration says float32, in which the weights are to be used: half precision is for the
    size of the file alone.
    """
    model.half().save_pretrained(output)
    model.config.dtype = torch.float32
    model.config.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return LlamaForCausalLM.from_pretrained(output, dtype=torch.float32)


def texts_of(part: standard_library.Part) -> list[str]:
    """Returns the prose of a part."""
    return [row["text"] for row in standard_library.docs(part)]


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Trains the small language model `nano`.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the model and its tokenizer")
    parser.add_argument("--losses", type=Path, help="file for the final losses, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Trains, saves and measures."""
    options = arguments()
    recipe = Recipe()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)

    texts = standard_library.pretraining_texts()
    tokenizer = train_tokenizer(texts)
    documents = encode(tokenizer, texts)
    validation, test = (encode(tokenizer, texts_of(part)) for part in ("validation", "test"))
    model = create_model(recipe, tokenizer)
    print(f"{model.num_parameters()} parameters, {targets(documents)} tokens, {recipe}", flush=True)

    add_dropout(model, recipe.dropout)
    train_loss = train(model, documents, validation, recipe, options.seed)
    saved = save(model, tokenizer, options.output)

    test_nats = nats(saved, test)
    size = sum(len(text.encode()) for text in texts_of("test"))
    losses = {
        "train_loss": train_loss,
        "validation_loss": nats(saved, validation) / targets(validation),
        "test_loss": test_nats / targets(test),
        "bits_per_byte": test_nats / math.log(2) / size,
    }
    report = json.dumps({name: round(value, 4) for name, value in losses.items()}, indent=2)
    print(report)
    if options.losses:
        options.losses.write_text(report + "\n")


if __name__ == "__main__":
    main()
