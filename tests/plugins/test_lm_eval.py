"""Probes of the lm-evaluation-harness: the same scores as the harness gives by itself."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

import myosotis
from myosotis.errors import ConfigurationError, DataError
from myosotis.evaluation import choose_runtime, predict, score
from myosotis.interfaces import Columns, Metric, Model, Task, TaskDataset
from myosotis.plugins import load_registry
from myosotis.testing import MetricTestSuite, make_task
from myosotis_plugins.datasets.lm_eval import LMEval
from myosotis_plugins.metrics.lm_eval import METRICS
from myosotis_plugins.objectives.causal import objects
from myosotis_plugins.objectives.lm_eval import LMEval as Requests
from tests.plugins import tiny
from tests.test_stories import MODEL, needs_shared

COLOURS = ("red", "blue as the sky", "green", "black as the night", "white")
CHOICE = {
    "task": "colours",
    "output_type": "multiple_choice",
    "doc_to_text": "What colour is a {{thing}}?\nAnswer:",
    "doc_to_target": "{{answer}}",
    "doc_to_choice": "{{choices}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}, {"metric": "mcc"}],
}
LAST_WORD = {
    "task": "last_word",
    "output_type": "loglikelihood",
    "doc_to_text": "",
    "doc_to_target": "{{thing}} of {{choices[answer]}}",
    "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
}
WHOLE = {
    "task": "whole",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [
        {"metric": "word_perplexity"},
        {"metric": "byte_perplexity"},
        {"metric": "bits_per_byte"},
    ],
}
WRITING = {
    "task": "writing",
    "output_type": "generate_until",
    "doc_to_text": "A {{thing}} is",
    "doc_to_target": "{{written}}",
    "generation_kwargs": {"until": ["e"], "max_gen_toks": 6, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}
KINDS: Mapping[str, Mapping[str, Any]] = {
    each["task"]: each  # type: ignore[misc]
    for each in (CHOICE, LAST_WORD, WHOLE, WRITING)
}


def documents() -> list[dict[str, Any]]:
    """Make documents with two to four answers, of several lengths."""
    made = []
    for number in range(12):
        chosen = [COLOURS[(number + place) % len(COLOURS)] for place in range(2 + number % 3)]
        made.append(
            {
                "thing": "rose thorn " * (number % 4) + "brook",
                "choices": chosen,
                "answer": number % len(chosen),
                "text": " ".join(f"line {n * n} of song {number}" for n in range(1 + 2 * number)),
                "written": "",
            }
        )
    return made


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Give a function that writes a task's file, with its data beside it."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def write(kind: str, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
        data = tmp_path / f"{kind}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows or documents()))
        local = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
        path = tmp_path / f"{kind}.yaml"
        path.write_text(yaml.safe_dump({**KINDS[kind], **local, "test_split": "test", **changes}))
        return path

    return write


def made(architecture: str = "llama") -> Model:
    """Make a model whose texts end, to itself too, with the tokenizer's last token."""
    model = tiny.model(tiny.MODELS[architecture]())
    model.module.generation_config.eos_token_id = model.tokenizer.eos_token_id
    return model


def task_of(dataset: TaskDataset) -> Task:
    registry = load_registry()
    metrics: dict[str, Any] = {each: registry.find("metric", each).cls() for each in dataset.metrics()}
    return make_task("harness", dataset, Requests(), metrics)


def predicted(dataset: LMEval, model: Model, batch_size: int = 5) -> Columns:
    task = task_of(dataset)
    rows = dataset.split("test")
    assert rows is not None
    examples = task.objective.encode(rows, model)
    return predict(task, examples, model, batch_size, choose_runtime("cpu", "32-true"), base=None)


def scores_of(dataset: LMEval, columns: Columns) -> dict[str, float]:
    found = score(task_of(dataset), columns, 0, 0, "test", 100)
    return {each.metric.removeprefix("lm_eval_"): each.value for each in found}


def by_itself(path: Path, model: Model, **settings: Any) -> tuple[dict[str, float], list[Any]]:
    """Give the harness's own scores, and its answers to the requests."""
    language_model = HFLM(pretrained=model.module, tokenizer=model.tokenizer, batch_size=3)
    manager = TaskManager(include_defaults=False)
    found = simple_evaluate(
        language_model, tasks=[str(path)], task_manager=manager, bootstrap_iters=0, **settings
    )
    assert found is not None
    [(name, results)] = found["results"].items()
    numbers = {
        key.removesuffix(",none"): value
        for key, value in results.items()
        if key.endswith(",none") and "stderr" not in key
    }
    samples = sorted(found["samples"][name], key=lambda each: each["doc_id"])
    return numbers, [[answer[0] for answer in each["resps"]] for each in samples]


