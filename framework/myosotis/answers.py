"""What a base and its fine-tunes answer, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from myosotis.errors import ConfigurationError, located
from myosotis.evaluation import Runtime, choose_runtime, evaluating
from myosotis.export import base_weights, model_and_objectives, resolved_config, saved_model
from myosotis.interfaces import Model, Objective
from myosotis.ledger import content_hash, read_entries
from myosotis.plugins import Registry


@dataclass(frozen=True)
class Answers:
    """What one model answers.

    Attributes:
        model: the base, or the trial with what its study varied.
        texts: one a prompt.
    """

    model: str
    texts: tuple[str, ...]


def answers(
    registry: Registry, trials: Sequence[Path], prompts: Sequence[str], max_new_tokens: int
) -> list[Answers]:
    """Ask each trial's base, once for those that share it, and then the trials.

    Prompts are put as the rows of the first task that a trial was trained on.

    Args:
        registry: the plugins.
        trials: run folders of finished trials.
        prompts: a user's.
        max_new_tokens: after which an answer is cut.

    Raises:
        ConfigurationError: a trial kept no model, or its objective gives no answers.
    """
    found: dict[str, Answers] = {}
    for trial in trials:
        config, saved = resolved_config(trial), saved_model(trial)
        factory, objectives = model_and_objectives(registry, config)
        with located(f"trial {trial.name}"):
            if not config["dataset"]:
                raise ConfigurationError("it has no task, as whose rows a prompt could be put")
            runtime = choose_runtime(config["trainer"]["accelerator"], config["trainer"]["precision"])
            asked = _Asked(objectives[0], prompts, max_new_tokens, runtime)
            base = content_hash([config["model"], runtime.precision, repr(objectives[0])])
            if base not in found:
                found[base] = Answers("base", asked.of(factory.load(objectives)))
            restored = factory.restore(saved, objectives, base_weights(registry, config))
            found[str(trial)] = Answers(_label(trial), asked.of(restored))
    return list(found.values())


@dataclass(frozen=True)
class _Asked:
    objective: Objective
    prompts: Sequence[str]
    max_new_tokens: int
    runtime: Runtime

    def of(self, model: Model) -> tuple[str, ...]:
        model.module.to(self.runtime.device)
        with evaluating(model.module), self.runtime.forward():
            return tuple(self.objective.answer(model, self.prompts, self.max_new_tokens))


def _label(trial: Path) -> str:
    entries = {Path(entry.folder).name: entry for entry in read_entries(trial.resolve().parent)}
    entry = entries.get(trial.resolve().name)
    return f"{entry.configuration} seed={entry.seed}\n{entry.id}" if entry else trial.name
