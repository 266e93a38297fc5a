"""The scheduler's own daemons die, or accounting was never there: one fault after another, on a real Slurm."""

import pytest

from .cluster import unchanged_for, until
from .stage import Act
from .study import Study


@pytest.fixture
def act(stage, request):
    """A scenario that has the cluster to itself: the overlapping ones have ended."""
    stage.drain()
    return Act(stage, request.node.name, 1000 + request.session.items.index(request.node))


def test_a_submit_cap_of_three_gets_two_longer_tasks_and_the_reduce_job(act: Act):
    study = act.study(site={"partition": "capped", "submit_cap": 3})
    act.fault("submit cap 3 with 12 units")
    study.submit()
    assert [len(task) for task in study.submissions[0].tasks] == [6, 6]
    act.recovered(study, "two tasks and the reduce job")


def test_slurmctld_may_die_and_come_back_while_tasks_run(act: Act):
    study = act.study()
    study.hold()
    study.submit()
    until("four units to begin", lambda: len(study.began()) >= 4)
    until("slurmctld to have saved its last change", unchanged_for(6, study.queue))
    act.fault("slurmctld killed and restarted")
    act.cluster.script("ctld", "off")
    study.release()
    until("the running tasks to finish their units", lambda: study.finished() >= 8)
    now = study.status()
    assert now["done"] >= 8 and "the queue is not known" in now["notes"][0]
    assert "Nothing is lost" in study.submit(status=2)
    act.cluster.script("ctld", "on")
    act.recovered(study, "tasks went on without it; status told from files; the rest ran when it was back")


def test_slurmdbd_may_die_and_nothing_stops(act: Act):
    act.fault("slurmdbd killed")
    act.cluster.script("dbd", "off")
    try:
        study = act.study()
        study.submit()
        assert study.status()["units"] == study.units
        act.recovered(study, "submit, tasks, status and the report went on without it")
    finally:
        act.cluster.script("dbd", "on")


def test_a_cluster_without_accounting_is_enough(bare_cluster, undisturbed, tmp_path):
    study = Study(bare_cluster, tmp_path / "run", site={"gpu": None})
    study.submit()
    now = study.status()
    assert now["units"] == study.units
    study.until_quiet()
    now = study.status()
    assert now["done"] == study.units and now["gpu_hours"] > 0 and "by the tasks' own records" in now["notes"][0]
    assert study.report() == undisturbed.report()
