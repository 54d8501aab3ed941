"""Typed configuration: its schema, its composition by Hydra, and errors in the user's words."""

from __future__ import annotations

import functools
import inspect
import io
import pickle
import re
import traceback
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from hydra import initialize_config_dir
from hydra.core import default_element
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from myosotis.curriculum import CurriculumConfig
from myosotis.errors import ConfigurationError, first_line, unknown_name
from myosotis.plugins import Kind, Registry, load_registry

VERSION_BASE = "1.3"


@dataclass
class EarlyStoppingConfig:
    """When a stage ends before its length is over.

    Attributes:
        patience: checks in a row without a lower loss that end the stage; None ends none early.
        every_n_steps: steps between two checks.
        min_delta: by how much a loss must be lower to count as such.
        split: the rows of the stage's own tasks whose mean loss is watched, as many of each as `evaluation.limit`.
        restore_best: whether the stage ends with the parameters that had the lowest loss.
    """

    patience: int | None = None
    every_n_steps: int = 20
    min_delta: float = 0.0
    split: str = "validation"
    restore_best: bool = True


@dataclass
class TrainerConfig:
    """How long and on what a stage trains; Lightning's own argument names.

    Attributes:
        max_steps: optimizer steps a stage; 60 where none of the three lengths is given.
        max_epochs: passes over the stage's own tasks; of several lengths, the shortest counts.
        max_tokens: tokens a stage, on average over its draws.
        batch_size: rows a batch on each device.
        accumulate_grad_batches: batches an optimizer step, with the loss of one large batch.
        bucket_by_length: whether rows of like length come into one batch, so that less is filled up. Of every 50
            batches, or a quarter of the stage where that is less, the rows are sorted and the batches shuffled.
        precision: Lightning's precision, such as `32-true` or `bf16-mixed`.
        accelerator: `auto`, `cpu` or `gpu`.
        devices: processes that train a trial together, each on a GPU of its own, or on the CPU where the
            accelerator is `cpu`; a batch of all has `devices` times `batch_size` rows.
        num_nodes: machines with so many devices each, on which torchrun starts the command.
        strategy: how several processes train together: `ddp`, which `auto` is, or `fsdp`.
        base_dropout: whether what trains of the base has its dropout while it trains; what is frozen never has.
        gradient_clip_val: the largest norm of the gradient; None clips nothing.
        log_every_n_steps: steps between two entries of the training log.
        checkpoint_every_n_steps: steps between two checkpoints within a stage; 0 saves at stage ends only.
        early_stopping: when a stage ends before its length is over.
        save: whether the finished trial keeps its adapter or weights.
        prefix_gigabytes: disk for what frozen blocks at the model's beginning give, kept for further epochs
            and trials while the study runs; 0 computes it each time.
    """

    max_steps: int | None = None
    max_epochs: int | None = None
    max_tokens: int | None = None
    batch_size: int = 8
    accumulate_grad_batches: int = 1
    bucket_by_length: bool = False
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    base_dropout: bool = True
    gradient_clip_val: float | None = 1.0
    log_every_n_steps: int = 10
    checkpoint_every_n_steps: int = 100
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    save: bool = True
    prefix_gigabytes: float = 4.0

    @property
    def processes(self) -> int:
        """How many processes train a trial together."""
        return self.devices * self.num_nodes

    @property
    def divides(self) -> bool:
        """Whether each of several processes computes with a part of the weights."""
        return self.strategy == "fsdp" and self.processes > 1

    @property
    def rows_a_batch(self) -> int:
        """Rows of a batch of all processes together."""
        return self.batch_size * self.processes


