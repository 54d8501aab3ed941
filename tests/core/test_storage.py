"""What a disk can do to a file: full, read-only, out of descriptors, damaged."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from myosotis.errors import ConfigurationError, StorageError
from myosotis.ledger import Score, read_json, read_scores, write_scores, write_text
from myosotis.storage import check_writable, replacing, size, stored
from tests.core.commands import SETTING

SCORE = Score(1, 12, "right", "test", "hits", 0.5, 64, 0.4, 0.6)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "study.json"
    write_text(path, "old")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_replaces_the_one_before_it(old: Path) -> None:
    write_text(old, "new\n")
    assert old.read_bytes() == b"new\n"
    assert names(old.parent) == ["study.json"]
    assert old.stat().st_mode & 0o777 == 0o644


def test_full_disk_in_the_middle_of_a_file(old: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from myosotis.errors import StorageError
from myosotis.ledger import write_text
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_text(Path(sys.argv[1]), "x" * 1_000_000)
except StorageError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(old)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{old} must be written, but File too large (")
    assert "run the same command again: nothing finished is lost" in done.stdout
    assert old.read_text() == "old"
    assert names(old.parent) == ["study.json"]


def test_full_disk_says_what_is_free_and_what_to_do(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 12_345))  # type: ignore[attr-defined]
    with pytest.raises(StorageError) as caught:
        write_text(old, "new")
    assert str(caught.value) == (
        f"{old} must be written, but No space left on device (12.3 kB free in {old.parent}); free some space and "
        "run the same command again: nothing finished is lost"
    )
    assert old.read_text() == "old"
    assert names(old.parent) == ["study.json"]


def test_device_that_is_full(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="No space left on device"),
        stored(tmp_path / "file"),
        Path("/dev/full").open("w") as file,
    ):
        file.write("text")


@pytest.mark.parametrize("numbers", [10, 1_000_000])
def test_full_disk_under_torch(tmp_path: Path, numbers: int) -> None:
    path = tmp_path / "checkpoint.pt"
    with (
        pytest.raises(StorageError, match=r"checkpoint\.pt must be written, but No space left on device"),
        stored(path),
        Path("/dev/full").open("wb") as file,
    ):
        torch.save({"weight": torch.zeros(numbers)}, file)


def test_full_disk_under_safetensors(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from myosotis.errors import StorageError
from myosotis.storage import stored
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
path = Path(sys.argv[1])
try:
    with stored(path):
        save_file({"weight": torch.zeros(100_000)}, path)
except StorageError as error:
    print(error)
"""
    path = str(tmp_path / "adapter.safetensors")
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path} must be written, but File too large (")


@pytest.mark.parametrize("error", [ValueError("shapes differ"), KeyboardInterrupt()], ids=repr)
def test_what_is_not_the_disks_doing_stays_what_it_is(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, stored(tmp_path):
        raise error
    assert caught.value is error


def test_what_is_said_already_is_not_said_again(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^no locks here$"), stored(tmp_path):
        raise ConfigurationError("no locks here") from OSError(errno.ENOLCK, "No locks available")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_folder_that_takes_no_files() -> None:
    with pytest.raises(StorageError, match=r"^/proc/self/study\.json must be written, but "):
        write_text(Path("/proc/self/study.json"), "new")


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EACCES, "make the folder writable"),
        (errno.EROFS, "give another as studies=FOLDER"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EDQUOT, "free some of your quota"),
        (errno.EIO, "see to the disk"),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else "",
)
def test_each_mishap_has_its_advice(
    old: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("myosotis.storage.tempfile.mkstemp", fail)
    with pytest.raises(StorageError, match=re.escape(os.strerror(code)) + ".*" + re.escape(advice)):
        write_text(old, "new")
    assert old.read_text() == "old"


def test_descriptors_run_out(old: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from myosotis.errors import StorageError
from myosotis.ledger import write_text
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
kept = []
try:
    while True:
        kept.append(open("/dev/null"))
except OSError:
    pass
try:
    write_text(Path(sys.argv[1]), "new")
except StorageError as error:
    kept.clear()
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(old)], capture_output=True, text=True, check=True
    )
    assert "Too many open files" in done.stdout
    assert old.read_text() == "old"
    assert names(old.parent) == ["study.json"]


@pytest.mark.parametrize("mishap", [KeyboardInterrupt, ValueError])
def test_what_breaks_off_leaves_the_file_as_it_was(old: Path, mishap: type[BaseException]) -> None:
    with pytest.raises(mishap), replacing(old) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise mishap
    assert old.read_text() == "old"
    assert names(old.parent) == ["study.json"]


def test_file_and_its_name_are_on_the_disk_in_that_order(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, str]] = []

    def watch(handle: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(handle).st_mode), old.read_text()))

    monkeypatch.setattr(os, "fsync", watch)
    write_text(old, "new")
    assert seen == [(False, "old"), (True, "new")]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_345, "12.3 kB"),
        (999_400, "999 kB"),
        (999_600, "1.0 MB"),
    ],
)
def test_size_is_said_shortly(number: int, text: str) -> None:
    assert size(number) == text


def test_large_sizes() -> None:
    assert [size(2.5 * 1000**power) for power in (3, 4, 5)] == ["2.5 GB", "2.5 TB", "2500.0 TB"]


# What something else damaged


@pytest.mark.parametrize("content", [b"", b'{"trials": [', b"\xff\xfe"], ids=["empty", "half", "no text"])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"study\.json must hold JSON, but .* run the same command again"):
        read_json(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-20],
        lambda text: text + '{"stage": 1}\n',
        lambda text: text + "[1]\n",
        lambda text: text.replace('"step"', '"steps"'),
    ],
    ids=["half a line", "too few", "no mapping", "another name"],
)
def test_damaged_scores_are_named_and_none_is_left_out(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "scores.jsonl"
    write_scores(path, [SCORE, SCORE])
    assert read_scores(path) == [SCORE, SCORE]
    path.write_text(change(path.read_text()))
    with pytest.raises(StorageError, match=r"scores\.jsonl must hold one score a line, but "):
        read_scores(path)


def test_scores_keep_every_character(tmp_path: Path) -> None:
    odd = Score(1, 12, "a\u2028b\x85c", "test", "hits", 0.5, 64, 0.4, 0.6)
    write_scores(tmp_path / "scores.jsonl", [odd, SCORE])
    assert read_scores(tmp_path / "scores.jsonl") == [odd, SCORE]


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("myosotis.trial_task.TrialTask.check", None)  # nothing is looked at
    for place, told in (("/proc/nowhere", "a folder that can be made"), ("file/studies", "give a folder")):
        (tmp_path / "file").touch()
        code, _, err = call("run", *SETTING, f"studies={place}")
        assert code != 0
        assert f"{place}" in err
        assert f"{told} as studies=FOLDER" in err
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
    check_writable(tmp_path / "new" / "study")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
