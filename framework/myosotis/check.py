"""Finding what would stop a trial before any trains: data, weights, shapes, nothing to train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from myosotis.adaptation import adapt, frozen_names
from myosotis.errors import located
from myosotis.evaluation import choose_runtime
from myosotis.interfaces import Model
from myosotis.ledger import content_hash
from myosotis.resolve import TrialConfig
from myosotis.stacking import Branch, obstacle
from myosotis.tracking import check_logger
from myosotis.trial import start_context
from myosotis.workspace import Workspace, encoded, place_of


@dataclass
class TrialCheck:
    """Checks trials; what several have in common is looked at once.

    Attributes:
        workspace: reads the data.
    """

    workspace: Workspace
    _outlines: dict[str, Model] = field(default_factory=dict)
    _obstacles: dict[str, str | None] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def __call__(self, config: TrialConfig) -> str | None:
        """Check a trial; say why it cannot share a forward pass with others, None where it can.

        Raises:
            ConfigurationError: says what is wrong and what to do.
        """
        choose_runtime(config.trainer.accelerator, config.trainer.precision)
        self._check_data(config)
        key = content_hash(
            [config.identities["model"], _objectives(config), config.resolved["method"], config.trains]
        )
        if key not in self._obstacles:
            self._obstacles[key] = self._adapt(config)
        if config.evaluation.shots and self._new(f"shots {key} {config.evaluation} {config.identities}"):
            self._check_shots(config)
        if self._new(f"logger {config.logger}"):
            check_logger(config.logger)
        if config.trains and self._new(f"trainer {config.trainer}"):
            _check_engine(config)
        return self._obstacles[key]

    def _new(self, what: str) -> bool:
        known = what in self._seen
        self._seen.add(what)
        return not known

    def _check_data(self, config: TrialConfig) -> None:
        for task in config.tasks.values():
            identity = config.identities[task.name]
            with located(place_of(task)):
                self.workspace.rows(task, identity, config.evaluation.split)
                if any(task.name in stage.tasks for stage in filter(config.trains_in, config.stages)):
                    self.workspace.rows(task, identity, "train")
                    if config.trainer.early_stopping.patience is not None:
                        self.workspace.rows(task, identity, config.trainer.early_stopping.split)

    def _check_shots(self, config: TrialConfig) -> None:
        for task in config.tasks.values():
            identity = config.identities[task.name]
            with located(place_of(task)):
                rows = self.workspace.rows(task, identity, config.evaluation.split)
                shots = self.workspace.shots(task, identity, config.evaluation)
                encoded(task.objective, [rows[0]], self._outline(config), shots)

    def _adapt(self, config: TrialConfig) -> str | None:
        outline = self._outline(config)
        branch = Branch(outline.module)
        model = replace(outline, module=branch.module)
        context = start_context(config, model, frozen_names(model, config.methods), outline=True)
        adapted = adapt(model, config.methods, context, config.trains, config.model.blocks)
        return obstacle(branch, adapted.model.module)

    def _outline(self, config: TrialConfig) -> Model:
        key = content_hash([config.identities["model"], _objectives(config)])
        if key not in self._outlines:
            with located("model"):
                self._outlines[key] = config.model.outline(config.objectives)
        return self._outlines[key]


def _objectives(config: TrialConfig) -> Sequence[str]:
    return sorted(str(task.dataset.objective()) for task in config.tasks.values())


def _check_engine(config: TrialConfig) -> None:
    # Lightning takes seconds to import, which a finished study's rerun does not pay.
    from myosotis import training

    runtime = choose_runtime(config.trainer.accelerator, config.trainer.precision)
    with training.quiet_lightning():
        training.make_engine(config.trainer, runtime, 1, [])