@dataclass
class OptimizerConfig:
    """The optimizer of every stage, made anew for each.

    Attributes:
        name: `adamw`, `adam` or `sgd`; on a GPU `adamw_8bit`, whose states take a quarter of the memory, or
            `paged_adamw_8bit`, which lets them out to the CPU where the GPU is full.
        learning_rate: the peak learning rate.
        weight_decay: decoupled for `adamw` and its like, an L2 term otherwise.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0


@dataclass
class ScheduleConfig:
    """The learning rate over a stage.

    Attributes:
        name: `constant`, `linear` (to 0) or `cosine` (to 0).
        warmup_steps: steps of linear rise from 0.
    """

    name: str = "constant"
    warmup_steps: int = 0


@dataclass
class EvaluationConfig:
    """What is scored, and when.

    Attributes:
        every: steps between two evaluations within a stage; 0 evaluates at stage ends only.
        limit: examples a task; `auto` takes 200, or fewer that have 8,192 tokens; None takes all.
        rows: which ones: the `first`, or `spread` over the whole split, one of each of as many equal parts. The
            same ones for every trial and for the base.
        batch_size: examples a batch; changes no score.
        split: the split that is scored.
        resamples: bootstrap resamples behind every interval.
        shots: training rows of a task that each of its prompts shows as examples, the same for every row and trial.
    """

    every: int = 0
    limit: int | str | None = "auto"
    rows: str = "first"
    batch_size: int = 16
    split: str = "test"
    resamples: int = 1000
    shots: int = 0


@dataclass
class RootConfig:
    """The keys of a trial beside the plugins'.

    Attributes:
        data_check: whether the data are looked at before the study runs.
    """

    seed: int = 0
    study: str | None = None
    arm: str | None = None
    arms: Any = None
    force: bool = False
    studies: str = "studies"
    data_check: bool = True
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


SCALARS = frozenset({"seed", "study", "arm", "force", "studies", "data_check"})
PLUGIN_GROUPS: Mapping[str, tuple[Kind, bool]] = {
    "model": ("model", False),
    "method": ("method", True),
    "dataset": ("dataset", True),
    "probe": ("dataset", True),
}
"""Config groups filled from plugins: the kind, and whether several may be chosen, each under its name."""
KEYS = frozenset({*(each.name for each in fields(RootConfig)), *PLUGIN_GROUPS, "mix", "logger"})
"""What a configuration holds at its top; any other key is the user's own, for values to refer to."""


def conf_folder() -> Path:
    """Find `conf/`: in the checkout above an editable install, else beside the package."""
    package = Path(__file__).resolve().parent
    checkout = package.parents[1] / "conf"
    return checkout if (checkout / "config.yaml").is_file() else package / "conf"


def extend_search_path(search_path: ConfigSearchPath) -> None:
    """Store the plugins' parameters, and add the plugins' presets and the working folder's own."""
    registry = load_registry()
    store_configs(registry)
    for path in registry.config_paths():
        search_path.append("plugin", path)
    own = Path.cwd() / "conf"
    if own.is_dir() and own.resolve() != conf_folder():
        search_path.append("working folder", f"file://{own}")
    search_path.append("working folder", f"experiments://{Path.cwd()}")


def store_configs(registry: Registry) -> None:
    """Put the schema and every plugin's parameters into Hydra's store, replacing what stood there."""
    from myosotis.structured import structured

    store = ConfigStore.instance()
    store.store(name="schema", node=_schema())
    for group, (kind, several) in PLUGIN_GROUPS.items():
        store.repo.pop(group, None)
        for found in registry.plugins[kind].values():
            package = f"{group}.{found.name}" if several else group
            store.store(group=group, name=found.name, node=structured(found.cls), package=package)


def _schema() -> DictConfig:
    root = OmegaConf.structured(RootConfig)
    # A typed root would refuse the plugins' groups, and a closed `mix` would refuse new tasks.
    schema = DictConfig({key: root._get_node(key) for key in root})
    schema["mix"] = DictConfig({}, flags={"struct": False})
    for group, (_, several) in PLUGIN_GROUPS.items():
        if several:
            schema[group] = DictConfig({})
    return schema


@contextmanager
def composer() -> Iterator[Composer]:
    """Open Hydra on this project's configuration, and close it."""
    with (
        explained(),
        initialize_config_dir(str(conf_folder()), job_name="myosotis", version_base=VERSION_BASE),
    ):
        yield Composer(GlobalHydra.instance().config_loader())


