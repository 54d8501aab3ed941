"""From a composed configuration to a trial: plugins made, stages laid out, values checked, an id."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar, cast

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from myosotis import __version__
from myosotis.config import check_literals, plain
from myosotis.curriculum import CurriculumConfig, build_stages
from myosotis.errors import ConfigurationError, MyosotisError, PluginError, located, unknown_name
from myosotis.explained import explained
from myosotis.interfaces import (
    Method,
    Metric,
    ModelFactory,
    Objective,
    Plugin,
    Stage,
    Task,
    TaskDataset,
)
from myosotis.ledger import content_hash
from myosotis.plugins import KINDS, Registry, source_hash
from myosotis.schema import PLUGIN_GROUPS, EvaluationConfig, OptimizerConfig, ScheduleConfig, TrainerConfig

EIGHT_BIT = ("adamw_8bit", "paged_adamw_8bit")
"""Optimizers of bitsandbytes."""
OPTIMIZERS = ("adamw", "adam", "sgd", *EIGHT_BIT)
STRATEGIES = ("auto", "ddp", "fsdp")
SCHEDULES = ("constant", "linear", "cosine")
SPLITS = ("train", "validation", "test")
EVALUATED_ROWS = ("first", "spread")
CAME_LATER = {"rows": "first"}
"""Settings with the value that they stood for before there were any: so that a trial's id stays what it was."""
CHANGES_NO_NUMBER = frozenset({"save", "log_every_n_steps", "checkpoint_every_n_steps", "prefix_gigabytes"})


S = TypeVar("S", TrainerConfig, OptimizerConfig, ScheduleConfig, EvaluationConfig, CurriculumConfig)


@dataclass(frozen=True)
class TrialConfig:
    """One resolved configuration with one seed.

    Attributes:
        id: the hash over what can change its numbers.
        resolved: the whole configuration as plain values, as it is written to `config.yaml`.
        identities: for the model and every task, the hash over what its numbers depend on.
        logger: the logger's node, its interpolations still open.
    """

    id: str
    seed: int
    model: ModelFactory
    methods: Mapping[str, Method]
    tasks: Mapping[str, Task]
    stages: tuple[Stage, ...]
    trainer: TrainerConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    evaluation: EvaluationConfig
    resolved: Mapping[str, Any]
    identities: Mapping[str, str]
    logger: DictConfig

    @property
    def order(self) -> str:
        """The tasks in the order in which they are first trained."""
        return " ".join(dict.fromkeys(task for stage in self.stages for task in stage.tasks))

    @property
    def trains(self) -> bool:
        """Whether any stage trains."""
        return any(map(self.trains_in, self.stages))

    def trains_in(self, stage: Stage) -> bool:
        """Whether a stage has tasks, and there is a method that trains, or none at all: then everything does."""
        methods = self.methods.values()
        return bool(stage.shares) and (not methods or any(method.trains for method in methods))

    def trains_on(self, task: str) -> bool:
        """Whether a stage that trains has the task for its own."""
        return any(task in stage.tasks for stage in filter(self.trains_in, self.stages))

    @property
    def objectives(self) -> list[Objective]:
        """The objectives of all tasks and probes."""
        return [task.objective for task in self.tasks.values()]


