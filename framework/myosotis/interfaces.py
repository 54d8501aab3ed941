"""What a plugin is: the abstract classes that methods, datasets, models, objectives and metrics extend.

A plugin is one class. The typed parameters of its constructor are its configuration: nothing lists
them a second time. A constructor checks its values and raises `ConfigurationError`; it loads nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from myosotis.errors import ConfigurationError, ModelError
from myosotis.ledger import cache_folder as cache_folder  # for what datasets keep on disk
from myosotis.ledger import content_hash as content_hash
from myosotis.ledger import file_hash as file_hash  # for fingerprints

API = 1
"""Major version of the hooks; a plugin module states the one it was written for as `MYOSOTIS_API`."""

Split: TypeAlias = Literal["train", "validation", "test"]
Row: TypeAlias = Mapping[str, Any]
"""One row of a dataset, in the shape that its objective documents, such as `{"text": …}`."""
Example: TypeAlias = Mapping[str, Any]
"""One encoded row, as an objective wants it."""
Batch: TypeAlias = Mapping[str, Any]
"""What an objective collates: tensors whose first dimension is the rows."""
TrainingRow: TypeAlias = tuple[str, Example]
"""A row of a training batch: its task's name, and its encoded example."""
Columns: TypeAlias = Mapping[str, np.ndarray]
"""Predictions: arrays of equal length, one element an evaluated example."""
Loss: TypeAlias = Float[Tensor, ""]
Logits: TypeAlias = Float[Tensor, "predictions classes"]
"""Of one example: what its predictions' probabilities are the softmax of."""
Ramp: TypeAlias = Literal["linear", "step", "cosine"]
"""The shape of a share's way from its stage's first step to the last."""
By: TypeAlias = Literal["rows", "tokens"]
"""What shares are of."""
StoppingStrategy: TypeAlias = Literal["total", "first_exhausted", "all_exhausted"]
"""Whose passes end a stage: all own rows together, the first task that has been gone through, or the last."""


@runtime_checkable
class Rows(Protocol):
    """Rows by index: a list of mappings, or a `datasets.Dataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        module: the module.
        tokenizer: its tokenizer, where it has one.
        new: paths of modules that did not come with the base and begin with random weights, such as a head of
            labels; a method that freezes the base must let them train, and save them.
        text_only: whether it gives texts and nothing else, as one that is hosted elsewhere does: objectives ask it
            in text, metrics read what it writes, and nothing of it trains.
        positions: the most tokens of a row that it reads; None where there is no limit, or it is not known.
    """

    module: nn.Module
    tokenizer: Any = None
    new: tuple[str, ...] = ()
    text_only: bool = False
    positions: int | None = None


@dataclass(frozen=True)
class Share:
    """A task's share of a stage's training rows or tokens, moving from the first step to the last.

    At the progress p it is start + (end - start) · f(p). `linear`: f(p) = p. `cosine`: f(p) = (1 - cos πp) / 2.
    `step`: as many plateaus k of equal length as `plateaus` says, f(p) = min(⌊kp⌋, k - 1) / (k - 1).
    """

    start: float
    end: float
    ramp: Ramp = "linear"
    plateaus: int = 4

    def at(self, progress: float) -> float:
        """Give the share at `progress`, from 0 (the first step) to 1 (the last)."""
        return self.start + (self.end - self.start) * self._way(progress)

    def _way(self, progress: float) -> float:
        if self.ramp == "cosine":
            return (1 - math.cos(math.pi * progress)) / 2
        if self.ramp == "step":
            return min(math.floor(self.plateaus * progress), self.plateaus - 1) / (self.plateaus - 1)
        return progress

    def scaled(self, factor: float) -> Share:
        """Give so much of the share, all along its way."""
        return replace(self, start=self.start * factor, end=self.end * factor)


@dataclass(frozen=True)
class Stage:
    """One training phase on a mixture of tasks.

    Attributes:
        index: 1 for the first stage; 0 is the untouched base.
        shares: the share of each of the stage's own tasks; empty where a stage trains nothing.
        by: what shares are of, those of a method's own rows too: `rows` or `tokens`.
        temperature: where given, the shares are as the tasks' sizes to the power of 1 / temperature; they are
            known once the stage begins.
        stopping_strategy: where passes are counted, whose end the stage.
    """

    index: int
    shares: Mapping[str, Share]
    by: By = "rows"
    temperature: float | None = None
    stopping_strategy: StoppingStrategy = "total"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The stage's own tasks."""
        return tuple(self.shares)


