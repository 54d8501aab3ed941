"""How the lm-evaluation-harness makes tokens of its requests, by the harness itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from myosotis.errors import DataError
from myosotis.interfaces import Model
from myosotis_plugins.objectives.generation import Decoding

CONTEXT = 2048
NEW_TOKENS = 256
"""What the harness takes where a model names no longest context, and a task no longest answer."""


@dataclass(frozen=True)
class Scored:
    """Tokens, the likelihood of whose last ones is asked for.

    Attributes:
        ids: what comes before, and them; no more than the model can see, and one.
        count: how many they are.
    """

    ids: list[int]
    count: int


@dataclass(frozen=True)
class Written:
    """A prompt that is written on from.

    Attributes:
        ids: its tokens.
        until: texts of which the first that is written ends the answer.
        max_new_tokens: after which it is cut.
        decoding: how tokens are chosen.
        settings: all this in words, but for the text that ends every text.
    """

    ids: list[int]
    until: tuple[str, ...]
    max_new_tokens: int
    decoding: Decoding
    settings: str


OF_DRAWING = frozenset({"do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p"})
"""What says nothing where no tokens are drawn."""
TAKEN = frozenset({"num_beams", "repetition_penalty", "no_repeat_ngram_size"})


def decoding_of(task: str, settings: Mapping[str, Any]) -> Decoding:
    """Read how a task wants its tokens chosen.

    Raises:
        DataError: in a way that would give other texts every time, or that is not known here.
    """
    known = normalize_gen_kwargs(dict(settings), NEW_TOKENS)
    if known["do_sample"]:
        raise DataError(
            f"{task} must be answered with the likeliest token each time, but asks for do_sample; take it and the "
            "temperature out of its generation_kwargs"
        )
    asked = {
        name: value for name, value in known.items() if name not in {*OF_DRAWING, "until", "max_gen_toks"}
    }
    if not set(asked) <= TAKEN:
        raise DataError(
            f"{task} must have generation_kwargs of {', '.join(sorted(TAKEN))}, until and max_gen_toks, but has "
            f"{', '.join(sorted(set(asked) - TAKEN))} too; take these out"
        )
    return Decoding(**asked)


class Tokens(TemplateLM):  # type: ignore[misc]
    """Is to the harness a model that gives back, in the place of likelihoods, the tokens that it was asked about.

    Args:
        model: a decoder, with its tokenizer.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.tokenizer: Any = model.tokenizer
        config: Any = getattr(model.module, "config", None)
        self.context = int(getattr(config, "max_position_embeddings", None) or CONTEXT)

    def asked(self, requests: Sequence[Any]) -> dict[str, list[tuple[int, Any]]]:
        """Give what requests ask of the model, each with its request's number: `scored` and `written`."""
        found: dict[str, list[tuple[int, Any]]] = {"scored": [], "written": []}
        for number, each in enumerate(requests):
            kind = "written" if each.request_type == "generate_until" else "scored"
            [parts] = getattr(self, each.request_type)([each])
            found[kind] += [(number, part) for part in parts]
        return found

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text where nothing else does."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Tokenize, with the tokenizer's first token unless it stands there."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return ids

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[list[Scored]]:
        """Give tokens behind others."""
        found: list[list[Scored]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[list[Scored]]:
        return [[self._scored(before, behind)] for _, before, behind in requests]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[list[Scored]]:
        """Give whole texts, as windows that do not overlap."""
        windows = [
            get_rolling_token_windows(self.tok_encode(each.args[0]), self.prefix_token_id, self.context, 1)
            for each in requests
        ]
        return [[self._scored(*make_disjoint_window(pair)) for pair in each] for each in windows]

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[list[Written]]:
        """Give prompts."""
        return [[self._written(*each.args)] for each in requests]

    def _scored(self, before: Sequence[int], behind: Sequence[int]) -> Scored:
        if not 1 <= len(behind) <= self.context:
            raise DataError(
                f"an answer must have 1 to {self.context} tokens for its likelihood, but has {len(behind)}"
            )
        return Scored([*before, *behind][-(self.context + 1) :], len(behind))

    def _written(self, prompt: str, settings: Mapping[str, Any]) -> Written:
        known = normalize_gen_kwargs(dict(settings), NEW_TOKENS)
        asked, longest = list(known["until"]), int(known["max_gen_toks"])
        until = handle_stop_sequences(known["until"], self.tokenizer.decode(self.eot_token_id))
        decoding = decoding_of("a task", settings)
        said = decoding.settings(longest) + (f", until {' or '.join(map(repr, asked))}" if asked else "")
        return Written(self.tok_encode(prompt), tuple(until), longest, decoding, said)
