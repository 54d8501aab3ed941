"""Records in a file come back as they were, in any order, or the file is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from myosotis.records import Records, write_records


@pytest.mark.parametrize("written", [[], [b""], [b"one", b"", b"\x00\xff" * 9, b"four"]])
def test_records_come_back(written: list[bytes], tmp_path: Path) -> None:
    write_records(tmp_path / "file", written)
    records = Records(tmp_path / "file")
    assert len(records) == len(written)
    assert list(records) == written
    assert [records[index] for index in range(-len(written), 0)] == written
    assert records[1:3] == written[1:3]
    with pytest.raises(IndexError):
        records[len(written)]


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"one"
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write_records(tmp_path / "file", broken())
    assert list(tmp_path.iterdir()) == []
