"""The toys and no other plugins."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _only_the_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYOSOTIS_PLUGINS", "tests.toy")
