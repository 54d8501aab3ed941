"""BM25's scores are the formula's; passages stand before questions, where they are scored and where they train."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import myosotis
from myosotis.errors import ConfigurationError, DataError
from myosotis.interfaces import Component, Context, Method, ModelFactory, Row, Share, Stage, Task
from myosotis.ledger import StudyRecord, read_json
from myosotis.testing import MethodTestSuite
from myosotis_plugins.datasets.xquad import XQuAD
from myosotis_plugins.methods.bm25 import BM25
from myosotis_plugins.methods.retrieval import Retrieval, cut
from tests.plugins import tiny
from tests.test_stories import SHARED, needs_shared

PASSAGES = (
    "The rose is red, the violet is blue.",
    "A myosotis has five blue petals; a blue flower, and a small one.",
    "Sugar is sweet.",
    "Petals fall in autumn",
)


def formula(passages: Sequence[str], question: str, k1: float, b: float) -> np.ndarray:
    """Compute BM25's scores from the words' counts."""
    documents = [Counter(re.findall(r"\w\w+", passage.lower())) for passage in passages]
    lengths = np.array([sum(each.values()) for each in documents])
    total = np.zeros(len(passages))
    for word in re.findall(r"\w\w+", question.lower()):
        counts = np.array([each[word] for each in documents])
        having = (counts > 0).sum()
        idf = np.log(1 + (len(passages) - having + 0.5) / (having + 0.5))
        total += idf * counts / (counts + k1 * (1 - b + b * lengths / lengths.mean()))
    return total


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (0.1, 0), (2, 1)])
@pytest.mark.parametrize(
    "question", ["Which petals are blue?", "blue blue petals", "Is sugar sweet?", "Why?"]
)
def test_scores_are_the_formulas(question: str, k1: float, b: float) -> None:
    expected = formula(PASSAGES, question, k1, b)
    np.testing.assert_allclose(BM25(PASSAGES, k1, b).scores(question), expected, rtol=1e-5, atol=1e-7)


def test_a_hand_worked_score() -> None:
    # Of 2 passages, 1 has "ab": idf = ln(1 + 1.5 / 1.5). It stands there twice, in 2 words; the mean is 3 words.
    expected = np.log(2) * 2 / (2 + 1.5 * (0.25 + 0.75 * 2 / 3))
    assert BM25(["ab ab", "cd ef gh ij"], 1.5, 0.75).scores("ab") == pytest.approx([expected, 0], rel=1e-6)


def test_the_best_are_those_that_share_words_and_equal_ones_keep_their_order() -> None:
    index = BM25([*PASSAGES, "Sugar is sweet."], 1.5, 0.75)
    assert index.best("Are blue petals found?", 9) == [PASSAGES[1], PASSAGES[3], PASSAGES[0]]
    assert index.best("Sugar!", 1) == [PASSAGES[2]]
    assert index.best("Why?", 3) == []


@needs_shared
def test_of_published_questions_most_have_their_own_paragraph_first() -> None:
    folder = SHARED / "data" / "xquad"
    passages = XQuAD(path=str(folder)).corpus()
    numbers = [json.loads(line)["pid"] for line in (folder / "corpus_en.jsonl").open(encoding="utf-8")]
    asked = [json.loads(line) for line in (folder / "qa_en.jsonl").open(encoding="utf-8")][::10]
    assert len(passages) == len(numbers) == 240
    index = BM25(passages, 1.5, 0.75)
    firsts = []
    for row in asked:
        expected = formula(passages, row["question"], 1.5, 0.75)
        np.testing.assert_allclose(index.scores(row["question"]), expected, rtol=1e-4, atol=1e-5)
        firsts.append(numbers[int(expected.argmax())] == row["pid"])
        assert index.best(row["question"], 1) == [passages[int(expected.argmax())]]
    assert np.mean(firsts) > 0.85


# Rows

ROWS: Sequence[Row] = [
    {"prompt": "Which petals are blue?", "response": "five"},
    {"prompt": "Is sugar sweet?", "response": "sweet"},
    {"prompt": "Why?", "response": "so"},
]


def asking(
    rows: Sequence[Row] = ROWS, corpus: Sequence[str] = PASSAGES, objective: str = "instruction"
) -> tiny.Questions:
    return tiny.Questions(rows, corpus, objective)


def task(name: str = "flowers", dataset: tiny.Questions | None = None) -> Task:
    return tiny.question_task(name, dataset or asking())


def context(*tasks: Task) -> Context:
    return tiny.context(tiny.model(), tasks={each.name: each for each in tasks})


def evaluated(method: Retrieval, of: Task) -> list[Any]:
    rows = of.dataset.split("test")
    assert rows is not None
    found = method.evaluation_data(of, rows, context(of))
    return [found[number] for number in range(len(found))]


def test_passages_stand_before_a_question_the_best_last() -> None:
    found = evaluated(Retrieval(passages=2), task())
    assert found == [
        {"prompt": f"{PASSAGES[3]}\n\n{PASSAGES[1]}\n\nWhich petals are blue?", "response": "five"},
        {"prompt": f"{PASSAGES[0]}\n\n{PASSAGES[2]}\n\nIs sugar sweet?", "response": "sweet"},
        ROWS[2],
    ]


def test_the_template_takes_braces_as_they_are() -> None:
    rows = [{"prompt": "sugar {passages}", "response": "y"}]
    found = evaluated(Retrieval(template="{question} {x}: {passages}"), task(dataset=asking(rows)))
    assert found[0]["prompt"] == "sugar {passages} {x}: Sugar is sweet."


def test_a_conversations_first_question_gets_them() -> None:
    texts = ["Be short.", "sugar?", "a", "petals?", "b"]
    roles = ["system", "user", "assistant", "user", "assistant"]
    row = {"messages": [{"role": a, "content": b} for a, b in zip(roles, texts, strict=True)]}
    [found] = evaluated(Retrieval(), task(dataset=asking([row])))
    assert [each["content"] for each in found["messages"]] == [
        "Be short.",
        "Sugar is sweet.\n\nsugar?",
        *("a", "petals?", "b"),
    ]


def test_a_source_gets_them() -> None:
    rows = [{"source": "sugar", "target": "x"}]
    [found] = evaluated(Retrieval(), task(dataset=asking(rows, objective="sequence_to_sequence")))
    assert found == {"source": "Sugar is sweet.\n\nsugar", "target": "x"}


def test_passages_are_cut_into_pieces() -> None:
    assert cut("a b c d e", 2) == ["a b", "c d", "e"]
    assert cut("a  b", None) == ["a  b"]
    [first, *_] = evaluated(Retrieval(words=4), task())
    assert first["prompt"] == "blue petals; a blue\n\nWhich petals are blue?"


def test_training_rows_get_them_too_and_what_asks_nothing_stays() -> None:
    asks, poem, closed = task(), tiny.text_task("poem", tiny.POEM), task("closed", asking(corpus=()))
    here = context(asks, poem, closed)
    given = [each.dataset.split("train") or [] for each in (asks, poem, closed)]
    mixture = tuple(
        Component(each.name, rows, Share(0.3, 0.4))
        for each, rows in zip((asks, poem, closed), given, strict=True)
    )
    method = Retrieval()
    first, *others = method.training_data(Stage(1, {}), mixture, {}, here)
    assert [first.rows[number] for number in range(3)] == evaluated(method, asks)
    assert (first.task, first.share) == ("flowers", Share(0.3, 0.4))
    assert [each.rows for each in others] == given[1:]
    assert method.evaluation_data(poem, given[1], here) is given[1]


def test_a_file_of_passages_is_for_every_task_that_asks(tmp_path: Path) -> None:
    lines, text = tmp_path / "passages.jsonl", tmp_path / "passages.txt"
    lines.write_text("".join(json.dumps({"text": each}) + "\n" for each in PASSAGES))
    text.write_text("\n\n".join(PASSAGES))
    own = evaluated(Retrieval(), task())
    for path in (lines, text):
        method = Retrieval(corpus=str(path))
        assert evaluated(method, task(dataset=asking(corpus=()))) == own
        assert method.fingerprint()
    lines.write_text('{"text": "a"}\n{"body": "b"}\n')
    with pytest.raises(DataError, match=r"passages.jsonl:2: a passage must have a text, but has body"):
        evaluated(Retrieval(corpus=str(lines)), task())


# What does not go


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passages": 0}, r"passages and words must be at least 1, but got 0 and None"),
        ({"words": 0}, r"passages and words must be at least 1, but got 1 and 0"),
        ({"template": "{question}"}, r"template must contain \{passages\} and \{question\}"),
        ({"k1": -1}, r"k1 must be at least 0, and b from 0 to 1, but got -1 and 0.75"),
        ({"b": 1.5}, r"k1 must be at least 0, and b from 0 to 1, but got 1.5 and 1.5"),
        ({"corpus": "nowhere.jsonl"}, r"nowhere.jsonl"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Retrieval(**options)


def test_without_bm25s_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("myosotis_plugins.methods.retrieval.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"not installed; pip install 'myosotis\[retrieval\]'"):
        Retrieval()


@pytest.mark.parametrize("of", [tiny.text_task("poem", tiny.POEM), task("closed", asking(corpus=()))])
def test_nothing_to_look_up_is_refused(of: Task) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"with passages to look up, but {of.name} has none; give method"
    ):
        Retrieval().adapt(tiny.model(), context(of))


# Trials


class TestRetrieval(MethodTestSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, llama_folder: Path) -> None:
        self.folder = llama_folder

    def make(self) -> Method:
        return Retrieval()

    def model(self) -> ModelFactory:
        return tiny.factory(self.folder)

    def tasks(self) -> Mapping[str, Task]:
        more = [{"prompt": "In autumn?", "response": "petals"}, {"prompt": "blue?", "response": "sky"}]
        return {"flowers": task(), "seasons": task("seasons", asking(more))}

    def quantized(self) -> tuple[ModelFactory, Mapping[str, Task]]:
        return tiny.factory(self.folder, "8bit"), self.tasks()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama_folder: Path) -> Path:
    monkeypatch.setenv(
        "MYOSOTIS_PLUGINS",
        ",".join(
            f"myosotis_plugins.{name}"
            for name in (
                *("datasets.file", "methods.lora", "methods.retrieval", "models.huggingface"),
                *("metrics.language", "objectives.instruction", "objectives.language_modeling"),
            )
        ),
    )
    (tmp_path / "flowers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "passages.txt").write_text("\n\n".join(PASSAGES))
    (tmp_path / "asked.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in evaluated(Retrieval(), task()))
    )
    (tmp_path / "llama").symlink_to(llama_folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study(file: str, *overrides: str) -> StudyRecord:
    return myosotis.run(
        [
            *("model=huggingface", "model.path=llama", "dataset=[]", "+dataset@dataset.flowers=file"),
            *(f"dataset.flowers.train={file}", f"dataset.flowers.test={file}"),
            *("dataset.flowers.objective=instruction", "dataset.flowers.template=plain", "probe=[]"),
            "dataset.flowers.length=128",
            *("trainer.max_steps=3", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "logger=none"),
            *("evaluation.resamples=100", "hydra.launcher.workers=1"),
            *overrides,
        ]
    )


def scores(record: StudyRecord) -> dict[int, float]:
    rows = record.scores[record.scores.metric == "cross_entropy"]
    return dict(zip(rows.stage, rows.value, strict=True))


def test_alone_it_scores_the_base_with_passages_and_trains_nothing(home: Path) -> None:
    record = study("flowers.jsonl", "method=[retrieval]", "method.retrieval.corpus=passages.txt")
    by_hand = scores(study("asked.jsonl", "method=[]", "curriculum=stages", "curriculum.stages=[]"))
    [trial] = record.trials.itertuples()
    found = scores(record)
    assert found[1] == by_hand[0]
    assert found[0] != found[1]
    assert trial.learned == pytest.approx(found[0] - found[1])
    assert trial.trainable_parameters == 0
    folder = record.folder / trial.trial
    assert read_json(folder / "manifest.json")["cost"]["steps"] == 0
    assert not (folder / "adapter").exists()
    told = "of 3 questions of flowers, 66.7 % have their answer in the 1 passages"
    assert told in (folder / "log.txt").read_text()


def test_beside_an_adapter_it_is_training_on_rows_with_passages(home: Path) -> None:
    record = study("flowers.jsonl", "method=[lora,retrieval]", "method.retrieval.corpus=passages.txt")
    by_hand = study("asked.jsonl", "method=[lora]")
    assert scores(record)[1] == scores(by_hand)[1]
    losses = [
        [json.loads(line)["loss"] for line in (each.folder / each.trials.trial[0] / "metrics.jsonl").open()]
        for each in (record, by_hand)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


def test_several_numbers_of_passages_train_together(home: Path) -> None:
    def of(size: int, name: str) -> StudyRecord:
        passages = ["method.retrieval.corpus=passages.txt", "method.retrieval.passages=1,2"]
        grouped = [f"hydra.launcher.cohort={size}", f"study={name}", "force=true"]
        return study("flowers.jsonl", "method=[lora,retrieval]", *passages, *grouped)

    together, alone = of(2, "together"), of(1, "alone")
    found, expected = (sorted(each.scores.value) for each in (together, alone))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert len(read_json(together.folder / together.trials.trial[0] / "manifest.json")["cohort"]) == 2


def test_examples_in_a_prompt_have_passages_too(home: Path) -> None:
    shown = "evaluation.shots=1"
    found = scores(
        study("flowers.jsonl", "method=[retrieval]", "method.retrieval.corpus=passages.txt", shown)
    )
    by_hand = scores(study("asked.jsonl", "method=[]", "curriculum=stages", "curriculum.stages=[]", shown))
    assert found[1] == by_hand[0]