class Composer:
    """Composes trials' configurations; each choice of groups is composed by Hydra once."""

    def __init__(self, loader: ConfigLoader) -> None:
        self.loader = loader
        self._chosen: dict[tuple[str, tuple[str, ...]], Mold] = {}
        self._parser = OverridesParser.create()

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Parse overrides by Hydra's grammar."""
        return self._parser.parse_overrides(list(overrides))

    def master(self, config_name: str, overrides: Sequence[str]) -> DictConfig:
        """Compose what the study as a whole needs: its arms, launcher and sweep."""
        return self._load(config_name, overrides, RunMode.MULTIRUN)

    def _load(self, config_name: str, overrides: Sequence[str], mode: RunMode) -> DictConfig:
        try:
            return self.loader.load_configuration(config_name, list(overrides), mode)
        except (HydraException, OmegaConfBaseException):
            raise
        except ValueError as error:  # Hydra's own, where a group is given what is not a name
            raise ConfigurationError(f"{error} (in {' '.join(overrides)})") from error

    def chosen(self, config_name: str, overrides: Sequence[Override]) -> DictConfig:
        """Compose the overrides that choose groups or reshape the tree, ignoring plain values."""
        return self._mold(config_name, overrides).config

    def _mold(self, config_name: str, overrides: Sequence[Override]) -> Mold:
        structural = tuple(str(each.input_line) for each in overrides if not is_value(each))
        key = (config_name, structural)
        if key not in self._chosen:
            config = self._load(config_name, structural, RunMode.RUN)
            with open_dict(config):  # a job's configuration has none of Hydra's own either
                config.pop("hydra", None)
            self._chosen[key] = Mold(config)
        return self._chosen[key]

    def compose(self, config_name: str, overrides: Sequence[Override]) -> DictConfig:
        """Compose one trial: the same as Hydra would without its own node, at a hundredth of the time.

        Raises:
            ConfigurationError: an unknown key or a value of the wrong type.
        """
        config = self._mold(config_name, overrides).cast()
        for override in overrides:
            if is_value(override):
                with explained(override.input_line):
                    OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        _check_read(config)
        return config


def _check_read(config: DictConfig) -> None:
    """Refuse a key that nothing reads: what was meant by a misspelt one would be missing in silence."""
    own = {str(key) for key in config} - KEYS
    if not own:
        return
    if "experiments" in own:
        raise ConfigurationError(
            "a file of experiments/ must have '# @package _global_' as its first line: without it, what it sets "
            f"({', '.join(map(str, config.experiments))}) goes below experiments, where nothing reads it"
        )
    read = " ".join(re.findall(r"\$\{[^{}]*", repr(OmegaConf.to_container(config))))
    for name in sorted(own):
        if not re.search(rf"\b{re.escape(name)}\b", read):
            raise ConfigurationError(
                f"{unknown_name('key', name, {*KEYS, 'experiments'})}; a key of your own must be referred to by "
                f"some value, as ${{{name}}}"
            )


class Mold:
    """A configuration to be copied many times: reading bytes is six times as fast as a deep copy."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self._types: list[type] = []
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
        pickler.persistent_id = self._number  # type: ignore[method-assign]
        pickler.dump(config)
        self._bytes = buffer.getvalue()

    def _number(self, value: Any) -> int | None:
        # Structured configurations are classes made at run time, which no bytes can hold.
        if not isinstance(value, type):
            return None
        self._types.append(value)
        return len(self._types) - 1

    def cast(self) -> DictConfig:
        """Give a tree of its own."""
        unpickler = pickle.Unpickler(io.BytesIO(self._bytes))
        unpickler.persistent_load = self._types.__getitem__  # type: ignore[method-assign]
        return unpickler.load()  # type: ignore[no-any-return]


def is_value(override: Override) -> bool:
    """Tell a plain `key=value` from what chooses a group, adds, deletes or moves."""
    plain = override.input_line is not None and override.input_line[0] not in "+~"
    key = override.key_or_group
    nested = "." in key and "/" not in key and "@" not in key and not key.startswith("hydra.")
    return plain and override.package is None and (nested or key in SCALARS)


@contextmanager
def explained(override: str | None = None) -> Iterator[None]:
    """Turn Hydra's and OmegaConf's errors into one in the user's words."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(explain(error, override)) from error
    except YAMLError as error:
        raise ConfigurationError(f"a file is not YAML: {' '.join(str(error).split())}") from error
    except AssertionError as error:
        if Path(traceback.extract_tb(error.__traceback__)[-1].filename) != Path(default_element.__file__):
            raise
        # Hydra tells the order of lines with one value itself, and trips over one with a list.
        raise ConfigurationError(
            "the override lines of a file's defaults must come after all others but _self_, and in one of the "
            "files asked for, an override line with a list comes before another; move it down"
        ) from error


