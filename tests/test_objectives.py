"""Whole studies of every objective, on tiny models of every shape."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import myosotis
from myosotis.errors import ConfigurationError
from myosotis.ledger import StudyRecord
from tests.plugins.encoders import FOLDERS

NUMBERS = range(60)
DATA: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "parity": [{"text": f"the number {n}", "label": "even" if n % 2 == 0 else "odd"} for n in NUMBERS],
    "size": [{"text": f"the number {n}", "label": "small" if n < 30 else "large"} for n in NUMBERS],
    "tags": [{"tokens": ["go", "to", f"x{n}"], "tags": ["O", "O", "B-place"]} for n in NUMBERS],
    "copy": [{"source": f"say {n}", "target": str(n)} for n in NUMBERS],
    "sums": [{"prompt": f"after {n}?", "response": f"{n + 1}"} for n in NUMBERS],
    "text": [{"text": f"a line of {n} and {n + 1} and so on for a while"} for n in NUMBERS],
}
OBJECTIVES = {
    "parity": "classification",
    "size": "classification",
    "tags": "token_classification",
    "copy": "sequence_to_sequence",
    "sums": "instruction",
    "text": "language_modeling",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objectives")
    for kind, save in FOLDERS.items():
        save(folder / kind)
    for name, rows in DATA.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def overrides_of(model: str, tasks: Sequence[str]) -> list[str]:
    data = [
        part
        for task in tasks
        for part in (
            f"+dataset@dataset.{task}=file",
            f"dataset.{task}.train={task}.jsonl",
            f"dataset.{task}.objective={OBJECTIVES[task]}",
            f"dataset.{task}.length=32",
        )
    ]
    return ["model=huggingface", f"model.path={model}", "dataset=[]", *data, "probe=[]"]


def study(model: str, tasks: Sequence[str], *overrides: str) -> StudyRecord:
    return myosotis.run(
        [
            *overrides_of(model, tasks),
            "trainer.max_steps=12",
            "trainer.batch_size=4",
            "trainer.accelerator=cpu",
            "optimizer.learning_rate=0.003",
            "logger=none",
            "evaluation.resamples=100",
            "hydra.launcher.workers=1",
            *overrides,
        ]
    )


@pytest.mark.parametrize(
    ("model", "task", "metric"),
    [
        ("bert", "parity", "accuracy"),
        ("t5", "copy", "cross_entropy"),
        ("llama", "copy", "cross_entropy"),
        ("distilbert", "tags", "entity_f1"),
        ("gpt2", "tags", "entity_f1"),
        ("distilbert", "text", "cross_entropy"),
        ("llama", "sums", "cross_entropy"),
    ],
)
def test_a_study_runs_with_full_lora_and_frozen_blocks(model: str, task: str, metric: str) -> None:
    record = study(
        model,
        [task],
        "method=[full],[lora],[freeze]",
        "method.freeze.first=1",
        "trainer.max_steps=30",
        f"study={model}_{task}",
    )
    assert set(record.trials.status) == {"finished"}
    assert set(record.trials.metric) == {metric}
    for arm, trial in zip(record.trials.arm, record.trials.trial, strict=True):
        lines = (record.folder / trial / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss"] for line in lines]
        assert arm != "full" or losses[-1] < losses[0]
        scores = record.scores[record.scores.trial == trial].set_index(["stage", "metric"]).value
        smooth = "label_cross_entropy" if metric == "accuracy" else "cross_entropy"
        if metric != "entity_f1":
            assert scores[1, smooth] != scores[0, smooth]


def test_class_incremental_tasks_share_a_head_and_task_incremental_ones_do_not() -> None:
    shared = study("bert", ["parity", "size"], "method=[full]", "study=shared")
    own = study(
        "bert",
        ["parity", "size"],
        "method=[full]",
        "study=own",
        "dataset.parity.options={head_name: parity}",
        "dataset.size.options={head_name: size}",
    )
    for record, labels in ((shared, 4), (own, 2)):
        first = record.scores[(record.scores.stage == 0) & (record.scores.metric == "label_cross_entropy")]
        # A new head gives every label about the same.
        np.testing.assert_allclose(first.value, np.log(labels), atol=0.05)


@pytest.mark.parametrize(
    ("model", "task", "options"),
    [
        ("bert", "parity", []),
        ("gpt2", "tags", []),
        ("llama", "sums", ["dataset.sums.metrics=[cross_entropy,exact_match,chrf]"]),
        (
            "t5",
            "copy",
            [
                "dataset.copy.metrics=[cross_entropy,chrf]",
                "dataset.copy.options={target_length: 6, num_beams: 2, repetition_penalty: 1.2}",
            ],
        ),
    ],
)
def test_a_cohort_scores_as_each_trial_alone(model: str, task: str, options: list[str]) -> None:
    """Heads of labels and texts that are written too."""
    records = [
        study(
            model,
            [task],
            "method.lora.rank=2,4",
            "evaluation.limit=6",
            *options,
            f"study={model}_{task}_{cohort}",
            f"hydra.launcher.cohort={cohort}",
            "force=true",
        )
        for cohort in (1, 2)
    ]
    alone, together = (
        record.scores.sort_values(["trial", "stage", "metric"]).reset_index(drop=True) for record in records
    )
    manifest = json.loads((records[1].folder / str(together.trial[0]) / "manifest.json").read_text())
    assert len(manifest["cohort"]) == 2
    np.testing.assert_allclose(together.value, alone.value, atol=1e-4)
    written = alone[alone.metric.isin(["exact_match", "chrf"])]
    told = "greedy, at most " if task == "sums" else "2 beams, repetition_penalty 1.2, at most 6 new tokens"
    assert written.settings.str.startswith(told).all()
    assert (alone[~alone.metric.isin(["exact_match", "chrf"])].settings == "").all()


def test_scores_do_not_depend_on_the_batch_size() -> None:
    records = [
        study(
            "t5",
            ["copy"],
            "method=[full]",
            "dataset.copy.metrics=[cross_entropy,chrf,exact_match]",
            f"evaluation.batch_size={size}",
            f"study=batch_{size}",
            "force=true",
        )
        for size in (1, 5)
    ]
    np.testing.assert_allclose(records[0].scores.value, records[1].scores.value, rtol=1e-4)


# Looking at the data


@pytest.mark.parametrize(
    ("model", "task", "options", "expected"),
    [
        (
            "llama",
            "sums",
            {"template": "question"},
            [
                "template Q|u|e|s|t|i|o|n|:| ",
                "shown a|f|t|e|r| |0|?",
                "template ⏎|A|n|s|w|e|r|:| ",
                "trained on 1|</s>",
            ],
        ),
        ("t5", "copy", {}, ["template [CLS]", "shown s|a|y| |0", "template [SEP]|⏎", "trained on 0"]),
        (
            "gpt2",
            "parity",
            {},
            ["shown t|h|e| |n|u|m|b|e|r| |0", "template ⏎|L|a|b|e|l|:", "trained on  |e|v|e|n"],
        ),
        (
            "bert",
            "parity",
            {},
            ["template [CLS]", "shown t|h|e| |n|u|m|b|e|r| |0", "trained on [SEP]→even"],
        ),
        (
            "gpt2",
            "tags",
            {},
            ["trained on g→O", "shown o", "trained on t→O", "shown o", "trained on x→B-place", "shown 0"],
        ),
    ],
)
def test_rows_are_shown_as_the_model_sees_them(
    model: str, task: str, options: Mapping[str, str], expected: Sequence[str], call: Any
) -> None:
    chosen = [f"dataset.{task}.{key}={value}" for key, value in options.items()]
    arguments = [*overrides_of(model, [task]), *chosen, "logger=none"]
    code, printed, error = call("data", "show", "--rows", "1", *arguments)
    assert code == 0, error
    header, *rows = printed.splitlines()
    assert re.fullmatch(rf"{task}, row 1, \d+ tokens", header)
    assert [re.sub(r"^ +(shown|trained on|template)  ", r"\1 ", row) for row in rows] == list(expected)


def test_a_chat_template_s_tokens_are_marked(home: Path, call: Any, tmp_path: Path) -> None:
    model = tmp_path / "chat"
    shutil.copytree(home / "llama", model)
    says = "{% for each in messages %}[{{ each.role }}] {{ each.content }}\n{% endfor %}"
    asks = "{% if add_generation_prompt %}[assistant] {% endif %}"
    (model / "chat_template.jinja").write_text(says + asks)
    messages = ["be kind", "now?", "what for", "after you"]
    roles = ["system", "user", "assistant", "user", "assistant"]
    row = [{"role": role, "content": text} for role, text in zip(roles, [*messages, "see"], strict=True)]
    (home / "chat.jsonl").write_text(f"{json.dumps({'messages': row})}\n" * 20)
    chosen = ["dataset.sums.train=chat.jsonl", "dataset.sums.template=chat", "dataset.sums.length=128"]
    code, printed, error = call(
        "data", "show", "--rows", "1", *overrides_of(str(model), ["sums"]), *chosen, "logger=none"
    )
    assert code == 0, error
    rows = [re.sub(r"^ +(shown|trained on|template)  ", r"\1 ", row) for row in printed.splitlines()[1:]]
    assert [row.replace("|", "") for row in rows] == [
        "template [system] ",
        "shown be kind",
        "template ⏎[user] ",
        "shown now?",
        "template ⏎[assistant] ",
        "trained on what for⏎",
        "template [user] ",
        "shown after you",
        "template ⏎[assistant] ",
        "trained on see⏎</s>",
    ]


def test_what_is_no_option_or_split_is_refused(call: Any) -> None:
    assert (
        "--split must be one of train, validation, test, but got all"
        in call("data", "show", "--split", "all")[2]
    )
    assert "--row is not an option of data show" in call("data", "show", "--row", "3")[2]


def test_data_are_checked_through_the_command_line(home: Path, call: Any, tmp_path: Path) -> None:
    rows = [
        {"text": f"the number {n} is {'x' * (n // 2)}", "label": "even" if n % 2 == 0 else "odd"}
        for n in NUMBERS
    ]
    (home / "check.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    picture = tmp_path / "lengths.svg"
    arguments = [*overrides_of("bert", ["parity"]), "dataset.parity.train=check.jsonl", "logger=none"]
    code, printed, error = call("data", "check", *arguments, "--picture", str(picture))
    assert code == 0, error
    # [CLS], 14 to 15 letters and digits, up to 29 crosses, [SEP]; 32 are kept.
    expected = [len(f"[the number {n} is {'x' * (n // 2)}]") for n in NUMBERS]
    train = [count for number, count in enumerate([*expected, expected[0]]) if number % 10 != 9]
    row = next(line for line in printed.splitlines() if line.strip().startswith("parity (train) "))
    lost = sum(max(0, count - 32) for count in train)
    assert row.split()[2:] == [
        str(len(train)),
        f"{sum(train):,}",
        str(sorted(train)[len(train) // 2]),
        str(max(train)),
        str(lost),
        "2",
    ]
    assert f"are longer than length and lose {lost} tokens" in printed
    assert "raise length, by 32 at most" in printed  # the model has 64 positions
    assert "parity (train): even 31, odd 24\n" in printed
    assert "parity (train): 1 row (1.8%) is there before; 'the number 0 is' 2 times" in printed
    assert "parity (test)" in picture.read_text()


def test_a_picture_of_another_kind_is_refused(call: Any) -> None:
    code, _, error = call(
        "data", "check", *overrides_of("bert", ["parity"]), "logger=none", "--picture", "a.gif"
    )
    assert code == 2
    assert "--picture must end in .svg or .png, but got a.gif" in error


@pytest.mark.parametrize(
    ("model", "task", "length", "most"),
    [
        ("bert", "parity", 64, 64),
        ("gpt2", "parity", 128, 128),
        ("gpt2", "tags", 128, 128),
        ("gpt2", "sums", 128, 128),
        ("gpt2", "text", 128, 128),
        ("gpt2", "copy", 64, 128),  # with a target of 64
        ("t5", "copy", 2000, None),  # has no table of positions
    ],
)
def test_a_length_beyond_the_positions_of_the_model_is_refused_before_anything_runs(
    model: str, task: str, length: int, most: int | None, call: Any
) -> None:
    arguments = [*overrides_of(model, [task]), "logger=none", "trainer.max_steps=1"]
    code, _, error = call("data", "check", *arguments, f"dataset.{task}.length={length}")
    assert code == 0, error
    if most is not None:
        message = (
            rf"dataset\.{task}: a row must have at most the {most} tokens that the model has positions for, but "
            rf"length lets it have {most + 1}"
        )
        with pytest.raises(ConfigurationError, match=message):
            myosotis.run([*arguments, f"dataset.{task}.length={length + 1}", "study=long"])
        assert not Path("studies/long").exists()


def test_a_metric_of_texts_is_refused_where_none_are_written() -> None:
    with pytest.raises(
        ConfigurationError, match=r"dataset.parity: metrics must be of what classification gives"
    ):
        study("bert", ["parity"], "dataset.parity.metrics=[accuracy,bleu]", "study=unwritten")
    assert not Path("studies/unwritten").exists()
