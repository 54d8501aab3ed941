"""The shell completes commands, studies, plugins and measures."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from myosotis.cli import app
from myosotis.ledger import write_study

CASES = {
    "myosotis stat": ["status"],
    "myosotis plugins n": ["new"],
    "myosotis status r": ["ranks", "rates"],
    "myosotis report --studies other m": ["mine"],
    "myosotis clean x": [],
    "myosotis plugins show pu": ["pull"],
    "myosotis explain forg": ["forgetting", "forgotten", "forgotten_base"],
    "myosotis explain hi": ["hits"],
}


@pytest.mark.parametrize("typed", CASES)
def test_the_last_word_is_completed(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("studies/ranks", "studies/rates", "other/mine"):
        Path(name).mkdir(parents=True)
        write_study(Path(name), [], [])
    environment = {
        "_MYOSOTIS_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    found = CliRunner().invoke(app, [], prog_name="myosotis", env=environment)
    assert found.output.split() == CASES[typed]
