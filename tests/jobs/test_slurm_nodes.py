"""Faults of nodes and of the scheduler itself on a real Slurm."""

from tests.jobs.cluster import until
from tests.jobs.stage import Act, overlapping
from tests.jobs.test_slurm_faults import began_more_than_once, node_of

ONE_A_NODE = {"cpus": 5}  # of eight: two do not fit; what this leaves is for the others' small tasks


@overlapping
def test_a_node_whose_power_is_cut_costs_the_unit_at_hand(act: Act):
    """Two studies on one node: one may be requeued, of the other the site says --no-requeue."""
    again = act.study(site={"constraint": "n1|n2"})
    once = act.study(site={"constraint": "n1|n2", "requeue": False})
    for study in (again, once):
        study.hold()
        study.submit()
    for study in (again, once):
        until("four units to begin", lambda: len(study.began()) >= 4)
    node = node_of(once)
    assert node == node_of(again)
    act.fault("a node's power is cut")
    act.cluster.node(node, "off")
    for study in (again, once):
        study.release()
    act.recovered(again, "requeued on another node by Slurm; only units at hand were begun twice")
    assert len(began_more_than_once(again)) <= 4
    once.until_quiet()
    assert once.finished() < once.units
    once.submit()
    act.aside("with --no-requeue")
    act.recovered(once, "the reduce job named the holes; submit added them")
    act.cluster.node(node, "on")


@overlapping
def test_a_hung_node_that_wakes_and_writes_again_leaves_the_store_right(act: Act):
    # a node that wakes may have Slurm kill the second attempt's step too: the reduce job asks again
    study = act.study(per_task=8, site={"constraint": "n3|n4", **ONE_A_NODE, "parallel": 1, "rounds": 2})
    study.hold()
    study.submit()
    until("a unit to begin", lambda: study.began())
    node = node_of(study)
    act.fault("a node hangs, its jobs run elsewhere, it wakes and writes")
    act.cluster.node(node, "hang")
    other = until(
        "the task to run on another node",
        lambda: [line for line in study.queue().splitlines() if " RUNNING " in line and node not in line],
        90,
    )
    assert other
    study.release()
    until("the second attempt to finish a unit", lambda: study.finished() >= 1)
    act.cluster.node(node, "wake")
    act.recovered(study, "the second attempt's units stand; the first one's were discarded")
    study.svdstory("verify", "run", "--deep")


@overlapping
def test_preemption_gives_the_node_away_in_time_and_goes_on_later(act: Act):
    study = act.study(
        per_task=8, site={"constraint": "n5", "gpu": {"option": "gpus-per-node", "value": "v100:4"}, "parallel": 1}
    )
    (study.control / "step_s").write_text("0.3")
    study.submit()
    until("a unit to be finished", lambda: study.finished() >= 1)
    node = node_of(study)
    act.fault("preemption by a job of a higher partition")
    words = ["--parsable", "-p", "high", "-w", node, "--gpus-per-node=v100:4", "-o", "/dev/null", "--wrap", "sleep 5"]
    high = act.cluster.ask("sbatch", *words).strip()
    until(
        "the higher job to run",
        lambda: (
            "RUNNING" in act.cluster.ask("squeue", "-h", "-t", "all", "-j", high, "-o", "%T")
            or "COMPLETED" in act.cluster.ask("squeue", "-h", "-t", "all", "-j", high, "-o", "%T")
        ),
        40,
    )
    act.recovered(study, "USR2, the unit at hand abandoned, requeued, went on")


@overlapping
def test_a_node_on_which_units_fail_at_once_is_named_and_left_out(act: Act):
    study = act.study(per_task=4, site={"constraint": "n6|n7", **ONE_A_NODE})
    study.hold()
    study.submit()
    until("units to begin on two nodes", lambda: len(study.began()) >= 2)
    bad, good = node_of(study), node_of(study, 1)
    act.fault("every unit fails on one node")
    (study.control / f"bad-node-{bad}").touch()
    study.release()
    study.until_quiet()
    assert study.status()["bad_nodes"] == [bad] and study.finished() == study.units / 2
    assert len(study.began()) - study.finished() == 3  # the task stopped after three
    study.hold()
    assert f"nodes left out: {bad}" in study.submit()
    assert until("a task to run", lambda: node_of(study)) == good
    study.release()
    act.recovered(study, "the task stopped after three units and named its node, the next submit left it out")


@overlapping
def test_a_full_disk_in_one_task_stops_that_task_only(act: Act):
    study = act.study(per_task=4, site={"constraint": "n8|n9", **ONE_A_NODE})
    drafts = study.run / "tmp"
    drafts.mkdir(parents=True)
    study.hold()
    study.submit()
    until("units to begin on two nodes", lambda: len(study.began()) >= 2)
    node = node_of(study)
    act.fault("no space left on the device, for one task")
    act.cluster.node(node, "enter", "mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(drafts))
    study.release()
    study.until_quiet()
    assert study.status()["failed"].get("disk full") == 1
    assert study.finished() == study.units / 2
    act.cluster.node(node, "enter", "umount", str(drafts))
    study.submit()
    act.recovered(study, "that task stopped and said so, the others finished; submit added its units")
