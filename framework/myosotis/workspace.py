"""What the trials of one process share: rows, encoded examples, rows of the untouched base."""

from __future__ import annotations

import itertools
import logging
import pickle
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast, overload

import numpy as np

from myosotis import __version__
from myosotis.errors import ConfigurationError, DataError, StorageError
from myosotis.evaluation import Runtime, predict, score
from myosotis.interfaces import Example, Model, Objective, Row, Rows, Split, Task
from myosotis.ledger import Score, cache_folder, content_hash, read_json, score_from, write_json
from myosotis.locks import Lock
from myosotis.plugins import Registry
from myosotis.ranks import ALONE, Ranks
from myosotis.records import Records, write_records
from myosotis.resolve import TrialConfig, numbers
from myosotis.rows import Chosen, encoded, first, spread, streamed
from myosotis.schema import EvaluationConfig
from myosotis.seeds import derive_seed, random_state, restore_random_state, seed_everything

logger = logging.getLogger(__name__)

AUTO_EXAMPLES, AUTO_TOKENS = 200, 8_192
"""What `evaluation.limit=auto` takes of a task: the first that is reached."""
FIRST_ROWS = 64
"""Rows that are encoded at first to find so many."""


@dataclass
class Workspace:
    """Loads what trials share once a process, and rows of the base once for all studies.

    Attributes:
        studies: the folder of studies.
        registry: the plugins, for their observers.
    """

    studies: Path
    registry: Registry
    _rows: dict[tuple[str, str], Rows] = field(default_factory=dict)
    _examples: dict[tuple[str, str, str], Sequence[Example]] = field(default_factory=dict)
    _evaluated: dict[tuple[str, ...], Sequence[Example]] = field(default_factory=dict)
    _base: tuple[tuple[str, ...], Model] | None = None

    def base(self, config: TrialConfig, runtime: Runtime) -> Model:
        """Load a trial's untouched base where it rests; trials after it share its memory. Draws no random numbers.

        Raises:
            ModelError: it cannot be loaded.
        """
        key = (
            config.identities["model"],
            runtime.home.type,
            *sorted(str(task.dataset.objective()) for task in config.tasks.values()),
        )
        if self._base is None or self._base[0] != key:
            self._base = None  # two at once may be more than there is memory for
            # What a factory initialises anew is the same for every trial.
            state = random_state()
            seed_everything(derive_seed("base"))
            model = config.model.load(config.objectives)
            model.module.to(runtime.home)
            restore_random_state(state)
            self._base = (key, model)
        return self._base[1]

    def give_up_base(self) -> None:
        """Leave the base's memory to a trial that trains it; the next one loads it anew."""
        self._base = None

    def rows(self, task: Task, identity: str, split: str) -> Rows:
        """Give a task's rows.

        Raises:
            DataError: there is no such split, or it is empty.
        """
        key = (identity, split)
        if key not in self._rows:
            rows = task.dataset.split(cast(Split, split))
            if rows is None or len(rows) == 0:
                state = "has none" if rows is None else "is empty"
                raise DataError(
                    f"{task.role} {task.name} must have a {split} split, but it {state}; give it one, or "
                    "name another in evaluation.split, or for early stopping in trainer.early_stopping.split; "
                    "evaluation.shots takes its examples from train"
                )
            self._rows[key] = rows
        return self._rows[key]

    def examples(
        self, task: Task, identity: str, split: str, model: Model, model_identity: str
    ) -> Sequence[Example]:
        """Give a task's rows encoded for a model."""
        key = (identity, split, model_identity)
        if key not in self._examples:
            rows = self.rows(task, identity, split)
            self._examples[key] = (
                stored_examples(task, rows, model, split, key)
                if task.dataset.streams
                else encode(task, rows, model, split)
            )
        return self._examples[key]

    def evaluated(
        self,
        task: Task,
        identity: str,
        model: Model,
        model_identity: str,
        evaluation: EvaluationConfig,
    ) -> Sequence[Example]:
        """Give the examples that a task is scored on; the same ones for every trial."""
        chosen = (evaluation.rows, str(evaluation.limit), str(evaluation.shots))
        key = (identity, evaluation.split, model_identity, *chosen)
        if key not in self._evaluated:
            rows = self.rows(task, identity, evaluation.split)
            shots = self.shots(task, identity, evaluation)
            self._evaluated[key] = (
                evaluated_examples(task, rows, model, evaluation, shots)
                if shots or evaluation.limit is not None
                else self.examples(task, identity, evaluation.split, model, model_identity)
            )
        return self._evaluated[key]

    def shots(self, task: Task, identity: str, evaluation: EvaluationConfig) -> list[Row]:
        """Draw the training rows that a task's prompts show; the same ones for every trial.

        Those of fewer shots are the first of those of more.

        Raises:
            ConfigurationError: there are not so many.
        """
        if evaluation.shots == 0:
            return []
        rows = self.rows(task, identity, "train")
        if evaluation.shots > len(rows):
            raise ConfigurationError(
                f"evaluation.shots must be at most the {len(rows)} training rows of {task.name}, but got "
                f"{evaluation.shots}"
            )
        order = np.random.default_rng(derive_seed("shots")).permutation(len(rows))
        return [rows[index] for index in order[: evaluation.shots].tolist()]

    def base_path(
        self, identity: str, model_identity: str, evaluation: EvaluationConfig, runtime: Runtime
    ) -> Path:
        """Say where the untouched base's scores on a task lie."""
        settings = {
            key: value for key, value in numbers(evaluation).items() if key not in {"every", "batch_size"}
        }
        key = content_hash([identity, model_identity, settings, runtime.precision, runtime.device.type])
        return self.studies / ".base" / f"{key}.json"

    def base_scores(
        self,
        task: Task,
        identity: str,
        model: Model,
        model_identity: str,
        evaluation: EvaluationConfig,
        runtime: Runtime,
        ranks: Ranks = ALONE,
    ) -> list[Score]:
        """Give the untouched base's scores on a task, measured once for all studies.

        Of several processes that measure them together, the first is given them.
        """
        path = self.base_path(identity, model_identity, evaluation, runtime)

        def known() -> list[Score] | None:
            return ranks.agreed(_base_row(path, task.name) if ranks.first else None)

        found = known()
        if found is not None:
            return found
        # Studies that run at once would each measure it: one does, the others wait and read.
        lock = Lock(
            path.parent / ".locks" / f"{path.stem}.lock", f"the base's row on {task.name}", patience=-1
        )
        with lock if ranks.first else nullcontext():
            found = known()
            if found is not None:
                return found
            if ranks.first and path.is_file():
                logger.warning("%s was damaged; the base's row is measured again", path)
            examples = self.evaluated(task, identity, model, model_identity, evaluation)
            columns = predict(task, examples, model, evaluation.batch_size, runtime, model.module, ranks)
            if not ranks.first:
                return []
            scores = list(score(task, columns, 0, 0, evaluation.split, evaluation.resamples))
            write_json(path, [asdict(each) for each in scores])
            return scores


