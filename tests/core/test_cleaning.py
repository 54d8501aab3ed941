"""What `clean` lists and removes, and above all what it leaves alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from myosotis import cleaning
from myosotis.cleaning import Choice, leftovers, remove, room
from myosotis.errors import ConfigurationError, StorageError
from myosotis.ledger import TrialEntry, write_json, write_study, write_text
from myosotis.locks import StudyLock, TrialLock

DONE, HALF, GONE = "0123456789ab", "ba9876543210", "aaaaaaaaaaaa"
NOTHING = Choice()
EVERYTHING = Choice(superseded=True, unlisted=True, wandb=True, adapters=True)


def run_folder(study: Path, name: str, finished: bool) -> Path:
    """Make a run folder with all that a trial may leave there."""
    run = study / name
    for file in (
        "config.yaml",
        "scores.jsonl",
        "metrics.jsonl",
        "log.txt",
        "adapter/adapter_model.safetensors",
        "checkpoints/stage1-end-0.pt",
        "checkpoints/.stage1-step4.partial",
        ".adapter/adapter_model.safetensors",
        ".scores.jsonl.x1y_2z3a",
        "wandb/offline-run-1-a/run-a.wandb",
    ):
        write_text(run / file, "x" * 5000)
    if finished:
        write_json(run / "result.json", {})
    return run


def entry(trial: str, folder: str | None = None) -> TrialEntry:
    return TrialEntry(trial, folder or trial, "pull", {"trial": trial}, 0, "")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished and an unfinished trial, with all that they may leave."""
    folder = tmp_path / "studies" / "toy"
    write_study(folder, [], [entry(DONE), entry(HALF)])
    run_folder(folder, DONE, finished=True)
    run_folder(folder, HALF, finished=False)
    write_text(folder / ".prefix" / "0" / "hidden.npy", "x" * 5000)
    write_text(folder / "report.html", "report")
    write_text(folder.parent / ".base" / "row.json", "[]")
    return folder


def paths(study: Path, choice: Choice = NOTHING) -> list[str]:
    return sorted(str(each.path.relative_to(study)) for each in leftovers(study, choice))


def files(folder: Path) -> set[str]:
    found = [path for path in folder.rglob("*") if path.is_file() or path.is_symlink()]
    return {str(path.relative_to(folder)) for path in found if ".locks" not in path.parts}


USELESS = sorted(
    [
        ".prefix",
        f"{DONE}/.adapter",
        f"{DONE}/.scores.jsonl.x1y_2z3a",
        f"{DONE}/checkpoints",
        f"{HALF}/.adapter",
        f"{HALF}/.scores.jsonl.x1y_2z3a",
        f"{HALF}/checkpoints/.stage1-step4.partial",
    ]
)


def test_what_nothing_needs(study: Path) -> None:
    assert paths(study) == USELESS
    assert not (study / ".locks").exists()  # looking leaves no trace


def test_removing_leaves_the_rest_to_the_byte(study: Path) -> None:
    before = {name: (study.parent / name).read_bytes() for name in files(study.parent)}
    gone = {f"toy/{name}" for name in USELESS}
    removed = remove(study, leftovers(study, NOTHING), NOTHING)
    assert sorted(str(each.path.relative_to(study)) for each in removed) == USELESS
    kept = {name: text for name, text in before.items() if not any(name.startswith(each) for each in gone)}
    assert {name: (study.parent / name).read_bytes() for name in files(study.parent)} == kept
    assert f"toy/{HALF}/checkpoints/stage1-end-0.pt" in kept
    assert ".base/row.json" in kept
    assert paths(study) == []


def test_choices(study: Path) -> None:
    def more(choice: Choice) -> set[str]:
        return set(paths(study, choice)) - set(USELESS)

    assert more(Choice(wandb=True)) == {f"{DONE}/wandb"}
    assert more(Choice(adapters=True)) == {f"{DONE}/adapter"}
    assert more(Choice(superseded=True, unlisted=True)) == set()


def test_uploaded_runs_are_told_from_others(study: Path) -> None:
    def what() -> list[str]:
        return [each.what for each in leftovers(study, Choice(wandb=True)) if each.path.name == "wandb"]

    assert what() == ["W&B's files with runs not yet uploaded"]
    write_text(study / DONE / "wandb" / "offline-run-1-a" / "run-a.wandb.synced", "")
    assert what() == ["W&B's files"]


def test_sizes_are_those_of_the_disk(study: Path) -> None:
    for each in leftovers(study, EVERYTHING):
        told = subprocess.run(["du", "-sk", each.path], capture_output=True, text=True, check=True).stdout
        assert each.bytes == 1024 * int(told.split()[0]) > 0


# What a process holds


def test_what_a_trial_holds_is_left_alone(study: Path) -> None:
    with TrialLock(study, DONE):
        assert [each for each in paths(study, EVERYTHING) if each.startswith(DONE)] == []
        assert ".prefix" not in paths(study)
        assert f".locks/{DONE}.lock" not in paths(study)
    assert set(USELESS) < set(paths(study))