@dataclass
class Resolver:
    """Resolves configurations; what trials share in content is read and hashed once."""

    registry: Registry
    _fingerprints: dict[str, str] = field(default_factory=dict)
    _settings: dict[tuple[type, str], Any] = field(default_factory=dict)
    _recipes: dict[str, functools.partial[Any]] = field(default_factory=dict)
    _loggers: dict[str, DictConfig] = field(default_factory=dict)

    def resolve(self, config: DictConfig) -> TrialConfig:
        """Make a trial of a composed configuration.

        Raises:
            ConfigurationError: a value out of range, or names that do not fit together.
        """
        resolved = _resolved(config)
        _check_whole(resolved)
        model = self.model(resolved)
        methods = self.methods(resolved)
        tasks = self._tasks(resolved)
        trainer = checked_trainer(self._typed("trainer", resolved, TrainerConfig))
        optimizer = checked_optimizer(self._typed("optimizer", resolved, OptimizerConfig))
        schedule = checked_schedule(self._typed("schedule", resolved, ScheduleConfig))
        evaluation = checked_evaluation(self._typed("evaluation", resolved, EvaluationConfig))
        trained = [name for name, task in tasks.items() if task.role == "task"]
        curriculum = self._typed("curriculum", resolved, CurriculumConfig)
        stages = build_stages(curriculum, resolved["mix"], trained, resolved["seed"])
        if curriculum.stopping_strategy != "total" and trainer.max_epochs is None:
            raise ConfigurationError(
                f"curriculum.stopping_strategy={curriculum.stopping_strategy} counts passes over the tasks, but "
                "trainer.max_epochs is not given; add trainer.max_epochs=1"
            )
        identities = {
            "model": self._model_identity(resolved["model"], model, tasks),
            **{name: self._task_identity(task, resolved) for name, task in tasks.items()},
        }
        method_identities = {
            name: self._identity(f"method.{name}", resolved["method"][name], method)
            for name, method in methods.items()
        }
        identity = {
            "identities": identities,
            "methods": method_identities,
            "roles": {name: task.role for name, task in tasks.items()},
            "stages": [asdict(stage) for stage in stages],
            "settings": [numbers(each) for each in (trainer, optimizer, schedule, evaluation)],
            "seed": resolved["seed"],
            "version": __version__,
        }
        return TrialConfig(
            id=content_hash(identity),
            seed=resolved["seed"],
            model=model,
            methods=methods,
            tasks=tasks,
            stages=stages,
            resolved=resolved,
            identities=identities,
            logger=self._logger(config),
            trainer=trainer,
            optimizer=optimizer,
            schedule=schedule,
            evaluation=evaluation,
        )

    def model(self, resolved: Mapping[str, Any]) -> ModelFactory:
        """Make the model factory of a resolved configuration."""
        return cast(ModelFactory, self._make("model", resolved["model"]))

    def methods(self, resolved: Mapping[str, Any]) -> dict[str, Method]:
        """Make the methods of a resolved configuration, by name."""
        return {
            name: cast(Method, self._make(f"method.{name}", node))
            for name, node in resolved["method"].items()
        }

    def _logger(self, config: DictConfig) -> DictConfig:
        content = repr(config.logger)
        if content not in self._loggers:  # cut off, or each trial would keep its whole tree
            self._loggers[content] = OmegaConf.masked_copy(config, "logger").logger
        return self._loggers[content]

    def _typed(self, group: str, resolved: Mapping[str, Any], kind: type[S]) -> S:
        key = (kind, repr(resolved[group]))
        if key not in self._settings:
            with explained():  # plain values, of which none that the class lacks is let through
                schema = OmegaConf.create({group: kind})
                typed = OmegaConf.merge(schema, {group: resolved[group]})
            self._settings[key] = OmegaConf.to_object(cast(DictConfig, typed)[group])
        return cast(S, copy.copy(self._settings[key]))

    def _tasks(self, resolved: Mapping[str, Any]) -> dict[str, Task]:
        both = set(resolved["dataset"]) & set(resolved["probe"])
        if both:
            raise ConfigurationError(
                f"{', '.join(sorted(both))} must be either a dataset or a probe, not both; every task is "
                "evaluated after every stage anyway. Give one another name with +probe@probe.NAME=…"
            )
        return {
            name: self.task(name, group, resolved)
            for group in ("dataset", "probe")
            for name in resolved[group]
        }

    def task(self, name: str, group: str, resolved: Mapping[str, Any]) -> Task:
        """Make a task of a resolved configuration.

        Args:
            name: the task's.
            group: dataset or probe.
            resolved: the whole configuration.
        """
        dataset = cast(TaskDataset, self._make(f"{group}.{name}", resolved[group][name]))
        with located(f"{group}.{name}"):
            chosen, parameters = dataset.objective()
            objective = self.registry.find("objective", chosen).cls(**parameters)
            names = dataset.metrics() or cast(Objective, objective).metrics
            metrics = {each: cast(Metric, self.registry.find("metric", each).cls()) for each in names}
            _check_scorable(chosen, cast(Objective, objective), metrics)
        return Task(
            name=name,
            role="task" if group == "dataset" else "probe",
            dataset=dataset,
            objective=cast(Objective, objective),
            metrics=metrics,
        )

    def _make(self, path: str, node: Any) -> Plugin:
        group = path.split(".")[0]
        kind = PLUGIN_GROUPS[group][0]
        if not isinstance(node, Mapping):
            raise ConfigurationError(
                f"{path} must hold a plugin's parameters, but got {node!r}; +{group}@{path}=NAME puts the "
                f"plugin NAME there, {path}.PARAMETER=VALUE sets a parameter"
            )
        if not node.get("_target_"):
            known = self.registry.plugins[kind]
            raise ConfigurationError(f"{path} names no plugin; choose one of {', '.join(sorted(known))}")
        parameters = {key: value for key, value in node.items() if not key.startswith("_")}
        try:
            plugin = self._instantiated(node)
        except MyosotisError as error:
            raise type(error)(f"{path}: {error}") from error
        except Exception as error:  # a constructor may raise anything
            raise PluginError(f"{path} cannot be made: {error}") from error
        if not isinstance(plugin, KINDS[kind]):
            raise PluginError(f"{path} must be a {KINDS[kind].__name__}, but {node['_target_']} is not")
        check_literals(path, parameters, type(plugin))
        return plugin

    def _instantiated(self, node: Mapping[str, Any]) -> Any:
        """Make what a node describes; Hydra reads each node once, and every trial gets objects of its own."""
        content = repr(node)
        try:
            if content.count("'_target_'") > 1:  # objects within objects
                return instantiate(node)
            if content not in self._recipes:
                self._recipes[content] = instantiate(node, _partial_=True)
        except InstantiationException as error:
            raise error.__cause__ or error from None
        recipe = self._recipes[content]
        return recipe.func(*recipe.args, **copy.deepcopy(recipe.keywords))

    def _identity(self, path: str, node: Mapping[str, Any], plugin: Plugin) -> str:
        parameters = {key: value for key, value in node.items() if key not in plugin.locations}
        identity = [
            parameters,
            plugin.version,
            source_hash(type(plugin)),
            self._fingerprint(path, node, plugin),
        ]
        return content_hash(identity)

    def _model_identity(self, node: Mapping[str, Any], model: ModelFactory, tasks: Mapping[str, Task]) -> str:
        identity = self._identity("model", node, model)
        variant = model.variant([task.objective for task in tasks.values()])
        return content_hash([identity, variant]) if variant else identity

    def _task_identity(self, task: Task, resolved: Mapping[str, Any]) -> str:
        group = "dataset" if task.role == "task" else "probe"
        scorers: list[Plugin] = [task.objective, *task.metrics.values()]
        identity = [
            self._identity(f"{group}.{task.name}", resolved[group][task.name], task.dataset),
            task.dataset.objective(),
            [[type(each).__qualname__, each.version, source_hash(type(each))] for each in scorers],
        ]
        return content_hash(identity)

    def _fingerprint(self, path: str, node: Mapping[str, Any], plugin: Plugin) -> str:
        key = content_hash(node)
        if key not in self._fingerprints:
            with located(path):
                self._fingerprints[key] = plugin.fingerprint()
        return self._fingerprints[key]


