"""Tasks of EleutherAI's lm-evaluation-harness."""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import io
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, DataError, in_one_line
from myosotis.interfaces import Row, Rows, Split, TaskDataset, file_hash
from myosotis_plugins.datasets.readers import check_file
from myosotis_plugins.metrics.lm_eval import METRICS, PREFIX

MYOSOTIS_API = 1

SEED = 1234
"""What the harness draws the examples in its prompts with."""


class LMEval(TaskDataset):
    """Tasks of EleutherAI's lm-evaluation-harness, built and scored by it: `pip install 'myosotis[eval]'`.

    They are scored only, as a probe. Several tasks are one score over all their documents; for a score each, give
    each a name, as in `+probe@probe.arc=lm_eval 'probe.arc.tasks=[arc_easy]'`. `evaluation.limit=null` takes all
    documents, as the harness does. A task with several filters is scored behind its first.

    Args:
        tasks: names of tasks, of groups or of tags, as the harness lists them; their data come from the Hub.
        task_file: a task in a YAML file, as the harness describes it, such as one whose data are local.
        num_fewshot: examples in each prompt; the task's own number where not given.
        limit: the most documents of each task.
        metrics: the harness's, the headline's first; the tasks' own where not given.
    """

    paper = "Biderman et al. 2024, Lessons from the Trenches on Reproducible Evaluation, arXiv:2405.14782"
    locations = frozenset({"task_file"})

    def __init__(
        self,
        tasks: list[str] | None = None,
        task_file: str | None = None,
        num_fewshot: int | None = None,
        limit: int | None = None,
        metrics: list[str] | None = None,
    ) -> None:
        if bool(tasks) == bool(task_file):
            raise ConfigurationError(
                "either tasks or task_file must say what is asked, but "
                f"{'both do' if tasks else 'neither does'}; give tasks=[NAME,…], or task_file=FILE"
            )
        if (num_fewshot is not None and num_fewshot < 0) or (limit is not None and limit < 1):
            raise ConfigurationError(
                f"num_fewshot must be at least 0 and limit at least 1, but got {num_fewshot} and {limit}"
            )
        unknown = set(metrics or ()) - set(METRICS)
        if unknown:
            raise ConfigurationError(
                f"metrics must be of {', '.join(METRICS)}, but got {', '.join(sorted(unknown))}"
            )
        self.tasks = tuple(tasks or ())
        self.task_file = None if task_file is None else Path(task_file)
        self.num_fewshot = num_fewshot
        self.limit = limit
        self.chosen_metrics = metrics

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose the harness's requests."""
        return "lm_eval", {}

    def metrics(self) -> tuple[str, ...]:
        """Name the chosen metrics, or those that all tasks have.

        Raises:
            DataError: a task has no such metric, or makes its score of the documents' in a way of its own.
        """
        own = {name: task.aggregation() for name, task in self._loaded().items()}
        from lm_eval.api.registry import get_metric_aggregation  # only now is it known to be there

        first = next(iter(own.values()))
        shared = [each for each in first if each in METRICS and all(each in other for other in own.values())]
        chosen = self.chosen_metrics or shared
        for name, aggregation in own.items():
            if not chosen or not set(chosen) <= set(aggregation):
                raise DataError(
                    f"{name} must have the metrics {', '.join(chosen or METRICS)}, but has {', '.join(aggregation)}"
                )
            odd = [each for each in chosen if aggregation[each] is not get_metric_aggregation(each)]
            if odd:
                raise DataError(
                    f"{name} must aggregate {', '.join(odd)} as the harness does by itself, but does otherwise; "
                    "take the aggregation out of the file, or choose other metrics"
                )
        return tuple(f"{PREFIX}{each}" for each in chosen)

    def split(self, name: Split) -> Rows | None:
        """Give the documents that the harness scores, with their requests, as the test split.

        Raises:
            DataError: there is no such task, or its data cannot be read.
        """
        return self._rows() if name == "test" else None

    def _rows(self) -> list[Row]:
        documents = []
        for task in self._loaded().values():
            with _as_by_itself():
                task.build_all_requests(limit=self.limit)
            requests = groupby(task.instances, key=lambda each: each.doc_id)
            documents.append([_row(task, sorted(each, key=lambda one: one.idx)) for _, each in requests])
        # In turns, so that the first documents are those of all tasks.
        return [row for turn in zip_longest(*documents) for row in turn if row is not None]

    def fingerprint(self) -> str:
        """Hash what is asked: documents, prompts, and the harness's version."""
        found = hashlib.sha256(version("lm-eval").encode())
        if self.task_file is not None:
            check_file(self.task_file)
            found.update(file_hash(_files(self.task_file)).encode())
        for row in self._rows():
            found.update(repr([row["doc"], [each.args for each in row["requests"]]]).encode())
        return found.hexdigest()

    def _loaded(self) -> Mapping[str, Any]:
        if find_spec("lm_eval") is None:
            raise ConfigurationError(
                "lm_eval must have the package lm-eval, but it is not installed; pip install 'myosotis[eval]'"
            )
        if self.task_file is not None:
            check_file(self.task_file)
            return _tasks_of_file(self.task_file, file_hash(_files(self.task_file)), self.num_fewshot)
        return _tasks_by_name(self.tasks, self.num_fewshot)


