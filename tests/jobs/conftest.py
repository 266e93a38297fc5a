"""One real Slurm for all tests that need one: brought up by the first, down after the last."""

import json
import os
import resource
import time

import pytest

from svdstory.jobs.cli.app import main
from tests.jobs.cluster import Cluster, left_out, own_cluster
from tests.jobs.stage import ANYWHERE, Stage, faults_file
from tests.jobs.study import Study


@pytest.fixture(scope="session", autouse=True)
def _no_defaults_of_the_developers_own(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        for key in ("SITE", "RESULTS", "MODEL"):
            patch.delenv(f"SVDSTORY_{key}", raising=False)
        yield


@pytest.fixture
def svdstory(capsys, monkeypatch, tmp_path):
    """Runs the command in an empty folder; gives exit status, what it printed, and its errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


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
    yield from _bring_up(own_cluster("lab", 21000, nodes=11))


@pytest.fixture(scope="session")
def undisturbed(stage):
    """A study that nothing happens to, when it has ended."""
    stage.reference()
    return stage.undisturbed


@pytest.fixture(scope="session")
def faults(cluster):
    """The table of faults that the scenarios fill, and what the suite took."""
    table: dict[str, dict] = {}
    began = time.monotonic()
    yield table
    if faults_file():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        suite = {
            "date": time.strftime("%Y-%m-%d"),
            "wall_s": round(time.monotonic() - began),
            "load": round(os.getloadavg()[1], 1),
            "cpu_s_of_commands": round(used.ru_utime + used.ru_stime),
            "cpu_s_of_tasks": round(cluster.cpu_seconds()),
        }
        faults_file().write_text(
            json.dumps({"suite": suite, "faults": table}, indent=1, ensure_ascii=False), encoding="utf-8"
        )


@pytest.fixture(scope="session")
def stage(request, cluster, tmp_path_factory, faults):
    """A study that nothing happens to, and the scenarios of all tests that are to be run, started at once."""
    folder = tmp_path_factory.mktemp("stage")
    undisturbed = Study(cluster, folder / 'undisturbed Мой "run" it\'s', site={"gpu": None, "constraint": ANYWHERE})
    undisturbed.submit()
    stage = Stage(cluster, folder, undisturbed, faults)
    stage.start([item.function.scenario for item in request.session.items if hasattr(item.function, "scenario")])
    yield stage
    stage.close()
