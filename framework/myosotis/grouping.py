"""Which trials may train together, and in which cohorts they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from myosotis.ledger import content_hash
from myosotis.plugins import source_hash
from myosotis.resolve import TrialConfig

OWN = frozenset(
    {
        *("max_steps", "max_epochs", "max_tokens", "gradient_clip_val"),
        *("log_every_n_steps", "checkpoint_every_n_steps", "save", "prefix_gigabytes", "early_stopping"),
    }
)
"""What of the trainer's settings each trial of a cohort has for itself."""


def shape(config: TrialConfig) -> str:
    """Hash what trials must have in common to train together.

    They may differ in seed, learning rate, weight decay, schedule, mixture, in how long they train, and in
    the `cohort_fields` of their methods.
    """
    methods = {}
    for name, method in config.methods.items():
        fields = {
            key: value
            for key, value in config.resolved["method"][name].items()
            if key not in method.cohort_fields
        }
        methods[name] = [fields, method.version, source_hash(type(method))]
    trainer = {key: value for key, value in asdict(config.trainer).items() if key not in OWN}
    return content_hash(
        [
            dict(config.identities),
            {name: task.role for name, task in config.tasks.items()},
            methods,
            len(config.stages),
            trainer,
            config.optimizer.name,
            asdict(config.evaluation),
        ]
    )


def may_join(config: TrialConfig) -> bool:
    """Tell whether a trial's methods and trainer let it train together with others at all."""
    trainer = config.trainer
    # A GradScaler leaves out a step of all trials where one of them overflows.
    alone = trainer.processes > 1 or trainer.precision == "16-mixed"
    return config.trains and not alone and all(method.cohort_fields for method in config.methods.values())


@dataclass(frozen=True)
class Cohort:
    """Trials that train together, by their ids, and the threads that they compute on."""

    trials: tuple[str, ...]
    threads: int


def divided(sets: Sequence[Sequence[str]], size: int, workers: int) -> list[tuple[str, ...]]:
    """Divide sets of trials that may train together into cohorts, enough of them for every worker.

    Trials go to cohorts in turn: neighbours in a sweep cost alike, so that cohorts do.

    Args:
        sets: ids of trials, each set by itself.
        size: the most trials a cohort.
        workers: how many cohorts run at once.
    """
    cohorts = []
    for trials in sets:
        count = max(-(-len(trials) // size), min(workers // len(sets), len(trials)))
        cohorts += [tuple(trials[start::count]) for start in range(count)]
    return cohorts


def sets(configs: Sequence[TrialConfig], stackable: Mapping[str, bool]) -> list[list[str]]:
    """Gather the trials that may train together; who may not is a set of its own."""
    found: dict[str, list[str]] = {}
    for config in configs:
        joins = stackable[config.id] and may_join(config)
        found.setdefault(shape(config) if joins else config.id, []).append(config.id)
    return list(found.values())