def place_of(task: Task) -> str:
    """Say where a task stands in the configuration."""
    return f"{'dataset' if task.role == 'task' else task.role}.{task.name}"


def _base_row(path: Path, task: str) -> list[Score] | None:
    """Read a row of the base, by whatever name its data went; None where it is to be measured."""
    if not path.is_file():
        return None
    try:
        return [replace(score_from(row), task=task) for row in read_json(path)] or None
    except (StorageError, TypeError, AttributeError):
        return None


def encode(task: Task, rows: Rows, model: Model, split: str, shots: Sequence[Row] = ()) -> Sequence[Example]:
    """Encode rows for a model, with the shots in their prompts where there are some.

    Raises:
        DataError: nothing comes out, or a row is not what the objective reads.
    """
    return _some(task, encoded(task.objective, rows, model, shots), rows, split)


def _some(task: Task, examples: Sequence[Example], rows: Rows, split: str) -> Sequence[Example]:
    if len(examples) == 0:
        raise DataError(
            f"{task.role} {task.name}: its {len(rows)} {split} rows are too short to give one example; "
            f"give more text, or a smaller dataset.{task.name}.length"
        )
    return examples


def stored_examples(
    task: Task, rows: Rows, model: Model, split: str, key: tuple[str, ...]
) -> Sequence[Example]:
    """Encode rows for a model into a file of the cache, once for all studies.

    Raises:
        DataError: as `encode`.
        StorageError: the disk is full.
    """
    path = cache_folder() / "examples" / content_hash([__version__, key], size=16)
    if not path.is_file():
        # Processes of one study would each encode them: one does, the others wait.
        with Lock(path.parent / ".locks" / f"{path.name}.lock", f"the examples of {task.name}", patience=-1):
            if not path.is_file():
                examples = streamed(task.objective, rows, model)
                write_records(path, (pickle.dumps(each, pickle.HIGHEST_PROTOCOL) for each in examples))
    return _some(task, StoredExamples(path), rows, split)


