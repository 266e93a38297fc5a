"""status and submit count the same: what is finished, to come and failed of the run's present plan."""

import time
from dataclasses import replace

import pytest

from svdstory.jobs.cluster.reduce_job import left_over
from svdstory.jobs.cluster.sites import load_site
from svdstory.jobs.cluster.status import lines, status
from svdstory.jobs.cluster.submit import submit_missing
from svdstory.jobs.queue import attempts, ledger
from svdstory.jobs.queue.attempts import TaskAttempt
from svdstory.jobs.queue.ledger import intend, submissions
from svdstory.jobs.queue.scheduler import SlurmError
from svdstory.jobs.queue.slices import read_slice
from svdstory.jobs.study.code import identity
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import Plan, make_plan, plan_path, read_plan, write_plan
from svdstory.jobs.study.scores import Shard
from svdstory.jobs.study.store import MANIFEST, Attempt, Store
from svdstory.pipeline.config.strict import InputError
from tests.jobs.pretend import attempt, element, pretend
from tests.jobs.synthetic import Stated

QUEUED = {"sbatch": "echo Submitted batch job 99", "scancel": "exit 0"}
ABSENT = dict.fromkeys(("srun", "scontrol", "sacct"), "exit 1")


def planned(run, seeds=(0, 1)) -> Plan:
    plan = make_plan("small", Experiment(sets=("red-fox",), methods=("sdxl",), model="tiny", seeds=seeds), run)
    write_plan(plan, run)
    return plan


def publish(run, *keys: str) -> None:
    """Finished units, with numbers by the plan's scorers."""
    shard = Shard(run)
    for key in keys:
        Store(run).publish(key, {"0.png": b"x"}, {}, Attempt.here())
        for scorer in read_plan(plan_path(run)).scorers:
            shard.add(key, Stated(scorer), "images", {})
    shard.publish()


def in_queue(monkeypatch, run, tasks: list[list[str]], **facts):
    """A submission that runs: one array and its reduce job."""
    number = len(submissions(run)) + 1
    submission = intend(
        run, number, tasks, [len(tasks)], site=load_site("lab").model_dump(mode="json"), scorers=[], **facts
    )
    array, reduce = submission.arrays
    submission.record(array, job="17")
    submission.record(reduce, job="18")
    indices = range(len(tasks)) if len(tasks) > 1 else ["N/A"]
    lines = [element(array.name, "17", index) for index in indices]
    lines.append(element(reduce.name, "18", "N/A", "PENDING"))
    pretend(monkeypatch, run / "bin", squeue="\n".join(lines), **QUEUED, **ABSENT)
    return submission


def submitted(run, **asked) -> str:
    said: list[str] = []
    submit_missing(run, load_site("lab"), say=said.append, **asked)
    return "\n".join(said)


def test_units_of_another_plan_that_live_tasks_hold_are_not_counted(tmp_path, monkeypatch):
    before, plan = list(planned(tmp_path, seeds=(5, 6, 7)).units), planned(tmp_path)
    done, coming = plan.units
    publish(tmp_path, done)
    in_queue(monkeypatch, tmp_path, [[*before, coming]])
    now = status(tmp_path)
    assert (now.units, now.done, now.running, now.queued, now.failed, now.idle) == (2, 1, 1, 0, {}, 0)
    assert "nothing to add: 1 units are finished, 1 queued" in submitted(tmp_path)


def test_a_finished_unit_of_a_live_task_counts_as_finished(tmp_path, monkeypatch):
    done, coming = planned(tmp_path).units
    publish(tmp_path, done)
    in_queue(monkeypatch, tmp_path, [[done, coming]])
    assert "nothing to add: 1 units are finished, 1 queued" in submitted(tmp_path)


def test_a_failed_unit_that_its_live_task_has_passed_is_what_retry_adds(tmp_path, monkeypatch):
    failed, coming = planned(tmp_path).units
    Store(tmp_path).record_failure(failed, "bug", "a bug", attempt("17", 0, "n1"))
    in_queue(monkeypatch, tmp_path, [[failed, coming]])
    now = status(tmp_path)
    assert (now.running, now.queued, now.failed, now.idle) == (1, 0, {"bug": 1}, 0)
    assert "1 units in 1 tasks" in submitted(tmp_path, cause="any")
    assert submissions(tmp_path)[-1].tasks == [[failed]]