@dataclass(frozen=True)
class Component:
    """Rows of one task in a mixture, with their share of the training rows or tokens, as the stage's `by` says."""

    task: str
    rows: Rows
    share: Share


Mixture: TypeAlias = tuple[Component, ...]


class Plugin(ABC):  # noqa: B024 - its kinds have the abstract methods
    """What every kind of plugin states about itself."""

    version: ClassVar[int] = 1
    """Bumped when the same parameters give other numbers."""
    paper: ClassVar[str] = ""
    """The source of what it does."""
    locations: ClassVar[frozenset[str]] = frozenset()
    """Parameters that only say where something lies; its fingerprint stands for them in a trial's id."""
    reads_outside: ClassVar[bool] = False
    """Whether its numbers depend on files or a network; its fingerprint must then hash what it reads."""

    def fingerprint(self) -> str:
        """Hash what the plugin reads from outside, without loading more than that takes."""
        return ""


@dataclass(frozen=True)
class Piece:
    """A token of an encoded row, as a person reads it.

    Attributes:
        text: what it stands for.
        trained: whether it is predicted and trained on.
        note: what is predicted at its place, where that is not the token itself.
        template: whether it is no text of the row's own, but stands around it; told where the row is known.
    """

    text: str
    trained: bool
    note: str = ""
    template: bool = False