def _check_scorable(name: str, objective: Objective, metrics: Mapping[str, Metric]) -> None:
    """Refuse metrics of what an objective does not give."""
    kind = type(objective)
    needs = (
        ("generates", kind.generate is not Objective.generate, "texts that the model writes"),
        ("compares", kind.predicted_logits is not Objective.predicted_logits, "logits to compare"),
    )
    for trait, given, what in needs:
        lacking = [each for each, metric in metrics.items() if getattr(metric, trait)]
        if lacking and not given:
            raise ConfigurationError(
                f"metrics must be of what {name} gives, but {', '.join(lacking)} must have {what}; take an "
                "objective that has them, or another metric"
            )


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Give a trial's own keys as plain values."""
    keys = _trial_keys(config)
    written = cast(dict[str, Any], OmegaConf.to_container(config))
    own = {key: written[key] for key in keys}
    text = repr(own)
    if "${" not in text and "???" not in text:
        return own
    masked = OmegaConf.masked_copy(config, keys)
    _check_given(masked)
    with explained():
        return cast(dict[str, Any], plain(masked))


def _check_whole(resolved: Mapping[str, Any]) -> None:
    missing = {"seed", "mix", *PLUGIN_GROUPS} - resolved.keys()
    if missing:
        raise ConfigurationError(f"{', '.join(sorted(missing))} must not be taken out of the configuration")
    _at_least("seed", resolved["seed"], 0)