def check_same(path: Path, model: Model, other: Model, **settings: Any) -> dict[str, float]:
    """Hold scores and answers against the harness's own, with a model that was loaded apart."""
    dataset = LMEval(task_file=str(path), **settings)
    columns = predicted(dataset, model)
    expected, answers = by_itself(path, other, **settings)
    found = scores_of(dataset, columns)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = 1e-9 if "perplexity" not in name and "bits" not in name else 1e-5 * value
        assert found[name] == pytest.approx(value, abs=tolerance), name
    for own, theirs in zip(columns["answers"], answers, strict=True):
        for number, answer in enumerate(theirs):
            if isinstance(answer, tuple):
                assert own[number][0] == pytest.approx(answer[0], abs=1e-5 * max(1, abs(answer[0])))
                assert own[number][1] == answer[1]
            elif isinstance(answer, float):
                assert own[number][0] == pytest.approx(answer, rel=1e-5)
            else:
                assert own[number] == answer
    return found


# The harness's own numbers


@pytest.mark.parametrize("architecture", tiny.MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_harness(kind: str, architecture: str, file: Callable[..., Path]) -> None:
    rows = documents()
    if kind == "writing":  # what one of two writes is wanted
        columns = predicted(LMEval(task_file=str(file(kind, rows))), made(architecture))
        for number, answer in enumerate(columns["answers"]):
            rows[number]["written"] = answer[0] if number % 2 else "something else"
    found = check_same(file(kind, rows), made(architecture), made(architecture))
    if kind == "writing":
        assert found == {"exact_match": 0.5}
    if kind == "colours":
        assert 0 < found["acc"] < 1


def test_examples_in_the_prompt_and_a_limit_are_those_of_the_harness(file: Callable[..., Path]) -> None:
    path = file("colours", fewshot_split="test")
    check_same(path, tiny.model(), tiny.model(), num_fewshot=2, limit=7)
    rows = LMEval(task_file=str(path), num_fewshot=2, limit=7).split("test")
    assert rows is not None
    assert len(rows) == 7
    assert rows[0]["requests"][0].args[0].count("Answer:") == 3


@needs_shared
@pytest.mark.parametrize("kind", ["colours", "whole"])
def test_a_real_models_scores_are_those_of_the_harness(kind: str, file: Callable[..., Path]) -> None:
    """Its tokenizer puts a token of its own before every text."""
    models = [
        Model(AutoModelForCausalLM.from_pretrained(MODEL).eval(), AutoTokenizer.from_pretrained(MODEL))
        for _ in range(2)
    ]
    check_same(file(kind), models[0], models[1])


@pytest.mark.parametrize("kind", KINDS)
def test_answers_do_not_depend_on_the_batch(kind: str, file: Callable[..., Path]) -> None:
    dataset = LMEval(task_file=str(file(kind)))
    alone, together = (predicted(dataset, tiny.model(), size) for size in (1, 12))
    assert scores_of(dataset, alone) == pytest.approx(scores_of(dataset, together), rel=1e-5)
    for own, other in zip(alone["answers"], together["answers"], strict=True):
        assert own.keys() == other.keys()
        for number, answer in own.items():
            same = other[number] if isinstance(answer, str) else pytest.approx(other[number], rel=1e-5)
            assert answer == same


def test_of_several_filters_the_first_is_taken(file: Callable[..., Path]) -> None:
    filters = [
        {"name": name, "filter": [{"function": function}, {"function": "take_first"}]}
        for name, function in (("upper", "uppercase"), ("lower", "lowercase"))
    ]
    rows = documents()
    plain = predicted(LMEval(task_file=str(file("writing", rows))), tiny.model())
    for row, answer in zip(rows, plain["answers"], strict=True):
        row["written"] = answer[0].upper()
    dataset = LMEval(task_file=str(file("writing", rows, filter_list=filters)))
    assert scores_of(dataset, predicted(dataset, tiny.model())) == {"exact_match": 1.0}


# In studies


def study(path: Path, *more: str) -> Any:
    return myosotis.run(
        [
            "model=huggingface",
            "model.path=model",
            "dataset=[]",
            "+dataset@dataset.poem=file",
            "dataset.poem.train=poem.txt",
            "dataset.poem.length=16",
            "probe=[lm_eval]",
            f"probe.lm_eval.task_file='{path}'",
            "trainer.max_steps=8",
            "trainer.accelerator=cpu",
            "optimizer.learning_rate=0.05",
            "evaluation.resamples=100",
            "logger=none",
            "hydra.launcher.workers=1",
            *more,
        ]
    )


def test_trials_are_probed_alone_and_together(
    file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 0 is the harness's score of the base, the last row its score of what was saved."""
    monkeypatch.chdir(tmp_path)
    tiny.save(tiny.llama(), tmp_path / "model")
    (tmp_path / "poem.txt").write_text("\n".join(tiny.POEM * 4))
    path = file("colours")
    full = study(path, "method=[full]", "study=full")
    together = study(path, "method=[lora]", "seed=0,1", "hydra.launcher.cohort=2", "study=together")
    apart = study(path, "method=[lora]", "seed=0,1", "hydra.launcher.cohort=1", "study=apart", "force=true")
    [trial] = full.trials.trial
    saved = AutoModelForCausalLM.from_pretrained(full.folder / trial / "adapter").eval()
    for stage, module in ((0, tiny.llama()), (1, saved)):
        expected, _ = by_itself(path, tiny.model(module))
        rows = full.scores[(full.scores.stage == stage) & (full.scores.task == "lm_eval")]
        assert dict(zip(rows.metric, rows.value, strict=True)) == pytest.approx(
            {f"lm_eval_{name}": value for name, value in expected.items()}, abs=1e-9
        )
        assert set(rows.n) == {12}
        assert (rows.low <= rows.value).all()
        assert (rows.value <= rows.high).all()
    columns = ["seed", "stage", "metric", "value"]
    assert len(together.scores) == len(apart.scores) > 0
    assert together.scores[columns].equals(apart.scores[columns])


def test_a_probe_cannot_be_trained_on(
    file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.save(tiny.llama(), tmp_path / "model")
    with pytest.raises(ConfigurationError, match="lm_eval must have a train split, but it has none"):
        myosotis.run(
            [
                "model=huggingface",
                "model.path=model",
                "dataset=[lm_eval]",
                f"dataset.lm_eval.task_file='{file('colours')}'",
                "probe=[]",
                "logger=none",
            ]
        )
    with pytest.raises(ConfigurationError, match="are scored only; name them under probe"):
        Requests().collate([], tiny.model())


# Names, files and what is wrong with them


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the harness know the tasks of a folder alone: to look through its own takes a while."""
    few = functools.partial(TaskManager, include_defaults=False, include_path=str(tmp_path))
    monkeypatch.setattr("lm_eval.tasks.TaskManager", few)


@pytest.mark.usefixtures("known")
def test_tasks_by_name_take_turns(file: Callable[..., Path]) -> None:
    file("colours")
    file("last_word")
    dataset = LMEval(tasks=["colours", "last_word"], limit=3)
    rows = dataset.split("test")
    assert rows is not None
    assert [row["task"].task_name for row in rows] == ["colours", "last_word"] * 3
    assert dataset.metrics() == ("lm_eval_acc",)  # the one that both have
    assert scores_of(dataset, predicted(dataset, tiny.model())).keys() == {"acc"}


@pytest.mark.usefixtures("known")
def test_an_unknown_task_is_refused_with_the_nearest_names(file: Callable[..., Path]) -> None:
    file("colours")
    with pytest.raises(DataError, match=r"no task named 'colors'. Did you mean colours\?"):
        LMEval(tasks=["colors"]).metrics()


@pytest.mark.usefixtures("known")
def test_data_that_cannot_be_had_are_refused_with_what_to_do(file: Callable[..., Path]) -> None:
    file("colours", dataset_kwargs={"data_files": {"test": "not_here.jsonl"}})
    with pytest.raises(
        DataError, match=r"colours must .* cannot be loaded: FileNotFoundError: .*not_here.*task_file=FILE"
    ):
        LMEval(tasks=["colours"]).metrics()


def test_a_fingerprint_is_that_of_what_is_asked(file: Callable[..., Path]) -> None:
    rows = documents()
    first = LMEval(task_file=str(file("colours", rows))).fingerprint()
    assert LMEval(task_file=str(file("colours", rows))).fingerprint() == first
    rows[3]["answer"] = 1 - rows[3]["answer"]
    assert LMEval(task_file=str(file("colours", rows))).fingerprint() != first


def test_the_harness_leaves_random_states_as_they_were(file: Callable[..., Path]) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    LMEval(task_file=str(file("colours"))).split("test")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # type: ignore[index]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "either tasks or task_file must say what is asked, but neither does"),
        ({"tasks": ["a"], "task_file": "b"}, "but both do"),
        ({"tasks": ["a"], "limit": 0}, "limit at least 1, but got None and 0"),
        ({"tasks": ["a"], "metrics": ["accuracy"]}, "metrics must be of acc, acc_norm, .* but got accuracy"),
    ],
)
def test_parameters_that_cannot_be_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        LMEval(**settings)


def ask(dataset: LMEval) -> None:
    """Ask for all that a study asks of a dataset."""
    dataset.metrics()
    dataset.split("test")


def test_a_task_that_cannot_be_scored_here_is_refused(file: Callable[..., Path], tmp_path: Path) -> None:
    def refused(told: str, path: Path, **settings: Any) -> None:
        dataset = LMEval(task_file=str(path), **settings)
        with pytest.raises(DataError, match=told):
            ask(dataset)

    refused("there is no file named 'none.yaml'", tmp_path / "none.yaml")
    refused(
        "colours must have the metrics bits_per_byte, but has acc", file("colours"), metrics=["bits_per_byte"]
    )
    median = [{"metric": "acc", "aggregation": "median", "higher_is_better": True}]
    refused("colours must aggregate acc as the harness does", file("colours", metric_list=median))
    sampled = {"do_sample": True, "temperature": 1.0, "until": []}
    refused("likeliest token each time", file("writing", generation_kwargs=sampled))
    warm = {"temperature": 0.7, "until": []}
    refused("likeliest token each time", file("writing", generation_kwargs=warm))
    odd = {"length_penalty": 2.0, "until": []}
    refused(
        "generation_kwargs of .*num_beams.* but has length_penalty", file("writing", generation_kwargs=odd)
    )
    refused("writing must ask for texts and run none", file("writing", unsafe_code=True))


def test_the_settings_of_what_is_written_stand_in_the_score_rows(file: Callable[..., Path]) -> None:
    def settings(path: Path) -> set[str]:
        dataset = LMEval(task_file=str(path))
        columns = predicted(dataset, made())
        return {each.settings for each in score(task_of(dataset), columns, 0, 0, "test", 100)}

    assert settings(file("writing")) == {"greedy, at most 6 new tokens, until 'e'"}
    asked = {"until": ["a", "\n"], "max_gen_toks": 4, "do_sample": False, "temperature": 0.9, "num_beams": 2}
    assert settings(file("writing", generation_kwargs=asked)) == {
        "2 beams, at most 4 new tokens, until 'a' or '\\n'"
    }
    assert settings(file("last_word")) == {""}


def test_what_a_task_asks_for_changes_what_is_written(file: Callable[..., Path]) -> None:
    def written(**changes: Any) -> list[Any]:
        asked = {"until": [], "max_gen_toks": 8, "do_sample": False, **changes}
        columns = predicted(LMEval(task_file=str(file("writing", generation_kwargs=asked))), made())
        return columns["answers"].tolist()

    assert written() != written(repetition_penalty=1.8)


def test_an_answer_that_the_model_cannot_see_is_refused(file: Callable[..., Path]) -> None:
    rows = [row | {"thing": "rose " * 40} for row in documents()]
    dataset = LMEval(task_file=str(file("last_word", rows)))
    with pytest.raises(DataError, match="must have 1 to 128 tokens for its likelihood, but has 2"):
        predicted(dataset, tiny.model())


# Metrics


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("acc", [1, 0, 1, 1], 0.75),
        ("exact_match", [1, 0, 0, 0], 0.25),
        ("perplexity", [-1.0, -3.0], np.exp(2)),
        ("word_perplexity", [(-6.0, 1), (-2.0, 3)], np.exp(2)),
        ("bits_per_byte", [(-6.0, 1), (-2.0, 3)], 2 / np.log(2)),
        ("f1", [(1, 1), (0, 1), (1, 1), (1, 0)], 2 / 3),
        ("mcc", [(1, 1), (0, 0), (1, 1), (0, 0)], 1.0),
    ],
)
def test_metrics_by_hand(name: str, column: list[Any], value: float) -> None:
    metric = METRICS[name]()
    prepared = metric.prepare({"scores": objects([{name: each} for each in column])})
    assert metric.value(prepared) == pytest.approx(value)
    assert metric.count(prepared) == len(column)


class TestHarnessMetric(MetricTestSuite):
    def make(self) -> Metric:
        return METRICS["byte_perplexity"]()

    def columns(self) -> Columns:
        return {
            "scores": objects([{"byte_perplexity": (-float(n), n % 3 + 1)} for n in range(5)]),
            "answers": objects([{}] * 5),
        }