def _row(task: Any, requests: Sequence[Any]) -> Row:
    from myosotis_plugins.objectives.lm_eval_tokens import decoding_of

    for each in requests:
        if each.request_type == "generate_until":
            decoding_of(task.task_name, each.args[1])
    return {"task": task, "doc": requests[0].doc, "requests": requests}


@functools.cache
def _tasks_by_name(names: tuple[str, ...], num_fewshot: int | None) -> Mapping[str, Any]:
    """Load tasks once a process: to look through all that there are takes a while."""
    from lm_eval.tasks import TaskManager

    with _as_by_itself():
        manager = TaskManager()
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=5, cutoff=0.5)
            meant = f" Did you mean {' or '.join(near)}?" if near else ""
            raise DataError(
                f"the harness has no task named {name!r}.{meant} `lm-eval ls tasks` lists all of them"
            )
    return _load(manager, list(names), num_fewshot)


def _files(path: Path) -> list[Path]:
    """Find what a task's file is made of: itself, the functions that lie beside it, and data that are local."""
    from lm_eval.tasks._yaml_loader import load_yaml

    with _explained(str(path)):
        config = load_yaml(path, resolve_func=False)
    named = _texts([config.get("dataset_path"), config.get("dataset_kwargs")])
    return [path, *sorted(path.parent.glob("*.py")), *(Path(each) for each in named if Path(each).is_file())]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)


@functools.cache
def _tasks_of_file(path: Path, content: str, num_fewshot: int | None) -> Mapping[str, Any]:
    from lm_eval.tasks import TaskManager

    with _as_by_itself():
        manager = TaskManager(include_defaults=False)
    return _load(manager, [str(path)], num_fewshot)


def _load(manager: Any, what: list[str], num_fewshot: int | None) -> Mapping[str, Any]:
    """Load tasks with their data, and give them the examples in their prompts as the harness does."""
    with _explained(", ".join(what)), _as_by_itself():
        tasks: Mapping[str, Any] = manager.load(what)["tasks"]
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise DataError(
                f"{name} must ask for texts and run none of them as code, but does not; leave it out"
            )
        given = task.get_config("num_fewshot")
        if num_fewshot is not None and given != 0:  # a task that says 0 means it
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif given is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
    return tasks


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Say of whatever is raised what cannot be loaded, and what to do."""
    try:
        yield
    except Exception as error:  # a task's own code may raise anything, and so may the Hub's client
        raise DataError(
            f"{what} must be of the harness's kind and have its data, but cannot be loaded: "
            f"{in_one_line(error)}. Without a network, give task_file=FILE with local data: "
            "dataset_path: json, and dataset_kwargs: {data_files: {test: FILE}}"
        ) from error


@contextlib.contextmanager
def _as_by_itself() -> Iterator[None]:
    """Run the harness with the seeds that it sets itself, without its bars and its log."""
    logger, states = logging.getLogger("lm_eval"), (random.getstate(), np.random.get_state())
    level = logger.level
    logger.setLevel(logging.ERROR)
    random.seed(0)
    np.random.seed(SEED)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        logger.setLevel(level)


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the dataset."""
    return {"lm_eval": LMEval}
