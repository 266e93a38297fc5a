"""One real Slurm for all tests that need one: brought up by the first, down after the last."""

import json
import os
import resource
import time
from pathlib import Path

import pytest

from .cluster import Cluster, left_out
from .stage import Stage, faults_file
from .study import Study


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
    """Eleven nodes (so that faults of nodes can overlap), accounting, preemption, MaxArraySize 5."""
    yield from _bring_up(_own("lab", 21000, nodes=11))


@pytest.fixture(scope="session")
def bare_cluster():
    """One node, no accounting."""
    yield from _bring_up(_own("bare", 21030, nodes=1, accounting="no"))


@pytest.fixture(scope="session")
def undisturbed(cluster, tmp_path_factory):
    """A study that nothing happens to: what the others' reports must equal."""
    study = Study(cluster, tmp_path_factory.mktemp("undisturbed") / 'Мой "run" it\'s here', site={"gpu": None})
    study.submit()
    study.until_quiet()
    return study


@pytest.fixture(scope="session")
def faults(cluster):
    """The table of faults that the scenarios fill, and what the suite took."""
    table: dict[str, dict] = {}
    began = time.monotonic()
    yield table
    if faults_file():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        suite = {
            "wall_s": round(time.monotonic() - began),
            "load": round(os.getloadavg()[1], 1),
            "cpu_s_of_commands": round(used.ru_utime + used.ru_stime),
            "cpu_s_of_tasks": round(cluster.cpu_seconds()),
        }
        faults_file().write_text(
            json.dumps({"suite": suite, "faults": table}, indent=1, ensure_ascii=False), encoding="utf-8"
        )


@pytest.fixture(scope="session")
def stage(request, cluster, tmp_path_factory, undisturbed, faults):
    """The scenarios of all tests that are to be run, started at once."""
    stage = Stage(cluster, tmp_path_factory.mktemp("stage"), undisturbed, faults)
    stage.start([item.function.scenario for item in request.session.items if hasattr(item.function, "scenario")])
    yield stage
    stage.close()
