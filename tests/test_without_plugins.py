"""The core's tests pass where the first-party plugins are absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBID = "import sys\n\nsys.modules['myosotis_plugins'] = None\n"
"""Python runs a module of this name first, in every child process too."""
CORE = ROOT / "tests" / "core"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_core_passes_without_the_first_party_plugins(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FORBID)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = call(environment, "-c", "import myosotis_plugins")
    assert "import of myosotis_plugins halted" in done.stderr
    # What takes long is about processes and signals, and was run with the plugins just now.
    done = call(environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", str(CORE))
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def call(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