def test_trial_that_begins_meanwhile_keeps_its_own(study: Path) -> None:
    said = leftovers(study, EVERYTHING)
    before = files(study / DONE)
    with TrialLock(study, DONE):
        removed = remove(study, said, EVERYTHING)
    assert files(study / DONE) == before
    assert (study / ".prefix").is_dir()
    assert [each for each in removed if each.run == DONE] == []
    assert len(removed) == len([each for each in said if each.run == HALF])


def test_trial_that_is_listed_meanwhile_stays(study: Path) -> None:
    run_folder(study, GONE, finished=False)
    said = leftovers(study, EVERYTHING)
    assert GONE in [each.path.name for each in said]
    write_study(study, [], [entry(GONE)])
    remove(study, said, EVERYTHING)
    assert (study / GONE / "checkpoints" / "stage1-end-0.pt").is_file()


def test_locks_that_nobody_holds_go(study: Path) -> None:
    with TrialLock(study, HALF), StudyLock(study):
        with TrialLock(study, DONE):
            pass
        assert [each for each in paths(study) if each.startswith(".locks")] == [f".locks/{DONE}.lock"]
    remove(study, leftovers(study, NOTHING), NOTHING)
    assert [path.name for path in (study / ".locks").iterdir()] == ["study.lock"]


# Run folders


def test_newer_run_folder_stands_for_older_ones(study: Path) -> None:
    for name in (f"{DONE}.2", f"{DONE}.10"):
        run_folder(study, name, finished=True)
    write_study(study, [], [entry(DONE, f"{DONE}.10")])
    choice = Choice(superseded=True)
    whole = [each for each in paths(study, choice) if "/" not in each and each != ".prefix"]
    assert whole == [DONE, f"{DONE}.2"]
    assert [each for each in paths(study, choice) if each.startswith(f"{DONE}/")] == []  # said once
    assert set(paths(study)).isdisjoint(whole)
    remove(study, leftovers(study, choice), choice)
    assert sorted(path.name for path in study.iterdir() if path.is_dir()) == sorted(
        [".locks", f"{DONE}.10", HALF]
    )


def test_newer_run_folder_that_is_not_finished_stands_for_none(study: Path) -> None:
    run_folder(study, f"{DONE}.2", finished=False)
    write_study(study, [], [entry(DONE, f"{DONE}.2")])
    assert DONE not in paths(study, EVERYTHING)


def test_unlisted_run_folders(study: Path) -> None:
    run_folder(study, GONE, finished=True)
    run_folder(study, "notes", finished=False)
    assert GONE not in paths(study, Choice(superseded=True))
    assert [each for each in paths(study, Choice(unlisted=True)) if "notes" in each] == []
    assert GONE in paths(study, Choice(unlisted=True))


def test_run_folder_that_another_study_lists_stays(study: Path) -> None:
    for name in (GONE, f"{DONE}.2"):
        run_folder(study, name, finished=True)
    write_study(study, [], [entry(DONE, f"{DONE}.2")])
    other = study.parent / "other"
    write_study(other, [], [entry(GONE, f"../toy/{GONE}"), entry(DONE, f"../toy/{DONE}")])
    found = paths(study, EVERYTHING)
    assert GONE not in found
    assert DONE not in found
    (other / "study.json").write_text("{")
    with pytest.raises(StorageError, match=r"other/study\.json must hold JSON"):
        leftovers(study, EVERYTHING)
    assert leftovers(study, NOTHING)  # which needs no other study


# Links


def test_links_are_not_followed(study: Path, tmp_path: Path) -> None:
    outside = run_folder(tmp_path, "outside", finished=True)
    before = files(outside)
    (study / GONE).symlink_to(outside)
    (study / DONE / "checkpoints").rename(tmp_path / "kept")
    (study / DONE / "checkpoints").symlink_to(outside)
    (study / DONE / ".adapter" / "link").symlink_to(outside)
    (study / DONE / "more.partial").symlink_to(outside / "config.yaml")
    found = leftovers(study, EVERYTHING)
    assert {f"{GONE}", f"{DONE}/checkpoints", f"{DONE}/more.partial"}.isdisjoint(paths(study, EVERYTHING))
    remove(study, found, EVERYTHING)
    assert files(outside) == before
    assert not (study / DONE / ".adapter").exists()


def test_study_that_is_a_link_is_refused(study: Path) -> None:
    link = study.parent / "link"
    link.symlink_to(study)
    with pytest.raises(ConfigurationError, match="must be a folder, but it is a link"):
        leftovers(link, NOTHING)


# The study's own


def test_studys_own_temporary_goes_once_it_is_old(study: Path) -> None:
    path = study / ".report.html.abcdefgh"
    write_text(path, "half")
    assert path.name not in paths(study)
    os.utime(path, (0, 0))
    assert path.name in paths(study)


def test_what_cannot_be_removed_is_named(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cleaning.shutil, "rmtree", refuse)
    with pytest.raises(StorageError, match="must be removed, but Permission denied"):
        remove(study, leftovers(study, NOTHING), NOTHING)
    assert TrialLock(study, DONE).take()


def test_room_of_nothing(tmp_path: Path) -> None:
    assert room(tmp_path / "nothing") == 0
