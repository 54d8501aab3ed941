"""How far predictions are from those of the untouched base: what was forgotten, or learned, on any text.

They are over what an example's loss is over: tokens, or rows where a label is chosen, and there over the labels.
Cost: two further forward passes over the evaluated rows, of the base and of the trial's model; and where a trial
trains the base's own weights, a second copy of the base in memory. No logits are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from myosotis import hookimpl
from myosotis.interfaces import Columns, Metric

MYOSOTIS_API = 1


class AgainstBase(Metric):
    """A mean over predictions."""

    compares = True
    column: ClassVar[str]

    def value(self, columns: Columns) -> float:
        """Divide the sum by the predictions."""
        return float(columns[self.column].sum() / columns["predictions"].sum())

    def count(self, columns: Columns) -> int:
        """Count the predictions."""
        return int(columns["predictions"].sum())


class Agreement(AgainstBase):
    """The share of predictions at which the likeliest class is the base's: mean of [argmax q = argmax p].

    With p the base's probabilities and q the tuned model's; the base itself has 1.
    """

    paper = "Kalajdzievski 2024, Scaling Laws for Forgetting When Fine-Tuning LLMs, arXiv:2401.05605"
    higher_is_better = True
    column = "agreeing"


class CrossEntropyAgainstBase(AgainstBase):
    """Mean of −Σ p log q over predictions, in nats, with p the base's probabilities and q the tuned model's.

    The base itself has its entropy, −Σ p log p.
    """

    paper = Agreement.paper
    higher_is_better = False
    column = "cross_entropy_against_base"


class KLAgainstBase(AgainstBase):
    """Mean of KL(p ‖ q) = Σ p (log p − log q) over predictions, in nats: the cross-entropy less the base's entropy.

    With p the base's probabilities and q the tuned model's; the base itself has 0.
    """

    paper = (
        "Shenfeld et al. 2025, RL's Razor: Why Online Reinforcement Learning Forgets Less, arXiv:2509.04259"
    )
    higher_is_better = False
    column = "kl_against_base"


@hookimpl
def myosotis_metrics() -> Mapping[str, type[Metric]]:
    """Give the metrics."""
    return {
        "agreement": Agreement,
        "cross_entropy_against_base": CrossEntropyAgainstBase,
        "kl_against_base": KLAgainstBase,
    }
