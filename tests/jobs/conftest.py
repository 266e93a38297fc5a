"""One real Slurm for all tests that need one: brought up by the first, down after the last."""

import os
from pathlib import Path

import pytest

from .cluster import Cluster, left_out


def _own(name: str, port: int, **settings) -> Cluster:
    """A cluster of this pytest process: its folder and ports are no other's, also under pytest-xdist."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return Cluster(Path(f"/tmp/svdstory-{name}-{os.getpid()}"), port + 40 * worker + os.getpid() % 50 * 200, **settings)


def _bring_up(cluster: Cluster):
    why = left_out()
    if why:
        pytest.skip(f"no real Slurm here: {why}")
    cluster.up()
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="session")
def cluster():
    """Four nodes, accounting, preemption, MaxArraySize 5."""
    yield from _bring_up(_own("lab", 21000))


@pytest.fixture(scope="session")
def bare_cluster():
    """One node, no accounting."""
    yield from _bring_up(_own("bare", 21020, nodes=1, accounting="no"))
