"""Dark experience replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from myosotis import hookimpl
from myosotis.errors import ConfigurationError
from myosotis.interfaces import Batch, Context, Loss, Method, TrainingRow
from myosotis_plugins.methods.memory import Reservoir, draw, plain, restored
from myosotis_plugins.methods.predictions import own_logits, row_logits, wide

MYOSOTIS_API = 1

Kept: TypeAlias = tuple[TrainingRow, Tensor]
"""A row, and the logits that were given for it when it came by, without padding."""


class DERPP(Method):
    """Replay rows from a buffer against the logits that the model gave when it was trained on them.

    penalty = alpha · mean (h(x') − z')² + beta · loss(x'', y''), x' and x'' drawn anew at each batch from a
    reservoir of all rows that have come by in training, those of this stage and of every epoch too; z' are
    the logits of x' at that time, h(x') those of now. With beta 0 it is DER. The mean is over logits, as in
    the authors' code; the paper has the squared norm.

    Cost: a forward and a backward pass of `batch_size` rows for each of the two terms that is not 0. The
    buffer lies in main memory and in every checkpoint, and a language model's is large, since all logits are
    kept: a row takes tokens · vocabulary · 4 bytes (2 in bfloat16), so that 200 rows of 128 tokens of a
    vocabulary of 32,000 take 3.3 GB.

    Args:
        alpha: the weight of the distance between logits.
        beta: the weight of the loss by the rows' own labels. With alpha 0, too, nothing is done.
        buffer: how many rows are kept.
        batch_size: how many are drawn for each term.
    """

    version = 2
    paper = (
        "Buzzega et al. 2020, Dark Experience for General Continual Learning: a Strong, Simple Baseline, "
        "arXiv:2004.07211"
    )
    stores = "rows with the logits that were given for them"
    anchored = False
    keeps_batches = True

    def __init__(self, alpha: float = 0.1, beta: float = 0.5, buffer: int = 200, batch_size: int = 8) -> None:
        for name, weight in (("alpha", alpha), ("beta", beta)):
            if weight < 0:
                raise ConfigurationError(f"{name} must be at least 0, but got {weight}")
        for name, rows in (("buffer", buffer), ("batch_size", batch_size)):
            if rows < 1:
                raise ConfigurationError(f"{name} must be at least 1 row, but got {rows}")
        self.alpha = alpha
        self.beta = beta
        self.batch_size = batch_size
        self.buffer = Reservoir[Kept](buffer)

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        """Give the terms of rows drawn from the buffer; then take in those of this batch."""
        if self.alpha == self.beta == 0:
            return None
        terms = []
        if self.alpha and self.buffer.items:
            terms.append(self.alpha * _distance(self._drawn(context), module, context))
        if self.beta and self.buffer.items:
            rows = [row for row, _ in self._drawn(context)]
            terms.append(self.beta * context.training_loss(module, context.make_batch(rows)))
        for number, row in enumerate(context.rows):
            place = self.buffer.place(context.generator)
            if place is not None:
                # A copy of its own: a part of a tensor keeps all of it, in memory and in checkpoints.
                logits = row_logits(outputs, batch, number).detach().clone().cpu()
                self.buffer.put(place, (row, logits))
        return torch.stack(terms).sum() if terms else None

    def _drawn(self, context: Context) -> list[Kept]:
        return draw(self.buffer.items, self.batch_size, context.generator)

    def state_dict(self) -> dict[str, Any]:
        """Give the buffer, and how many rows have come by."""
        items = [(task, plain(example), logits) for (task, example), logits in self.buffer.items]
        return {"items": items, "offered": self.buffer.offered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        items = [((task, restored(example)), logits) for task, example, logits in state["items"]]
        self.buffer = Reservoir(self.buffer.size, items, state["offered"])


def _distance(kept: Sequence[Kept], module: nn.Module, context: Context) -> Loss:
    """Give the mean squared distance of the logits of now from those that were kept."""
    # A row that came by in several epochs may be kept more than once.
    earlier: dict[int, list[Tensor]] = {}
    for (_, example), logits in kept:
        earlier.setdefault(id(example), []).append(logits)
    distances = []
    for group in context.make_batch([row for row, _ in kept]).groups:
        now = own_logits(group.objective.forward(module, group.batch), group.batch)
        then = torch.cat([earlier[id(example)].pop(0) for _, example in group.rows]).to(now.device)
        distances.append(functional.mse_loss(wide(now), wide(then)) * (len(group.rows) / len(kept)))
    return torch.stack(distances).sum()


@hookimpl
def myosotis_methods() -> Mapping[str, type[Method]]:
    """Give the method."""
    return {"derpp": DERPP}
