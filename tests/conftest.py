"""What all tests share: nothing that happens to be set in the environment may change a result."""

from __future__ import annotations

import os

import pytest

# Before torch is imported. Small models gain nothing from more threads, and lose everything beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in [name for name in os.environ if name.startswith(("WANDB_", "HYDRA_", "MYOSOTIS_"))]:
        del os.environ[name]
    os.environ["MYOSOTIS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
