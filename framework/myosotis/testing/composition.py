"""Whether methods can be in one trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from myosotis.adaptation import adapt, frozen_names
from myosotis.interfaces import Method, ModelFactory, Task
from myosotis.resolve import TrialConfig
from myosotis.testing.rehearsal import Rehearsal, refused
from myosotis.testing.tiny import TinyModel, tiny_tasks
from myosotis.trial import start_context


def refusal(
    make: Callable[[], Mapping[str, Method]],
    folder: Path,
    model: ModelFactory | None = None,
    tasks: Mapping[str, Task] | None = None,
    **settings: Any,
) -> str | None:
    """Put methods into one trial of two stages; say why they refuse each other, None where it ran.

    As in a study, they adapt the model's outline before anything is loaded::

        assert refusal(lambda: {"lora": LoRA(), "noise": Noise()}, tmp_path / "trial") is None

    Args:
        make: makes the methods anew, by name, in the order of the configuration.
        folder: the trial's folder; the base's rows are kept beside it.
        model: the base; the suites' two linear layers where not given.
        tasks: what is trained one after another; the suites' points where not given.
        settings: of the `Rehearsal`, such as `trainer={"max_steps": 2}`.

    Raises:
        AssertionError: the trial ended by something else than a ConfigurationError, that gives no reason, or a
            score is not finite.
    """
    (name, method), *others = make().items()
    rehearsal = Rehearsal(
        folder,
        model or TinyModel(),
        tasks or tiny_tasks(),
        method,
        name=name,
        others=dict(others),
        **settings,
    )
    outlined = replace(rehearsal.config(), methods=make())
    return refused(lambda: _adapt_outline(outlined)) or rehearsal.refusal()


def _adapt_outline(config: TrialConfig) -> None:
    model = config.model.outline(config.objectives)
    context = start_context(config, model, frozen_names(model, config.methods), outline=True)
    adapt(model, config.methods, context, config.trains, config.model.blocks)
