"""Whether methods can be in one trial."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from myosotis.adaptation import adapt, frozen_names
from myosotis.interfaces import Method, ModelFactory, Task
from myosotis.plugins import load_registry
from myosotis.resolve import TrialConfig
from myosotis.testing.plugin import constructor_parameters
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


class CompositionTestSuite(ABC):
    """Puts a method beside each other one that is installed: a trial runs, or is refused with the reason.

    Give `make`. It takes a second or so for each method, which is why it is not a part of `MethodTestSuite`.

    Attributes:
        settings: parameters of other methods, by their names; one that needs some and has none here is left out.
    """

    settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @abstractmethod
    def make(self) -> Method:
        """Make the method anew, always with the same parameters."""

    def model(self) -> ModelFactory:
        """Give the base."""
        return TinyModel()

    def tasks(self) -> Mapping[str, Task]:
        """Give two tasks or more."""
        return tiny_tasks()

    def test_composes_or_is_refused(self, tmp_path: Path) -> None:
        """Before and behind every other method, a trial runs, or a ConfigurationError says why not."""
        for name, make in self._others().items():
            for first in (True, False):
                self._compose(tmp_path / f"{name} {first}", name, make, first)

    def _others(self) -> dict[str, Callable[[], Any]]:
        own = type(self.make())
        found: dict[str, Callable[[], Any]] = {}
        for name, origin in load_registry().plugins["method"].items():
            settings = self.settings.get(name, {})
            needed = {each.name for each in constructor_parameters(origin.cls) if each.default is each.empty}
            if origin.cls is not own and needed <= settings.keys():
                found[name] = partial(origin.cls, **settings)
        return found

    def _compose(self, folder: Path, name: str, make: Callable[[], Any], first: bool) -> None:
        def both() -> dict[str, Method]:
            methods = {"own": self.make(), name: make()}
            return methods if first else dict(reversed(methods.items()))

        try:
            refusal(both, folder, self.model(), self.tasks(), trainer={"max_steps": 2})
        except AssertionError as error:
            raise AssertionError(f"{'before' if first else 'behind'} the method {name}: {error}") from error
