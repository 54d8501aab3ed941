"""The same study in processes of their own: the same bits, W&B's files, no secrets, no costly imports."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from myosotis.ledger import StudyRecord, read_json, read_scores
from tests.core.commands import python, run_at, toy

SECRET = "0123456789abcdef0123456789abcdef01234567"
COSTLY = ("lightning", "transformers", "peft", "wandb", "altair", "bitsandbytes", "datasets")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some trials of the toy study in another process, logged to W&B: its study's folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    command = toy("method=[plain],[pull]", "logger=wandb", "logger.tags=[toy]", "study=logged")
    environment = {
        "WANDB_MODE": "offline",
        "WANDB_API_KEY": SECRET,
        "PYTHONHASHSEED": "7",
        "HF_TOKEN": SECRET,
    }
    done = python(["-m", "myosotis", "run", *command], folder, environment)
    assert done.returncode == 0, done.stderr
    assert "wandb sync" in done.stdout
    assert "studies/logged/report.html" in done.stdout
    return folder / "studies" / "logged"


def trials(folder: Path) -> list[Path]:
    return [path.parent for path in sorted(folder.glob("*/result.json"))]


def test_same_seed_in_another_process_gives_the_same_bits(elsewhere: Path, study: StudyRecord) -> None:
    assert len(trials(elsewhere)) == 2
    for trial in trials(elsewhere):
        for name in ("scores.jsonl", "metrics.jsonl", "adapter/model.safetensors"):
            assert (trial / name).read_bytes() == (study.folder / trial.name / name).read_bytes()
        for name in ("learned", "forgotten", "forgotten_base"):
            assert (
                read_json(trial / "result.json")[name]
                == read_json(study.folder / trial.name / "result.json")[name]
            )


def test_secret_reaches_no_file(elsewhere: Path) -> None:
    files = [path for path in elsewhere.parent.glob("**/*") if path.is_file()]
    assert len(files) > 15
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


# W&B's own file


@dataclass
class Offline:
    """What an offline run holds."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


def chunks(path: Path) -> Iterator[bytes]:
    """Read the log's records: blocks of 32 KiB; a record is whole (1) or first, middle, last (2, 3, 4)."""
    content = path.read_bytes()
    assert content[:6] == b":W&B\xe1\xbe"
    position, parts = 7, b""
    while position + 7 <= len(content):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        if kind == 0:
            return
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def offline(trial: Path) -> Offline:
    from wandb.proto import wandb_internal_pb2

    [path] = trial.glob("wandb/offline-run-*/*.wandb")
    found = Offline()
    for chunk in chunks(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(chunk)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            found.config |= values(record.run.config.update)
        elif kind == "config":
            found.config |= values(record.config.update)
        elif kind == "history":
            found.history.append(values(record.history.item))
        elif kind == "summary":
            found.summary |= values(record.summary.update)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_run_is_the_trial_in_the_group_of_its_study(elsewhere: Path) -> None:
    for trial in trials(elsewhere):
        run = offline(trial).run
        assert (run.run_id, run.run_group, run.project) == (trial.name, "logged", "myosotis")
        assert list(run.tags) == ["toy"]
        assert offline(trial).exit_code == 0
    assert {offline(trial).run.display_name for trial in trials(elsewhere)} == {"plain seed=0", "pull seed=0"}


def test_configuration_is_that_of_the_run_folder(elsewhere: Path) -> None:
    for trial in trials(elsewhere):
        written = yaml.safe_load((trial / "config.yaml").read_text())
        logged = {key: value for key, value in offline(trial).config.items() if key != "_wandb"}
        assert logged == written
        assert written["optimizer"]["learning_rate"] == 0.02
        assert "logger" not in written


def test_history_is_that_of_the_run_folder(elsewhere: Path) -> None:
    for trial in trials(elsewhere):
        history = [
            {key: value for key, value in row.items() if not key.startswith("_")}
            for row in offline(trial).history
            if "loss" in row
        ]
        assert history == [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]


def test_summary_is_that_of_the_result(elsewhere: Path) -> None:
    for trial in trials(elsewhere):
        summary, result = offline(trial).summary, read_json(trial / "result.json")
        for name in ("learned", "forgotten", "forgotten_base", "trainable_parameters", "seconds", "tokens"):
            assert summary[name] == result[name], name


def test_score_matrix_is_a_table(elsewhere: Path) -> None:
    for trial in trials(elsewhere):
        [path] = trial.glob("wandb/offline-run-*/files/media/table/scores*.table.json")
        table = read_json(path)
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        assert rows == [vars(score) for score in read_scores(trial / "scores.jsonl")]


# What is imported when


IMPORTED = "print('imported', *[name for name in {names} if name in __import__('sys').modules])"


def test_rerun_of_a_finished_study_imports_nothing_costly(elsewhere: Path) -> None:
    command = toy("method=[plain],[pull]", "logger=wandb", "logger.tags=[toy]", "study=logged")
    script = f"import myosotis; record = myosotis.run({command!r}); print(len(record.trials)); "
    done = python(["-c", script + IMPORTED.format(names=COSTLY)], elsewhere.parents[1])
    assert done.stdout.splitlines() == ["2", "imported"], done.stderr


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--help"], [*COSTLY, "torch", "hydra", "numpy", "pandas"]),
        (["--version"], [*COSTLY, "torch", "hydra", "numpy", "pandas"]),
        (["plugins"], COSTLY),
        (["plugins", "show", "pull"], COSTLY),
    ],
    ids=" ".join,
)
def test_command_imports_nothing_costly(tmp_path: Path, arguments: list[str], names: list[str]) -> None:
    script = f"import atexit, sys; atexit.register(lambda: {IMPORTED.format(names=tuple(names))}); "
    script += f"sys.argv = ['myosotis', *{arguments}]; from myosotis.cli import main; main()"
    done = python(["-c", script], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported"


# Other loggers


def test_csv_logger_writes_the_same(tmp_path: Path) -> None:
    record = run_at(tmp_path, *toy("logger=csv", "trainer.log_every_n_steps=4", "study=table"))
    folder = record.folder / record.trials.trial[0]
    [path] = folder.glob("csv/**/metrics.csv")
    header, *lines = (line.split(",") for line in path.read_text().splitlines())
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [float(row["loss"]) for row in rows if row["loss"]] == [entry["loss"] for entry in logged]
    assert [int(row["step"]) for row in rows if row["loss"]] == [entry["total_step"] for entry in logged]
    [learned] = [float(row["learned"]) for row in rows if row["learned"]]
    assert learned == read_json(folder / "result.json")["learned"]


def test_any_lightning_logger_by_its_target(tmp_path: Path) -> None:
    logger = [
        "logger._target_=lightning.pytorch.loggers.CSVLogger",
        "logger.save_dir=own",
        "logger.name=mine",
    ]
    record = run_at(tmp_path, *toy(*(f"+{each}" for each in logger), "trainer.max_steps=1", "study=own"))
    assert record.trials.status.tolist() == ["finished"]
    assert len(list((tmp_path / "own" / "mine").glob("**/metrics.csv"))) == 1


def test_nan_headline_is_null_and_in_no_summary(tmp_path: Path) -> None:
    record = run_at(tmp_path, *toy("curriculum=joint", "trainer.max_steps=1", "study=joint"))
    assert math.isnan(record.trials.forgotten[0])
    assert read_json(record.folder / record.trials.trial[0] / "result.json")["forgotten"] is None