def test_a_unit_without_its_manifest_is_not_done(tmp_path):
    whole, damaged = planned(tmp_path).units
    publish(tmp_path, whole, damaged)
    (Store(tmp_path).folder(damaged) / MANIFEST).unlink()
    now = status(tmp_path)
    assert (now.done, now.idle, now.complete) == (1, 1, False)


def test_a_submit_where_there_is_no_slurm_says_so_before_anything_is_written(tmp_path, monkeypatch):
    planned(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="sbatch: no such command here"):
        submitted(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["plans"]


def test_of_two_launchers_at_once_the_one_that_comes_between_the_looks_queues_alone(tmp_path, monkeypatch):
    """It announces itself after we saw that nobody is at work, and before we ask what is queued."""
    plan, look, others = planned(tmp_path), ledger.next_number, []

    def another_comes(run):
        number = look(run)
        if not others:
            others.append(in_queue(monkeypatch, run, [list(plan.units)], plan=str(plan_path(run).relative_to(run))))
            pretend(monkeypatch, run / "bin", squeue="exit 0")  # it has not asked Slurm yet
        elif number == 2:
            array, reduce = others[0].arrays
            lines = [element(array.name, "17", "N/A"), element(reduce.name, "18", "N/A", "PENDING")]
            pretend(monkeypatch, run / "bin", squeue="\n".join(lines))
        return number

    monkeypatch.setattr(ledger, "next_number", another_comes)
    assert submit_missing(tmp_path, load_site("lab"), say=lambda text: None).added == 0
    assert len(submissions(tmp_path)) == 1


def test_a_job_in_a_state_that_is_not_known_here_counts_as_live(tmp_path, monkeypatch):
    plan = planned(tmp_path)
    submission = in_queue(monkeypatch, tmp_path, [list(plan.units)])
    array, reduce = submission.arrays
    lines = [element(array.name, "17", "N/A", "EXPEDITING"), element(reduce.name, "18", "N/A", "POWER_UP_NODE")]
    pretend(monkeypatch, tmp_path / "bin", squeue="\n".join(lines))
    assert "nothing to add" in submitted(tmp_path)


def test_a_refused_array_leaves_a_reduce_job_for_what_was_accepted(tmp_path, monkeypatch):
    planned(tmp_path)
    calls = tmp_path / "calls"
    sbatch = f"""echo x >> '{calls}'; count=$(wc -l < '{calls}')
if [ $count = 2 ]; then echo QOSMaxSubmitJob >&2; exit 1; fi
echo Submitted batch job 9$count"""
    pretend(monkeypatch, tmp_path / "bin", **{**QUEUED, "sbatch": sbatch}, **ABSENT, squeue="exit 0")
    site = load_site("lab").model_copy(update={"max_array": 1})
    asked = submit_missing(tmp_path, site, per_task=1, say=lambda text: None)
    first, second, reduce = submissions(tmp_path)[0].arrays
    assert "QOSMaxSubmitJob" in asked.refused[0] and second.refused and (first.job, reduce.job) == ("91", "93")


def test_a_node_that_is_to_blame_is_left_out_unless_the_user_says_none(tmp_path, monkeypatch):
    plan = planned(tmp_path, seeds=(0, 1, 2, 3))
    bad, good = list(plan.units)[:2], list(plan.units)[2:]
    submission = in_queue(monkeypatch, tmp_path, [bad, good], code=identity()["hash"])
    publish(tmp_path, *good)
    Store(tmp_path).record_failure(bad[0], "bug", "", attempt("17_0", 0, "n1"))
    turn = TaskAttempt(0, "17_0", 0, "n1", time.time() - 9, time.time(), "bad node", failed=2)
    attempts.write(submission.folder, turn)
    attempts.write(submission.folder, replace(turn, task=1, job="17_1", node="n2", ending="finished", made=2))
    pretend(monkeypatch, tmp_path / "bin", squeue="exit 0")
    assert status(tmp_path).bad_nodes == ["n1"]
    assert "nodes left out" not in submitted(tmp_path, exclude=[])
    pretend(monkeypatch, tmp_path / "bin", squeue="exit 0")
    assert "nodes left out: n1 (--exclude none" in submitted(tmp_path)


def test_finished_units_without_numbers_are_asked_for_and_those_with_are_not(tmp_path, monkeypatch):
    scored, unscored = planned(tmp_path).units
    publish(tmp_path, scored)
    Store(tmp_path).publish(unscored, {"0.png": b"x"}, {}, Attempt.here())
    in_queue(monkeypatch, tmp_path, [["another plan's"]])
    assert "1 units in 1 tasks" in submitted(tmp_path)
    part = read_slice(submissions(tmp_path)[-1].folder, 0)
    assert list(part.plan.units) == [unscored] and part.sample and len(part.scorers) == 4


def test_without_metrics_finished_units_are_all_there_is_to_ask_for(tmp_path, monkeypatch):
    done, missing = planned(tmp_path).units
    Store(tmp_path).publish(done, {"0.png": b"x"}, {}, Attempt.here())
    in_queue(monkeypatch, tmp_path, [["another plan's"]])
    submitted(tmp_path, metrics=False)
    part = read_slice(submissions(tmp_path)[-1].folder, 0)
    assert list(part.plan.units) == [missing] and part.scorers == ()


def test_a_task_is_told_which_shards_hold_numbers_of_its_units(tmp_path, monkeypatch):
    some, other = planned(tmp_path).units
    for key in (some, other):
        Store(tmp_path).publish(key, {"0.png": b"x"}, {}, Attempt.here())
        shard = Shard(tmp_path)
        shard.add(key, Stated("clipscore:tiny"), "images", {})
        path = shard.publish()
    in_queue(monkeypatch, tmp_path, [["another plan's"]])
    submitted(tmp_path, per_task=1)
    assert read_slice(submissions(tmp_path)[-1].folder, 1).shards == (path.name,)


def test_status_counts_numbers_by_scorer_and_says_why_some_are_missing(tmp_path, monkeypatch):
    first, second = planned(tmp_path).units
    publish(tmp_path, first)
    Store(tmp_path).publish(second, {"0.png": b"x"}, {}, Attempt.here())
    shard = Shard(tmp_path)
    shard.fail(second, "layout:tiny", "out of memory: 80 GiB")
    shard.publish()
    in_queue(monkeypatch, tmp_path, [["another plan's"]])
    now = status(tmp_path)
    assert now.scored["layout:tiny"] == 1 and now.unscored == {"layout:tiny": {"out of memory": 1}}
    assert any("1 × layout:tiny: out of memory" in line for line in lines(now))


def test_what_a_scorer_failed_on_can_be_asked_for_by_its_cause(tmp_path, monkeypatch):
    keys = list(planned(tmp_path).units)
    for key in keys:
        Store(tmp_path).publish(key, {"0.png": b"x"}, {}, Attempt.here())
    shard = Shard(tmp_path)
    shard.fail(keys[1], "layout:tiny", "out of memory: 80 GiB")
    shard.publish()
    in_queue(monkeypatch, tmp_path, [["another plan's"]])
    submitted(tmp_path, cause="out of memory")
    assert list(read_slice(submissions(tmp_path)[-1].folder, 0).plan.units) == [keys[1]]


def test_what_is_left_over_is_neither_failed_nor_cancelled_nor_scored(tmp_path, monkeypatch):
    plan = planned(tmp_path, seeds=(0, 1, 2, 3, 4))
    done, failed, cancelled, killed, unscored = plan.units
    publish(tmp_path, done)
    Store(tmp_path).publish(unscored, {"0.png": b"x"}, {}, Attempt.here())
    Store(tmp_path).record_failure(failed, "bug", "a bug", Attempt.here())
    submission = in_queue(monkeypatch, tmp_path, [[failed], [cancelled], [killed], [done, unscored]])
    name = submission.arrays[0].name
    states = [element(name, "17", n, state) for n, state in enumerate(("COMPLETED", "CANCELLED", "FAILED", "FAILED"))]
    pretend(monkeypatch, tmp_path / "bin", squeue="\n".join(states))
    assert left_over(tmp_path, plan, list(plan.scorers)) == [killed, unscored]
    assert left_over(tmp_path, plan, []) == [killed]


def test_weights_that_are_missing_are_an_error_before_anything_is_queued(tmp_path, monkeypatch):
    monkeypatch.setenv("SVDSTORY_WEIGHTS", str(tmp_path))
    experiment = Experiment(
        sets=("world-bus",),
        methods=("sdxl",),
        model="miniature",
        seeds=(0,),
        scorers=("world", "clipscore", "dreamsim"),
    )
    write_plan(make_plan("small", experiment, tmp_path), tmp_path)
    pretend(monkeypatch, tmp_path / "bin", squeue="", **QUEUED, **ABSENT)
    with pytest.raises(
        InputError, match="clipscore, dreamsim.*prefetch --scorer clipscore --scorer dreamsim.*without-m"
    ):
        submitted(tmp_path)
    assert not submissions(tmp_path)
    assert "1 units in 1 tasks" in submitted(tmp_path, metrics=False)