class Objective(Plugin):
    """How rows of one shape become examples, batches, a loss and predictions."""

    metrics: ClassVar[tuple[str, ...]]
    """Names of the metrics that its predictions allow; the headline uses the first."""
    in_order: ClassVar[bool] = False
    """Whether the first rows alone give the first examples, all but the last one: so that few are evaluated
    without encoding all."""

    row_by_row: ClassVar[bool] = False
    """Whether every row gives its examples, whatever the other rows are: so that not all are encoded at once."""

    @abstractmethod
    def encode(self, rows: Rows, model: Model) -> Sequence[Example]:
        """Turn rows into examples; how many come out is the objective's choice (packing)."""

    def encode_with_shots(self, rows: Rows, shots: Sequence[Row], model: Model) -> Sequence[Example]:
        """Turn rows into examples that show other rows, with their answers, before what is asked.

        The shots are the same for all rows and in their order, and are not scored.

        Raises:
            ConfigurationError: a row has no prompt that could show others.
            DataError: a row does not fit into the model with them.
        """
        raise ConfigurationError(
            f"evaluation.shots must be 0 where an objective has no prompt, such as {type(self).__name__}, but got "
            f"{len(shots)}; leave the task out, or set evaluation.shots=0"
        )

    def stream(self, rows: Rows, model: Model) -> Iterator[Example]:
        """Give what `encode` gives one by one, for rows too many for memory; here all are encoded at once."""
        yield from self.encode(rows, model)

    @abstractmethod
    def tokens(self, example: Example) -> int:
        """Count an example's tokens (1 where there are none): what costs and budgets count."""

    def scored_tokens(self, example: Example) -> int:
        """Count the tokens that the model reads to score an example: those of all its choices."""
        return self.tokens(example)

    @abstractmethod
    def collate(self, examples: Sequence[Example], model: Model) -> Batch:
        """Make one training batch of examples."""

    @abstractmethod
    def forward(self, module: nn.Module, batch: Batch) -> Any:
        """Run the module over a batch and give its outputs."""

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Give the batch's mean loss: over what is trained on, tokens or rows."""

    def count(self, batch: Batch) -> int:
        """Count what the batch's loss is a mean over: its rows, unless an objective says otherwise.

        By it, small batches whose gradients are accumulated have the loss of one large batch.
        """
        return len(next(iter(batch.values())))

    @abstractmethod
    def predict(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        """Evaluate examples in one batch: the columns that the metrics read. Called without gradients.

        The module may be on a GPU: move to its device what is made of the examples, and the columns back.
        """

    def columns(self, model: Model) -> Collection[str]:
        """Name what `predict` gives for a model, so that no metric that reads more is chosen; empty where not said.

        The model may be an outline.
        """
        return ()

    def unlimited(self) -> Objective:
        """Give the same objective without a limit on the length of its examples; itself where it has none."""
        return self

    def longest(self, model: Model) -> int | None:
        """Give the most tokens of one row that a model reads at once; None where there is no limit, or no tokens.

        The model may be an outline.
        """
        return None

    def pieces(self, example: Example, model: Model) -> Sequence[Piece]:
        """Give an encoded row as the model sees it, for people to look at.

        Raises:
            ConfigurationError: its rows are no text.
        """
        raise ConfigurationError(
            f"the objective {type(self).__name__} has no rows of text that could be shown"
        )

    def generate(self, module: nn.Module, examples: Sequence[Example], model: Model) -> Columns:
        """Let the module write for examples, in one batch: the columns `text` and `reference`. Without gradients.

        A third, `settings`, may say in words how each text was written; it stands beside the scores.

        Raises:
            ConfigurationError: the objective has nothing written.
        """
        raise ConfigurationError(
            f"the objective {type(self).__name__} has nothing written that a metric of texts could score"
        )

    def predicted_logits(
        self, module: nn.Module, examples: Sequence[Example], model: Model
    ) -> Sequence[Logits]:
        """Give, for each example of one batch, the logits of all that is predicted of it. Without gradients.

        Raises:
            ConfigurationError: the objective predicts no distributions.
        """
        raise ConfigurationError(
            f"the objective {type(self).__name__} has no logits by which predictions could be compared"
        )

    def answer(self, model: Model, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Say what a model makes of prompts of a user's, each put as a row's is. Called without gradients.

        Raises:
            ConfigurationError: it makes nothing that could be shown.
        """
        raise ConfigurationError(f"the objective {type(self).__name__} gives no answers to prompts")

    def chat_template(self, model: Model) -> str | None:
        """Give the Jinja template by which a chat is put as rows are; None leaves the tokenizer its own."""
        return None


class Metric(Plugin):
    """A score of predictions."""

    higher_is_better: ClassVar[bool]
    generates: ClassVar[bool] = False
    """Whether it reads what the objective's `generate` gives besides."""
    compares: ClassVar[bool] = False
    """Whether it reads how far the predictions are from the untouched base's besides, by the objective's
    `predicted_logits`: the columns `predictions`, `agreeing`, `cross_entropy_against_base` and `kl_against_base`,
    each a count or a sum over the example's predictions."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """The columns of the objective's `predict` that it reads; empty where not said."""

    def prepare(self, columns: Columns) -> Columns:
        """Work out once what `value` and `count` read: columns of numbers, one element an example."""
        return columns

    @abstractmethod
    def value(self, columns: Columns) -> float:
        """Score what `prepare` gave; the interval comes from calling this on resampled examples."""

    def settings(self, columns: Columns) -> str:
        """Say how what it scores was written; empty where it scores nothing written."""
        return written_by(columns) if self.generates else ""

    def count(self, columns: Columns) -> int:
        """Count what the score is a mean over: the examples, unless a metric says otherwise."""
        return len(next(iter(columns.values())))


def written_by(columns: Columns) -> str:
    """Give the `settings` by which texts were written, each once."""
    return "; ".join(dict.fromkeys(each for each in columns.get("settings", ()) if each))


class TaskDataset(Plugin):
    """Rows for one task."""

    reads_outside = True

    @abstractmethod
    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Name the objective and give its parameters."""

    @abstractmethod
    def split(self, name: Split) -> Rows | None:
        """Give a split's rows, None where there is no such split.

        Raises:
            DataError: a file is missing, or a row is not what it must be (names file and line).
        """

    def metrics(self) -> tuple[str, ...]:
        """Name the metrics, the headline's first; none means those of the objective."""
        return ()

    def corpus(self) -> Sequence[str]:
        """Give passages of text in which its rows' answers can be looked up; none where it has none.

        Raises:
            DataError: a file is not what it must be.
        """
        return ()

    @property
    def streams(self) -> bool:
        """Whether its rows are too many for memory: what they are encoded to is then kept on disk, too."""
        return False


@dataclass(frozen=True)
class Task:
    """A dataset under its name in a trial, with what scores it."""

    name: str
    role: Literal["task", "probe"]
    dataset: TaskDataset
    objective: Objective
    metrics: Mapping[str, Metric]

    @property
    def metric(self) -> str:
        """The metric that the headline uses."""
        return next(iter(self.metrics))

    @property
    def compares(self) -> bool:
        """Whether a metric looks at the base's predictions, too."""
        return any(metric.compares for metric in self.metrics.values())


@dataclass(frozen=True)
class Blocks:
    """The blocks of a model that run one after another, and what comes before the first.

    Attributes:
        before: modules that have run when the first block starts, such as embeddings.
        chain: in the order of running; each takes the hidden states of the one before and gives its own,
            alone or first in a tuple, and treats every row by itself.
    """

    before: tuple[nn.Module, ...] = ()
    chain: tuple[nn.Module, ...] = ()

    def __len__(self) -> int:
        return len(self.chain)


@dataclass(frozen=True)
class Exported:
    """What an exported folder is.

    Attributes:
        library: what loads it, by the name that the Hub knows it by.
        base: the base's id on the Hub, or the folder that it came from.
        licence: the base's, as its own card names it; None where it names none.
        usage: Python that loads it, `{folder}` standing for where it lies.
        package: the package that the base comes with, by the name that the index knows it by; None of others.
    """

    library: str
    base: str
    licence: str | None
    usage: str
    package: str | None = None


class ModelFactory(Plugin):
    """Gives a pretrained base."""

    reads_outside = True

    @abstractmethod
    def load(self, objectives: Collection[Objective]) -> Model:
        """Load the base with its weights, as the objectives need it; every parameter may train.

        The same weights every time: what is initialised anew comes from a seed that is the same for all.

        Raises:
            ModelError: weights are missing, of a refused kind, or do not fit.
        """

    def variant(self, objectives: Collection[Objective]) -> str:
        """Say what of the objectives makes another model of the base, such as labels; without loading it."""
        return ""

    @abstractmethod
    def outline(self, objectives: Collection[Objective]) -> Model:
        """Give the same modules on the meta device, without memory, after checking that weights fit.

        Raises:
            ModelError: as `load`.
        """

    @abstractmethod
    def save(self, model: Model, folder: Path) -> None:
        """Write what training changed, as an adapter or as whole weights, into an empty folder."""

    def restore(self, saved: Path, objectives: Collection[Objective], weights: Path | None = None) -> Model:
        """Load the base with what `save` wrote put onto it.

        Args:
            saved: the folder that `save` filled.
            objectives: those that the base was loaded for.
            weights: those that a method put in the base's place before, as its `base_weights` says.

        Raises:
            ModelError: it does not fit the base.
        """
        raise ModelError(f"{type(self).__name__} cannot load again what it saved, for it has no restore")

    def export(
        self,
        saved: Path,
        folder: Path,
        objectives: Collection[Objective],
        merge: bool,
        dtype: str | None,
        weights: Path | None = None,
    ) -> Exported:
        """Write what `save` wrote so that the field's libraries load it without this project.

        Args:
            saved: the folder that `save` filled.
            folder: an empty one.
            objectives: those that the base was loaded for.
            merge: whether an adapter is put into the base's weights, which are written then.
            dtype: of what is written, such as `bfloat16`; as it was saved where not given.
            weights: as of `restore`.

        Raises:
            ModelError: no other library can load it, or it cannot be merged.
        """
        raise ModelError(f"{type(self).__name__} cannot be exported, for it has no export")

    def mixes_rows(self, layer: nn.Module) -> bool:
        """Tell a layer whose rows regard each other: in a cohort it runs over each trial's rows apart."""
        return False

    def blocks(self, module: nn.Module) -> Blocks:
        """Find the blocks in a module that came of this base: adapted, a copy, or an outline; may be none."""
        return Blocks()


def _not_in_a_stage(*given: Any) -> Any:
    raise RuntimeError("there are no training batches, and there is no training loss, before the first stage")


@dataclass(frozen=True)
class Context:
    """What a method may see. The core makes a new one wherever something in it changes.

    Attributes:
        model: the model, adapted once `adapt` has run.
        tasks: every task and probe of the trial, by name.
        stage: the current stage; index 0 before the first.
        step: optimizer steps taken in this stage.
        steps: optimizer steps that the stage will take.
        generator: the methods' source of randomness, which all of a trial share, fixed by seed and stage.
        frozen: names of the base's parameters that no method may train.
        outline: True where the modules are on the meta device: no values, only shapes.
        training_loss: the mean loss of the module on a training batch, as the trial computes it.
        training_batches: fresh batches of the given number of rows from the stage's data, one pass. A batch has
            `groups`, one an objective, each with its `objective`, its collated `batch` and its `rows`.
        make_batch: one such batch of rows that were kept.
        stages: all stages of the trial.
        rows: in `loss` and `penalty`, the rows of the batch.
    """

    model: Model
    tasks: Mapping[str, Task]
    stage: Stage
    step: int
    steps: int
    generator: torch.Generator
    frozen: frozenset[str]
    outline: bool
    training_loss: Callable[[nn.Module, Any], Loss] = _not_in_a_stage
    training_batches: Callable[[int], Iterator[Any]] = _not_in_a_stage
    make_batch: Callable[[Sequence[TrainingRow]], Any] = _not_in_a_stage
    stages: tuple[Stage, ...] = ()
    rows: Sequence[TrainingRow] = ()


StackedOperation: TypeAlias = Callable[[Tensor, Tensor, Sequence[slice]], Tensor]
"""Given a layer's input, its base's output and each trial's rows of both, the output with all additions."""


class Method(Plugin):
    """One ingredient of how a model is adapted; a trial composes several.

    Every hook does nothing by default and costs nothing where it is not overridden. Values come in and
    go out: a method does not reach into the trainer and does not know another method's name.
    """

    stores: ClassVar[str] = "nothing"
    """What it keeps between stages."""
    trains: ClassVar[bool] = True
    """Whether parameters are to train; a trial whose methods all say no is scored after each stage as it is."""
    changes_base: bool = False
    """Whether the adapted model predicts something else than the base before it is trained."""
    anchored: bool = True
    """Whether its penalty is 0 when a stage after the first begins, because it holds to what is there then."""
    keeps_batches: bool = False
    """Whether it keeps rows of the training batches that it sees: where several processes train a trial, each
    sees its own rows alone, and such a method is refused."""
    cohort_fields: ClassVar[frozenset[str]] = frozenset()
    """Parameters in which trials may differ and still train in one forward pass.

    A method that names some only puts layers around layers of the base in `adapt`, draws random numbers from
    the context's generator alone, and shares no state between its instances. None keeps its trials alone.
    """

    def frozen(self, model: Model) -> Collection[str]:
        """Name the base's parameters that must stay as they are; no method trains or adapts them."""
        return ()

    def adapt(self, model: Model, context: Context) -> nn.Module:
        """Insert adapters or wrap, once; give the module to train. May be called on an outline."""
        return model.module

    def base_weights(self) -> Path | None:
        """Name the folder of whole weights that `adapt` puts in the base's place; None where it keeps the base's.

        What is saved of a trial, such as an adapter, is put onto these again.
        """
        return None

    @classmethod
    def stack(cls, layers: Sequence[nn.Module]) -> StackedOperation | None:
        """Give one operation for layers that `adapt` put in the place of one layer of the base.

        Each is another trial's, and the operation gets each one's rows, which may be none. It may write
        into the base's output. None leaves them to be called one by one.
        """
        return None

    def training_data(
        self, stage: Stage, data: Mixture, seen: Mapping[str, Rows], context: Context
    ) -> Mixture:
        """Shape a stage's data; `seen` holds the training rows of the tasks of earlier stages."""
        return data

    def evaluation_data(self, task: Task, data: Rows, context: Context) -> Rows:
        """Rewrite the rows that a task is evaluated on, such as retrieved passages in the prompt."""
        return data

    def parameter_groups(self, module: nn.Module, context: Context) -> list[dict[str, Any]] | None:
        """Give the optimizer's parameter groups; None leaves them to the others or the default.

        A group may have a `scale`, which multiplies the trial's learning rate.
        """
        return None

    def begin_stage(self, stage: Stage, context: Context) -> None:
        """Act before a stage trains: copy a teacher, set anchors, add an adapter."""

    def loss(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        """Replace the task's loss; at most one method of a trial may override this."""
        return None

    def penalty(self, module: nn.Module, batch: Batch, outputs: Any, context: Context) -> Loss | None:
        """Give a term that is added to the loss and logged on its own."""
        return None

    def after_backward(self, module: nn.Module, context: Context) -> None:
        """Change gradients before clipping and the optimizer's step."""

    def after_step(self, module: nn.Module, context: Context) -> None:
        """Act after the optimizer's step."""

    def end_stage(self, stage: Stage, context: Context) -> None:
        """Close a stage: estimate importance, fill buffers, merge."""

    def before_evaluation(self, task: Task, context: Context) -> None:
        """Prepare the model to be evaluated on a task, such as switching to its adapter."""

    def variants(
        self, module: nn.Module, context: Context
    ) -> Mapping[str, Callable[[], AbstractContextManager[object]]]:
        """Name further models that come of the trained one without training, to be scored once all stages are over.

        The module is each of them while its context manager is open, and as it was afterwards.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Give what must survive a kill: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