def explain(error: BaseException, override: str | None = None) -> str:
    """Say in a sentence what Hydra or OmegaConf refused, with the nearest names."""
    if isinstance(error, OverrideParseException):
        return f"{error.override} does not follow Hydra's grammar: {_misspelt(error)}"
    within = error.__cause__ or error.__context__  # the latter where Hydra tells in which file it is
    cause = (
        within if isinstance(error, HydraException) and isinstance(within, OmegaConfBaseException) else error
    )
    if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
        return _explain_missing(str(cause.missing_cfg_file), cause.options)
    key = str(getattr(cause, "full_key", None) or "")
    parent = getattr(cause, "parent_node", None)
    text = first_line(cause)
    file = re.match(r"In '(.+)': ", str(error)) if cause is not error else None
    place = f"{file[1]}.yaml: " if file else ""
    if key and "not in" in text and isinstance(parent, DictConfig):
        prefix, _, name = key.rpartition(".")
        known = [str(each) for each in parent if not str(each).startswith("_")]
        known += [] if prefix else ["experiments"]  # the group of written studies
        told = place + unknown_name(f"parameter of {prefix}" if prefix else "key", name, known)
        return told + (_models_with(name) if prefix == "model" else "")
    if key:
        told = f"{place}{key}: {text}" + (f" (from {override})" if override else "")
        is_list = re.match(r"Value '.*' of type 'list(Config)?'", text, flags=re.IGNORECASE)
        how = f"; a list is one value: a sweep is {key}=1,2, in a file {key}: 1,2 under hydra.sweeper.params"
        return told + (how if is_list else "")
    return place + text if place else str(error)


def _models_with(parameter: str) -> str:
    """Say which models have a parameter that the chosen one lacks."""
    models = load_registry().plugins["model"].values()
    having = [each.name for each in models if parameter in inspect.signature(each.cls).parameters]
    return f". For it, add {' or '.join(f'model={each}' for each in sorted(having))}" if having else ""


def _misspelt(error: OverrideParseException) -> str:
    """Say what is wrong with an override in plain words where it is usual, and in the parser's elsewhere."""
    written = str(error.override)
    for opening, closing in ("[]", "{}", "()"):
        if written.count(opening) != written.count(closing):
            return f"each {opening} must have its {closing}; in a shell, write it in quotes, as 'key=[a,b]'"
    if written.endswith(","):
        return "a value must stand behind its last comma"
    if written.endswith((".yaml", ".yml")):
        return f"a file of experiments/ is chosen by its name: +experiments={Path(written).stem}"
    if "=" not in written:
        return "a setting is key=value, without spaces around the ="
    return str(error.message).split("\n")[0]


def _explain_missing(path: str, options: Sequence[str] | None) -> str:
    group, _, name = path.rpartition("/")
    group = group.lstrip("/")
    kind = PLUGIN_GROUPS.get(group, (None, False))[0]
    known = list(options or [])
    if group.startswith("experiments"):
        meant = Path(name).stem
        return (
            f"a file of experiments/ is chosen by its name: +experiments={meant}"
            if meant in known
            else unknown_name("experiment", name, known)
        )
    if kind is None:
        return unknown_name(group or "configuration", name, known)
    registry = load_registry()
    hints = "".join(f". Also, {broken}" for broken in registry.broken)
    return unknown_name(group, name, {*known, *registry.plugins[kind]}) + hints


def plain(config: Any) -> Any:
    """Give a node as plain dictionaries and lists, interpolations resolved."""
    if isinstance(config, DictConfig | ListConfig):
        return OmegaConf.to_container(config, resolve=True)
    return config


def check_literals(path: str, node: Mapping[str, Any], cls: type) -> None:
    """Refuse values outside a parameter's `Literal`, which the structured configuration lets through.

    Raises:
        ConfigurationError: names the key, the values that it may have, and the one received.
    """
    for name, value in node.items():
        allowed = literals(cls).get(name)
        if allowed and value not in allowed:
            near = unknown_name("value", str(value), [str(each) for each in allowed])
            raise ConfigurationError(f"{path}.{name}: {near}")


@functools.cache
def literals(cls: type) -> Mapping[str, tuple[Any, ...]]:
    """Give the values that each parameter of a `Literal` may have, and nothing for the others."""
    hints = typing.get_type_hints(inspect.getattr_static(cls, "__init__"))
    return {name: _literal_values(hint) for name, hint in hints.items()}


def _literal_values(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    union = [_literal_values(each) for each in typing.get_args(hint)] if hint is not None else []
    literals = tuple(value for each in union for value in each)
    return (*literals, None) if literals and type(None) in typing.get_args(hint) else literals


def is_name(text: str) -> bool:
    """Tell whether a text can name a study's folder."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) is not None
