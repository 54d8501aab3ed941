"""Answering the requests of EleutherAI's lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, NoReturn

import torch
from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Batch, Columns, Example, Loss, Model, Objective, Rows
from myosotis_plugins.objectives import causal
from myosotis_plugins.objectives.generation import continued
from myosotis_plugins.objectives.heads import CAUSAL, Head, Shape, only

MYOSOTIS_API = 1


@dataclass(frozen=True)
class LMEval(Objective):
    """Answer requests of the lm-evaluation-harness: how likely an answer is, or what the model writes.

    Rows are `{"task": …, "doc": …, "requests": …}`, a document of a task of the harness's with what is asked about
    it; the harness makes the scores of the answers.
    """

    metrics = ("lm_eval_acc",)
    in_order = True

    def head(self, shape: Shape) -> Head:
        """Ask for a causal model.

        Raises:
            ModelError: the model is of another shape.
        """
        return only(self, shape, "decoder", CAUSAL, "leave the probe out")

    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        """Make tokens of each document's requests, as the harness does."""
        from myosotis_plugins.objectives.lm_eval_tokens import Tokens

        tokens = Tokens(model)
        read = [rows[index] for index in range(len(rows))]
        return [{**row, **tokens.asked(row["requests"])} for row in read]

    def tokens(self, example: Example) -> int:
        """Count the tokens that the model reads."""
        return sum(len(part.ids) for _, part in (*example["scored"], *example["written"]))

    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        """Refuse: nothing is trained on."""
        _never_trains()

    def forward(self, module: nn.Module, batch: Batch) -> Any:
        """Refuse: nothing is trained on."""
        _never_trains()

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Refuse: nothing is trained on."""
        _never_trains()

    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        """Answer each document's requests: the `answers`, how they were written, and the harness's `scores`."""
        answers = _answers(module, examples, model)
        scores = [_scores(example, each) for example, each in zip(examples, answers, strict=True)]
        settings = [
            "; ".join(dict.fromkeys(part.settings for _, part in each["written"])) for each in examples
        ]
        return {
            "answers": causal.objects(answers),
            "scores": causal.objects(scores),
            "settings": causal.objects(settings),
        }


def _never_trains() -> NoReturn:
    raise ConfigurationError("tasks of the lm-evaluation-harness are scored only; name them under probe")


def _answers(
    module: nn.Module, examples: Sequence[Example], model: Model
) -> list[dict[int, tuple[float, bool] | str]]:
    """Answer each example's requests: a log-likelihood and whether each token was the likeliest, or a text."""
    answers: list[dict[int, Any]] = [{} for _ in examples]
    for places, parts in _passes(examples, "scored"):
        for place, (likelihood, greedy) in zip(places, _likelihoods(module, parts), strict=True):
            if place is not None:
                example, request = place
                before = answers[example].get(request, (0.0, True))
                answers[example][request] = (before[0] + likelihood, before[1] and greedy)
    for places, parts in _passes(examples, "written"):
        for place, text in zip(places, _texts(Model(module, model.tokenizer), parts), strict=True):
            if place is not None:
                answers[place[0]][place[1]] = text
    return answers


def _passes(
    examples: Sequence[Example], kind: str
) -> Iterator[tuple[list[tuple[int, int] | None], list[Any]]]:
    """Give the first part of every example, then the second, and so on, with whose example and request it is.

    Every forward pass has a row an example, so that trials can be evaluated together; where an example has no more,
    its row is another's, and no one's.
    """
    for row in zip_longest(*(example[kind] for example in examples)):
        some = next(each for each in row if each is not None)
        places = [None if each is None else (number, each[0]) for number, each in enumerate(row)]
        yield places, [(each or some)[1] for each in row]


def _likelihoods(module: nn.Module, parts: Sequence[Any]) -> Iterator[tuple[float, bool]]:
    inputs = [part.ids[:-1] for part in parts]
    batch = {
        "input_ids": causal.padded(inputs, 0),
        "attention_mask": causal.padded([[1] * len(each) for each in inputs], 0),
    }
    scores = causal.logits(module, causal.on_device(batch, module))
    for row, part, read in zip(scores, parts, inputs, strict=True):
        likelihoods = row[len(read) - part.count : len(read)].float().log_softmax(dim=-1)
        wanted = torch.tensor(part.ids[-part.count :], device=row.device)
        chosen = likelihoods.gather(1, wanted[:, None])
        yield float(chosen.sum()), bool((likelihoods.argmax(dim=1) == wanted).all())


def _texts(model: Model, parts: Sequence[Any]) -> list[str]:
    from lm_eval.models.utils import postprocess_generated_text

    texts = {}
    for length, decoding in dict.fromkeys((part.max_new_tokens, part.decoding) for part in parts):
        for number, text in enumerate(continued(model, [part.ids for part in parts], length, decoding)):
            if (parts[number].max_new_tokens, parts[number].decoding) == (length, decoding):
                texts[number] = postprocess_generated_text(text, list(parts[number].until), None)
    return [texts[number] for number in range(len(parts))]


def _scores(example: Example, answers: Mapping[int, Any]) -> Mapping[str, Any]:
    """Let the harness make a document's scores of its answers, behind the task's first filter."""
    task, requests = example["task"], []
    for number, request in enumerate(example["requests"]):
        answer = answers[number][0] if request.request_type == "loglikelihood_rolling" else answers[number]
        requests.append(replace(request, resps=[answer] * (request.repeats or 1), filtered_resps={}))
    first = task._filters[0]
    first.apply(requests)
    scores: Mapping[str, Any] = task.process_results(
        example["doc"], [each.filtered_resps[first.name] for each in requests]
    )
    return scores


@hookimpl
def myosotis_objectives() -> Mapping[str, type[Objective]]:
    """Give the objective."""
    return {"lm_eval": LMEval}