class StoredExamples(Sequence[Example]):
    """Examples in a file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._records = Records(path)

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [pickle.loads(each) for each in self._records[index]]
        example: Example = pickle.loads(self._records[index])
        return example


def evaluated_examples(
    task: Task, rows: Rows, model: Model, evaluation: EvaluationConfig, shots: Sequence[Row] = ()
) -> Sequence[Example]:
    """Encode the rows that a task is evaluated on, no more of them than that takes.

    Raises:
        DataError: nothing comes out.
    """
    limit, split = evaluation.limit, evaluation.split
    if evaluation.rows == "spread":
        few = _spread(rows, limit) if task.objective.row_by_row else rows
        return chosen(task.objective, encode(task, few, model, split, shots), evaluation)
    if limit is not None and task.objective.in_order:
        count = limit if isinstance(limit, int) else FIRST_ROWS
        while count < len(rows):
            examples = encoded(task.objective, first(rows, count), model, shots)
            if (taken := evaluated_count(task.objective, examples, limit)) < len(examples):
                return limited(examples, taken)
            count *= 4
    return chosen(task.objective, encode(task, rows, model, split, shots), evaluation)


def chosen(
    objective: Objective, examples: Sequence[Example], evaluation: EvaluationConfig
) -> Sequence[Example]:
    """Give those of a split's examples that are scored."""
    if evaluation.rows == "first":
        return limited(examples, evaluated_count(objective, examples, evaluation.limit))
    few = limited(_spread(examples, evaluation.limit), len(examples))
    if evaluation.limit != "auto":
        return few
    # By the mean, for the first ones may be the short ones.
    tokens = sum(map(objective.scored_tokens, few))
    return limited(spread(few, -(-len(few) * AUTO_TOKENS // tokens)), len(few))


def evaluated_rows(rows: Rows, count: int, evaluation: EvaluationConfig) -> Chosen:
    """Give the rows of so many examples that are scored, where each row gives one."""
    return (
        first(rows, count) if evaluation.rows == "first" else spread(_spread(rows, evaluation.limit), count)
    )


def _spread(rows: Rows, limit: int | str | None) -> Chosen:
    return spread(rows, AUTO_EXAMPLES if limit == "auto" else len(rows) if limit is None else int(limit))


def evaluated_count(objective: Objective, examples: Sequence[Example], limit: int | str | None) -> int:
    """Count the first examples that a limit takes: `auto` is so many, or as many as it takes to have the tokens."""
    if limit is None or isinstance(limit, int):
        return len(examples) if limit is None else min(limit, len(examples))
    most = min(AUTO_EXAMPLES, len(examples))
    tokens = itertools.accumulate(objective.scored_tokens(examples[index]) for index in range(most))
    return next((count for count, total in enumerate(tokens, 1) if total >= AUTO_TOKENS), most)


def limited(examples: Rows, count: int) -> Sequence[Example]:
    """Give the first examples."""
    return [examples[index] for index in range(min(count, len(examples)))]
