"""The scheduler's own daemons die, or accounting was never there: one fault after another, on a real Slurm."""

import pytest

from tests.jobs.cluster import own_cluster, unchanged_for, until
from tests.jobs.stage import Act, overlapping


@pytest.fixture
def act(stage, request):
    """A scenario that has the cluster to itself: the overlapping ones have ended."""
    stage.drain()
    until("an empty queue", lambda: not stage.cluster.ask("squeue", "-h"))
    return Act(stage, request.node.name, 1000 + request.session.items.index(request.node))


def test_a_submit_cap_of_three_gets_two_longer_tasks_and_the_reduce_job(act: Act):
    study = act.study(site={"partition": "capped"})
    act.fault("submit cap 3, told by sacctmgr, with 8 units")
    study.submit()
    assert [len(task) for task in study.submissions[0].tasks] == [4, 4]
    act.recovered(study, "two tasks and the reduce job")


def test_slurmctld_may_die_and_come_back_while_tasks_run(act: Act):
    study = act.study(per_task=4)
    study.hold()
    study.submit()
    until("both tasks to begin", lambda: len(study.began()) >= 2)
    until("slurmctld to have saved its last change", unchanged_for(6, study.queue))
    act.fault("slurmctld killed and restarted")
    act.cluster.script("ctld", "off")
    (study.control / "step_s").write_text("0.2")
    study.release()
    until("the tasks to finish units without it", lambda: study.finished() >= 4)
    study.hold()
    now = study.status()
    assert now["done"] >= 4 and "the queue is not known" in now["notes"][0]
    assert "Nothing is lost" in study.submit(status=2)
    act.cluster.script("ctld", "on")
    study.release()
    act.recovered(study, "tasks went on without it; status was told from files; the report came when it was back")
    assert not [name for name in study.began() if "-r0-" not in name]


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


@overlapping
def test_a_cluster_without_accounting_is_enough(act: Act):
    act.cluster = own_cluster("bare", 21030, nodes=1, accounting="no")
    act.cluster.up()
    try:
        study = act.study(site={"constraint": None})
        act.fault("accounting absent")
        study.submit()
        assert study.status()["units"] == study.units
        act.recovered(study, "submit, tasks, status and the report do without it")
        now = study.status()
        assert now["done"] == study.units and now["gpu_hours"] > 0
        assert "by the tasks' own records" in now["notes"][0]
    finally:
        act.cluster.down()
