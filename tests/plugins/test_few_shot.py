"""Examples in a prompt are the text that a person would write, token by token, and change nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import myosotis
from myosotis.errors import ConfigurationError, DataError
from myosotis.evaluation import choose_runtime, predict
from myosotis.interfaces import Model, Objective, Row
from myosotis.ledger import StudyRecord
from myosotis.schema import EvaluationConfig
from myosotis.testing import make_task
from myosotis.testing.rehearsal import registry_without_plugins
from myosotis.workspace import Workspace
from myosotis_plugins.models.nano import Nano
from myosotis_plugins.objectives.classification import Classification
from myosotis_plugins.objectives.instruction import Instruction
from myosotis_plugins.objectives.language_modeling import LanguageModeling
from myosotis_plugins.objectives.sequence_to_sequence import SequenceToSequence
from tests.plugins import tiny
from tests.plugins.encoders import loaded

SUMS = [{"prompt": f"{n}+1?", "response": str(n + 1)} for n in range(12)]
PARITY = [{"text": f"{n}", "label": "odd" if n % 2 else "even"} for n in range(12)]
COPIES = [{"source": f"say {n}", "target": f"{n}"} for n in range(12)]
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def ids(text: str) -> list[int]:
    found: list[int] = tiny.tokenizer()(text)["input_ids"]
    return found


# The text


@pytest.mark.parametrize(
    ("objective", "rows", "text"),
    [
        (Instruction(template="plain"), SUMS, "1+1?\n2\n\n2+1?\n3\n\n7+1?\n"),
        (
            Instruction(template="question"),
            SUMS,
            "Question: 1+1?\nAnswer: 2\n\nQuestion: 2+1?\nAnswer: 3\n\nQuestion: 7+1?\nAnswer: ",
        ),
        (
            Classification(("even", "odd"), template="{text} is"),
            PARITY,
            "1 is odd\n\n2 is even\n\n7 is",
        ),
        (SequenceToSequence(), COPIES, "say 1\n1\n\nsay 2\n2\n\nsay 7\n"),
    ],
)
def test_a_prompt_is_the_text_written_by_hand(objective: Objective, rows: Sequence[Row], text: str) -> None:
    model = tiny.model()
    [example] = objective.encode_with_shots([rows[7]], [rows[1], rows[2]], model)
    [alone] = objective.encode([rows[7]], model)
    assert example["prompt"] == ids(text)
    # What is answered, and scored, is as without.
    assert {**example, "prompt": None} == {**alone, "prompt": None}


def test_examples_are_tokenized_as_rows_are_and_a_text_begins_once() -> None:
    model = Nano().load([Instruction()])
    tokenizer = model.tokenizer
    objective = Instruction(template="question")
    [example] = objective.encode_with_shots(SUMS[7:8], SUMS[1:3], model)

    def plain(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    begun = tokenizer("Question: 1+1?\nAnswer: ")["input_ids"]
    rest = ["2\n\n", "Question: 2+1?\nAnswer: ", "3\n\n", "Question: 7+1?\nAnswer: "]
    assert begun[0] == tokenizer.bos_token_id
    assert example["prompt"] == [*begun, *(token for text in rest for token in plain(text))]
    [copied] = SequenceToSequence().encode_with_shots(COPIES[7:8], COPIES[1:3], model)
    assert copied["prompt"].count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(copied["prompt"][1:]) == "say 1\n1\n\nsay 2\n2\n\nsay 7\n"


def test_in_a_chat_they_are_earlier_turns_behind_the_system_message() -> None:
    model = tiny.model()
    model.tokenizer.chat_template = CHAT
    row = {
        "messages": [
            {"role": "system", "content": "Add."},
            {"role": "user", "content": "7+1?"},
            {"role": "assistant", "content": "8"},
            {"role": "user", "content": "And 1?"},
            {"role": "assistant", "content": "9"},
        ]
    }
    [example] = Instruction(template="chat").encode_with_shots([row], SUMS[1:3], model)
    end = [model.tokenizer.eos_token_id]
    shown = "<system>Add.<user>1+1?<assistant>2</s><user>2+1?<assistant>3</s><user>7+1?<assistant>"
    assert example["prompt"] == ids(shown)
    assert example["response"] == [*ids("8"), *end, *ids("<user>And 1?<assistant>"), *ids("9"), *end]
    assert [label for label in example["labels"] if label >= 0] == [*ids("8"), *end, *ids("9"), *end]


def test_a_row_is_cut_as_ever_and_examples_are_not() -> None:
    model = tiny.model()
    [example] = Instruction(template="plain", length=5).encode_with_shots(SUMS[7:8], SUMS[1:2], model)
    assert example["prompt"] == ids("1+1?\n2\n\n1?\n")


# What does not go


def test_what_does_not_fit_into_the_model_is_refused_with_its_row() -> None:
    objective, model = Instruction(template="plain"), tiny.model()
    shots = [*SUMS[2:9], *SUMS[2:9], SUMS[2]]  # 8 tokens each
    widest = {"prompt": "000+1?", "response": "0"}  # 9 with the end of line, the answer and its end
    [example] = objective.encode_with_shots([SUMS[0]], shots, model)
    assert objective.tokens(example) == 15 * 8 + 7
    [_, exactly] = objective.encode_with_shots([SUMS[0], {**widest, "prompt": "00+1?"}], shots, model)
    assert objective.tokens(exactly) == 128
    with pytest.raises(
        DataError, match=r"row 2: a row must fit into the model's 128 tokens .* have 129; lower"
    ):
        objective.encode_with_shots([SUMS[0], widest], shots, model)


def test_what_has_no_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"shots must be 0 .* such as LanguageModeling, but got 1"):
        LanguageModeling().encode_with_shots([{"text": "a"}], [{"text": "b"}], tiny.model())
    head = Classification(("even", "odd"), by="head")
    with pytest.raises(ConfigurationError, match=r"shots must be 0 where a head .* choose by=likelihood"):
        head.encode_with_shots(PARITY[:1], PARITY[1:2], loaded("bert", tmp_path, head))
    both = SequenceToSequence()
    with pytest.raises(ConfigurationError, match=r"shots must be 0 where an encoder .* take a decoder"):
        both.encode_with_shots(COPIES[:1], COPIES[1:2], loaded("t5", tmp_path, both))


# Studies


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama_folder: Path) -> Path:
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    (tmp_path / "lines.txt").write_text("a line of text\n" * 30)
    (tmp_path / "llama").symlink_to(llama_folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study(*overrides: str) -> StudyRecord:
    return myosotis.run(
        [
            "model=huggingface",
            "model.path=llama",
            "dataset=[]",
            "+dataset@dataset.sums=file",
            "dataset.sums.train=sums.jsonl",
            "dataset.sums.test=sums.jsonl",
            "dataset.sums.objective=instruction",
            "dataset.sums.template=plain",
            "dataset.sums.length=128",
            "dataset.sums.metrics=[cross_entropy,exact_match]",
            "dataset.sums.options={max_new_tokens: 4}",
            "probe=[]",
            "trainer.max_steps=2",
            "trainer.accelerator=cpu",
            "logger=none",
            "evaluation.resamples=100",
            "hydra.launcher.workers=1",
            *overrides,
        ]
    )


def rows(record: StudyRecord) -> Mapping[tuple[int, str], float]:
    return {(row.stage, row.metric): row.value for row in record.scores.itertuples()}  # type: ignore[misc]


def test_scores_with_examples_do_not_depend_on_the_batch_size(home: Path) -> None:
    still = ["curriculum.stages=[{}]", "curriculum=stages", "evaluation.shots=3"]
    small, large = (rows(study(*still, f"evaluation.batch_size={size}")) for size in (1, 12))
    assert {key: pytest.approx(value, rel=1e-5) for key, value in small.items()} == large
    # The base's row is that of the same prompts.
    assert small[0, "cross_entropy"] == pytest.approx(small[1, "cross_entropy"], rel=1e-5)
    assert small[0, "cross_entropy"] != rows(study("evaluation.shots=0"))[0, "cross_entropy"]


def test_early_stopping_looks_at_prompts_without(home: Path) -> None:
    stopping = ["trainer.early_stopping.patience=1", "trainer.early_stopping.every_n_steps=1"]
    found = []
    for shots in (0, 3):
        record = study(*stopping, "trainer.early_stopping.split=test", f"evaluation.shots={shots}")
        log = (record.folder / record.trials.trial[0] / "metrics.jsonl").read_text().splitlines()
        found.append([json.loads(line)["held_out_loss"] for line in log if "held_out_loss" in line])
    assert found[0] == found[1] != []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.shots=-1"], r"evaluation.shots must be at least 0, but got -1"),
        (["evaluation.shots=1", "evaluation.split=train"], r"split must not be train where evaluation.shots"),
        (
            ["evaluation.shots=13"],
            r"dataset.sums: evaluation.shots must be at most the 12 training rows of sums",
        ),
        (
            ["evaluation.shots=12", "dataset.sums.template=instruction"],
            r"dataset.sums: row 1: a row must fit into the model's 128 tokens",
        ),
        (
            ["evaluation.shots=1", "+probe@probe.lines=file", "probe.lines.test=lines.txt"],
            r"probe.lines: .*must have a train split, but it has none.* evaluation.shots takes",
        ),
        (
            [
                "evaluation.shots=1",
                "+probe@probe.lines=file",
                "probe.lines.train=lines.txt",
                "probe.lines.length=4",
            ],
            r"probe.lines: evaluation.shots must be 0 where an objective has no prompt, such as LanguageModeling",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    home: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        study(*overrides)
    assert not list(home.glob("studies/*/*/config.yaml"))


# Which rows


def test_the_same_rows_are_drawn_for_all_and_fewer_are_the_first_of_more() -> None:
    class Numbers(tiny.Texts):
        def split(self, name: Any) -> Any:
            return SUMS

    task = make_task("sums", Numbers([]), Instruction(template="plain"), {})

    def drawn(count: int) -> list[Row]:
        return Workspace(Path(), registry_without_plugins()).shots(
            task, "sums", EvaluationConfig(shots=count)
        )

    assert drawn(0) == []
    assert drawn(2) == drawn(5)[:2]
    assert len({row["prompt"] for row in drawn(12)}) == 12
    assert drawn(12) != SUMS


def test_the_base_row_lies_by_its_shots(tmp_path: Path) -> None:
    runtime, workspace = choose_runtime("cpu", "32-true"), Workspace(tmp_path, registry_without_plugins())
    paths = {
        shots: workspace.base_path("task", "model", EvaluationConfig(shots=shots), runtime)
        for shots in (0, 2, 3)
    }
    assert len(set(paths.values())) == 3
    again = replace(EvaluationConfig(shots=2), batch_size=1)
    assert workspace.base_path("task", "model", again, runtime) == paths[2]


def test_predictions_do_not_depend_on_the_batch_size() -> None:
    model: Model = tiny.model()
    for objective, of in ((Classification(("even", "odd")), PARITY), (SequenceToSequence(), COPIES)):
        task = make_task("task", tiny.Texts([]), objective, {})
        examples = objective.encode_with_shots(of[4:], of[:3], model)
        one, all_ = (
            predict(task, examples, model, size, choose_runtime("cpu", "32-true"), None) for size in (1, 8)
        )
        np.testing.assert_allclose(one["loss"], all_["loss"], rtol=1e-4)
