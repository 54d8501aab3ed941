"""Pair the untrained model's losses on every question with and without passages; intervals over questions.

    python experiments/retrieval_or_fine_tuning/by_question.py

Reads the same files as the study. Prints, for each corpus, how much the cross-entropy of the answers falls, in nats
per token, with the 95 % percentile-bootstrap interval over questions.
"""

from __future__ import annotations

import numpy as np

from myosotis.config import composer
from myosotis.evaluation import choose_runtime, predict
from myosotis.interfaces import Columns, Rows
from myosotis.plugins import load_registry
from myosotis.points import expand
from myosotis.resolve import Resolver, TrialConfig
from myosotis.trial import start_context
from myosotis.workspace import encode

STUDY = ["+experiments=retrieval_or_fine_tuning", "seed=0"]
ARMS = ("retrieval", "retrieval from other articles")
RESAMPLES = 10_000


def configured(arm: str) -> TrialConfig:
    """Give the trial of an arm."""
    with composer() as compose:
        arms = compose.master("config", STUDY).arms
        [point] = expand(compose, "config", STUDY, {arm: arms[arm]}, {})
        return Resolver(load_registry()).resolve(compose.compose("config", point.overrides))


def losses(config: TrialConfig, looked_up: bool) -> Columns:
    """Give each test question's summed loss and its tokens, with passages or without."""
    model = config.model.load(config.objectives)
    task = config.tasks["xquad"]
    rows: Rows | None = task.dataset.split("test")
    assert rows is not None
    if looked_up:
        context = start_context(config, model, frozenset(), outline=False)
        rows = config.methods["retrieval"].evaluation_data(task, rows, context)
    columns = predict(
        task,
        encode(task, rows, model, "test"),
        model,
        config.evaluation.batch_size,
        choose_runtime("cpu", "32-true"),
        base=None,
    )
    return {name: columns[name] for name in ("loss", "tokens")}


def main() -> None:
    generator = np.random.default_rng(0)
    for arm in ARMS:
        config = configured(arm)
        without, found = losses(config, False), losses(config, True)
        chosen = generator.integers(len(found["loss"]), size=(RESAMPLES, len(found["loss"])))
        falls = (without["loss"] - found["loss"])[chosen].sum(axis=1) / found["tokens"][chosen].sum(axis=1)
        low, high = np.quantile(falls, [0.025, 0.975])
        fall = (without["loss"] - found["loss"]).sum() / found["tokens"].sum()
        print(f"{arm}: {fall:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
