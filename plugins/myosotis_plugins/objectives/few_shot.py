"""Examples in a prompt, before what is asked.

Brown et al. 2020, Language Models are Few-Shot Learners, arXiv:2005.14165.
"""

from __future__ import annotations

from collections.abc import Sequence

from myosotis.errors import DataError
from myosotis.interfaces import Example, Model
from myosotis_plugins.objectives import causal

BLANK_LINE = "\n\n"
"""What stands behind each example."""


def behind_shots(
    examples: Sequence[Example], shots: Sequence[Sequence[int]], model: Model
) -> Sequence[Example]:
    """Put shots before every prompt, a blank line behind each; a text begins with a special token once.

    Args:
        examples: each with its `prompt`.
        shots: the tokens of each, its answer without an end.
        model: whose tokenizer they are of.
    """
    blank = causal.token_ids(model, [BLANK_LINE], special=False)[0]
    first, *later = shots
    before = [*first, *blank, *(token for each in later for token in [*_within(each, model), *blank])]
    return [{**example, "prompt": [*before, *_within(example["prompt"], model)]} for example in examples]


def _within(ids: Sequence[int], model: Model) -> Sequence[int]:
    begin = model.tokenizer.bos_token_id
    return ids[1:] if begin is not None and ids[:1] == [begin] else ids


def without_end(ids: Sequence[int], model: Model) -> Sequence[int]:
    """Take a response's end off."""
    end = model.tokenizer.eos_token_id
    return ids[:-1] if end is not None and ids[-1:] == [end] else ids


def check_fit(lengths: Sequence[int], model: Model) -> None:
    """See that rows fit into the model's context.

    Args:
        lengths: tokens of each, its shots and its longest answer included.
        model: what reads them.

    Raises:
        DataError: one does not.
    """
    context = getattr(getattr(model.module, "config", None), "max_position_embeddings", None)
    for number, length in enumerate(lengths, 1):
        if context is not None and length > context:
            raise DataError(
                f"row {number}: a row must fit into the model's {context} tokens with the examples before it, but "
                f"they have {length}; lower evaluation.shots, or the length of rows"
            )