def _check_given(config: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigurationError(f"{missing[0]} must be given a value; add {missing[0]}=… to the command")


def _trial_keys(config: DictConfig) -> list[str]:
    left_out = {"hydra", "arms", "study", "studies", "force", "data_check", "logger", "run"}
    return [str(key) for key in config if key not in left_out]


def numbers(setting: Any) -> dict[str, Any]:
    """Give those of a trial's settings that can change its numbers."""
    return {
        key: value
        for key, value in asdict(setting).items()
        if key not in CHANGES_NO_NUMBER and (key, value) not in CAME_LATER.items()
    }


def _at_least(path: str, value: float | None, least: float, strictly: bool = False) -> None:
    if value is not None and not (value > least if strictly else value >= least):
        bound = "greater than" if strictly else "at least"
        raise ConfigurationError(f"{path} must be {bound} {least}, but got {value}")


def _one_of(path: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigurationError(f"{path}: " + unknown_name("value", value, known))


def checked_trainer(trainer: TrainerConfig) -> TrainerConfig:
    """Refuse lengths and sizes that cannot be."""
    for name in (
        *("max_steps", "max_epochs", "max_tokens", "batch_size", "accumulate_grad_batches"),
        *("devices", "num_nodes"),
    ):
        _at_least(f"trainer.{name}", getattr(trainer, name), 1)
    _at_least("trainer.log_every_n_steps", trainer.log_every_n_steps, 1)
    _at_least("trainer.checkpoint_every_n_steps", trainer.checkpoint_every_n_steps, 0)
    _at_least("trainer.prefix_gigabytes", trainer.prefix_gigabytes, 0)
    _at_least("trainer.early_stopping.patience", trainer.early_stopping.patience, 1)
    _at_least("trainer.early_stopping.every_n_steps", trainer.early_stopping.every_n_steps, 1)
    _at_least("trainer.early_stopping.min_delta", trainer.early_stopping.min_delta, 0)
    _one_of("trainer.early_stopping.split", trainer.early_stopping.split, SPLITS)
    _at_least("trainer.gradient_clip_val", trainer.gradient_clip_val, 0, strictly=True)
    _one_of("trainer.strategy", trainer.strategy, STRATEGIES)
    _one_of("trainer.accelerator", trainer.accelerator, ("auto", "cpu", "gpu", "cuda"))
    # Lightning's `bf16-true` would convert the model after its base row was measured.
    _one_of("trainer.precision", trainer.precision, ("32-true", "bf16-mixed", "16-mixed"))
    return trainer


def checked_optimizer(optimizer: OptimizerConfig) -> OptimizerConfig:
    """Refuse an unknown optimizer and rates that cannot be."""
    _one_of("optimizer.name", optimizer.name, OPTIMIZERS)
    _at_least("optimizer.learning_rate", optimizer.learning_rate, 0, strictly=True)
    _at_least("optimizer.weight_decay", optimizer.weight_decay, 0)
    return optimizer


def checked_schedule(schedule: ScheduleConfig) -> ScheduleConfig:
    """Refuse an unknown schedule."""
    _one_of("schedule.name", schedule.name, SCHEDULES)
    _at_least("schedule.warmup_steps", schedule.warmup_steps, 0)
    return schedule


def checked_evaluation(evaluation: EvaluationConfig) -> EvaluationConfig:
    """Refuse an unknown split and sizes that cannot be."""
    _one_of("evaluation.split", evaluation.split, SPLITS)
    _at_least("evaluation.every", evaluation.every, 0)
    limit = evaluation.limit
    if limit not in (None, "auto") and not (isinstance(limit, int) and limit >= 1):
        raise ConfigurationError(f"evaluation.limit must be auto, null or at least 1, but got {limit}")
    _one_of("evaluation.rows", evaluation.rows, EVALUATED_ROWS)
    _at_least("evaluation.batch_size", evaluation.batch_size, 1)
    _at_least("evaluation.resamples", evaluation.resamples, 100)
    _at_least("evaluation.shots", evaluation.shots, 0)
    if evaluation.shots and evaluation.split == "train":
        raise ConfigurationError(
            "evaluation.split must not be train where evaluation.shots shows training rows, which would be their "
            "own examples; score another split, or set evaluation.shots=0"
        )
    return evaluation
