"""A Ray of two nodes on this machine: started and stopped by a test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@contextmanager
def ray_variables() -> Iterator[None]:
    """Keep Ray's files in a short folder of their own, and no token in the home folder."""
    with (
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """Start two nodes with a core each."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        started.add_node(**NODE)
        yield started
    finally:
        started.shutdown()


def on_ray(cluster: Any) -> tuple[str, ...]:
    """Say that trials run on a cluster."""
    return ("hydra.launcher.backend=ray", f"hydra.launcher.ray.address={cluster.address}")
