"""Which checkpoints stay: so many bytes and no more, and always one to go on from."""

from __future__ import annotations

from pathlib import Path

from myosotis.checkpoint import END, Checkpoint, CheckpointFolder, Costs, Position


def write(folder: CheckpointFolder, stage: int, step: int) -> list[str]:
    """Write a checkpoint; give what is there afterwards."""
    folder.write(Checkpoint(Position(stage, step), {}, {}, Costs(steps=step)))
    return [f"{each.stage} {'end' if each.step == END else each.step}" for each in folder.positions()]


def test_the_newest_two_of_a_stage_and_of_the_ends_stay(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    assert write(folder, 1, 2) == ["1 2"]
    assert write(folder, 1, 4) == ["1 2", "1 4"]
    assert write(folder, 1, 6) == ["1 4", "1 6"]
    assert write(folder, 1, END) == ["1 4", "1 6", "1 end"]
    assert write(folder, 2, 2) == ["1 end", "2 2"]
    assert write(folder, 2, 4) == ["1 end", "2 2", "2 4"]
    assert write(folder, 2, 6) == ["1 end", "2 4", "2 6"]
    assert write(folder, 2, END) == ["1 end", "2 4", "2 6", "2 end"]
    assert write(folder, 3, 2) == ["1 end", "2 end", "3 2"]
    assert write(folder, 3, END) == ["2 end", "3 2", "3 end"]


def test_the_same_moment_again_replaces_what_was_there(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    write(folder, 1, 2)
    assert write(folder, 1, 2) == ["1 2"]
    assert len(list(tmp_path.iterdir())) == 1
