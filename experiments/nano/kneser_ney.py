"""Measures an interpolated Kneser-Ney 5-gram on the text that `nano` is measured on.

The baseline that `nano` has to beat: the same tokenizer, the same pretraining text, the same held-out
documents, in bits per byte.

    python experiments/nano/kneser_ney.py
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

Gram = tuple[int, ...]
Discounts = tuple[float, float, float]

HERE: Final = Path(__file__).parent
NANO: Final = HERE.parents[1] / "plugins" / "myosotis_plugins" / "models" / "nano"

ORDER: Final = 5
# Where too few n-grams occur once, twice, thrice or four times for an estimate.
FALLBACK: Final[Discounts] = (0.5, 0.5, 0.5)


class Followers(NamedTuple):
    """What follows a context: discounted counts by token, the sum before discounting, what it freed."""

    kept: Mapping[int, float]
    total: int
    freed: float


class KneserNey:
    """Interpolated modified Kneser-Ney over token ids.

    p(w | c) = (max(n(cw) - D(n(cw)), 0) + sum over v of D(n(cv)) * p(w | c')) / n(c), where n counts
    occurrences at the highest order and distinct left neighbours below it, c' is c without its first
    token, and under the unigrams p is uniform over the vocabulary. Each order has three discounts D,
    for counts of one, two and more, estimated from its counts of counts unless given.
    Chen and Goodman, An Empirical Study of Smoothing Techniques for Language Modeling, 1999.
    """

    def __init__(
        self,
        documents: Iterable[Sequence[int]],
        *,
        vocabulary_size: int,
        start: int,
        order: int = ORDER,
        discounts: Sequence[Discounts] | None = None,
    ) -> None:
        """Counts the documents' n-grams; `discounts`, where given, holds three an order from unigrams up."""
        self.vocabulary_size = vocabulary_size
        self.start = start
        self.order = order
        counts = Counter(gram for document in documents for gram in self.grams(document))
        self.tables: list[dict[Gram, Followers]] = []
        for size in range(order, 0, -1):
            chosen = discounts[size - 1] if discounts else estimate_discounts(counts)
            self.tables.insert(0, followers_by_context(counts, chosen))
            # Each distinct gram is one left neighbour of its own ending.
            counts = Counter(gram[1:] for gram in counts)

    def grams(self, document: Sequence[int]) -> Iterator[Gram]:
        """Yields one gram of `order` tokens for each token of the document, `start` standing before it."""
        padded = (self.start,) * (self.order - 1) + tuple(document)
        return (padded[end - self.order : end] for end in range(self.order, len(padded) + 1))

    def probability(self, context: Gram, token: int) -> float:
        """Returns p(token | context) for a context of `order - 1` tokens."""
        probability = 1 / self.vocabulary_size
        for length, table in enumerate(self.tables):
            followers = table.get(context[len(context) - length :])
            if followers is None:
                break
            probability = (followers.kept.get(token, 0.0) + followers.freed * probability) / followers.total
        return probability

    def bits(self, document: Sequence[int]) -> float:
        """Returns -log2 of the document's probability, given its start."""
        return -sum(math.log2(self.probability(gram[:-1], gram[-1])) for gram in self.grams(document))


def estimate_discounts(counts: Mapping[Gram, int]) -> Discounts:
    """Returns Chen and Goodman's discounts: D_k = k - (k + 1) Y n_(k+1) / n_k, Y = n_1 / (n_1 + 2 n_2)."""
    sizes = Counter(counts.values())
    once, twice, thrice, often = (sizes[count] for count in (1, 2, 3, 4))
    if not (once and twice and thrice and often):
        return FALLBACK
    share = once / (once + 2 * twice)
    return 1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * often / thrice


def followers_by_context(counts: Mapping[Gram, int], discounts: Discounts) -> dict[Gram, Followers]:
    """Groups n-grams by all tokens but the last, and discounts their counts."""
    grouped: defaultdict[Gram, dict[int, int]] = defaultdict(dict)
    for gram, count in counts.items():
        grouped[gram[:-1]][gram[-1]] = count
    return {context: _discounted(tokens, discounts) for context, tokens in grouped.items()}


def _discounted(tokens: Mapping[int, int], discounts: Discounts) -> Followers:
    kept = {token: max(count - discounts[min(count, 3) - 1], 0.0) for token, count in tokens.items()}
    total = sum(tokens.values())
    return Followers(kept, total, total - sum(kept.values()))


def main() -> None:
    """Prints the 5-gram's held-out bits per byte and those of `nano`, as its recipe measured them."""
    # Heavy, and not needed by those who want the model alone.
    from transformers import PreTrainedTokenizerFast

    from myosotis_plugins.datasets import standard_library

    tokenizer = PreTrainedTokenizerFast.from_pretrained(NANO)

    def encode(text: str) -> list[int]:
        return [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]

    model = KneserNey(
        map(encode, standard_library.pretraining_texts()),
        vocabulary_size=len(tokenizer),
        start=tokenizer.bos_token_id,
    )
    texts = [row["text"] for row in standard_library.docs("test")]
    size = sum(len(text.encode()) for text in texts)
    bits = sum(model.bits(encode(text)) for text in texts)
    reference = json.loads((HERE / "reference.json").read_text())
    print(f"Kneser-Ney {ORDER}-gram: {bits / size:.4f} bits per byte")
    print(f"nano: {reference['bits_per_byte']:.4f} bits per byte")


if __name__ == "__main__":
    main()
