"""Finding what would stop a trial before any trains: data, weights, shapes, nothing to train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from myosotis.adaptation import adapt, frozen_names
from myosotis.devices import check_devices, check_divisible
from myosotis.errors import ConfigurationError, located
from myosotis.evaluation import choose_runtime
from myosotis.interfaces import Metric, Model, Objective, Task
from myosotis.ledger import content_hash
from myosotis.resolve import TrialConfig
from myosotis.rows import encoded
from myosotis.stacking import Branch, obstacle
from myosotis.tracking import check_logger
from myosotis.trial import start_context
from myosotis.workspace import Workspace, evaluated_examples, place_of

FEW = 8
"""Examples of each split that are made before anything trains."""


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
        check_devices(config)
        self._check_data(config)
        check_divisible(config, self.outline(config))
        if self.outline(config).text_only:
            self._check_text_only(config)
        self._check_examples(config)
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
            with located(place_of(task)):
                for split in _splits(config, task):
                    self.workspace.rows(task, config.identities[task.name], split)

    def _check_examples(self, config: TrialConfig) -> None:
        """Encode a few rows: they may fit no length, or the model, or give nothing that a metric reads."""
        for task in config.tasks.values():
            identities = config.identities[task.name], config.identities["model"]
            if self._new(f"length {identities}"):
                with located(place_of(task)):
                    check_length(task.objective, self.outline(config))
            for split in _splits(config, task):
                if self._new(f"examples {identities} {split}"):
                    few = replace(config.evaluation, split=split, limit=FEW, rows="first")
                    with located(place_of(task)):
                        rows = self.workspace.rows(task, identities[0], split)
                        evaluated_examples(task, rows, self.outline(config), few)
            if self._new(f"metrics {identities}"):
                with located(place_of(task)):
                    _check_metrics(task, self.outline(config))

    def _check_shots(self, config: TrialConfig) -> None:
        for task in config.tasks.values():
            identity = config.identities[task.name]
            with located(place_of(task)):
                rows = self.workspace.rows(task, identity, config.evaluation.split)
                shots = self.workspace.shots(task, identity, config.evaluation)
                encoded(task.objective, [rows[0]], self.outline(config), shots)

    def _adapt(self, config: TrialConfig) -> str | None:
        outline = self.outline(config)
        branch = Branch(outline.module)
        model = replace(outline, module=branch.module)
        context = start_context(config, model, frozen_names(model, config.methods), outline=True)
        adapted = adapt(model, config.methods, context, config.trains, config.model.blocks)
        return obstacle(branch, adapted.model.module)

    def _check_text_only(self, config: TrialConfig) -> None:
        if config.trains or config.methods:
            what = f"method={'+'.join(config.methods)}" if config.methods else "its stages"
            raise ConfigurationError(
                f"a model that gives texts alone has no parameters here and must not be trained, but {what} would "
                "train it; score it as it is with 'method=[]' curriculum=none"
            )
        for task in config.tasks.values():
            unread = [name for name, metric in task.metrics.items() if not metric.generates]
            if unread:
                known = self.workspace.registry.plugins["metric"].values()
                texts = [each.name for each in known if issubclass(each.cls, Metric) and each.cls.generates]
                raise ConfigurationError(
                    f"{place_of(task)}: a model that gives texts alone must have metrics of texts, but "
                    f"{', '.join(unread)} must have its losses; choose from {', '.join(sorted(texts))}"
                )

    def outline(self, config: TrialConfig) -> Model:
        """Give a trial's model without its weights."""
        key = content_hash([config.identities["model"], _objectives(config)])
        if key not in self._outlines:
            with located("model"):
                self._outlines[key] = config.model.outline(config.objectives)
        return self._outlines[key]


def _splits(config: TrialConfig, task: Task) -> Iterator[str]:
    """Name the splits of a task that a trial reads."""
    yield config.evaluation.split
    if config.trains_on(task.name):
        yield "train"
        if config.trainer.early_stopping.patience is not None:
            yield config.trainer.early_stopping.split


def check_length(objective: Objective, model: Model) -> None:
    """Refuse rows that may be longer than the model reads.

    Raises:
        ConfigurationError: says what the most is.
    """
    longest = objective.longest(model)
    if longest is not None and model.positions is not None and longest > model.positions:
        raise ConfigurationError(
            f"a row must have at most the {model.positions:,} tokens that the model has positions for, but length "
            f"lets it have {longest:,}; lower length, or take a model that reads more"
        )


def _check_metrics(task: Task, model: Model) -> None:
    given = set(task.objective.columns(model))
    for name, metric in task.metrics.items():
        missing = set(metric.reads) - given
        if given and missing:
            raise ConfigurationError(
                f"metrics must be of what {type(task.objective).__name__} predicts with this model "
                f"({', '.join(sorted(given))}), but {name} reads {', '.join(sorted(missing))}; take another "
                "metric, or another objective"
            )


def _objectives(config: TrialConfig) -> Sequence[str]:
    return sorted(str(task.dataset.objective()) for task in config.tasks.values())


def _check_engine(config: TrialConfig) -> None:
    # Lightning takes seconds to import, which a finished study's rerun does not pay.
    from myosotis import training

    runtime = choose_runtime(config.trainer.accelerator, config.trainer.precision)
    with training.quiet_lightning():
        training.make_engine(config.trainer, runtime, 1, [])
