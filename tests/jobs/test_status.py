"""status and submit count the same: what is finished, to come and failed of the run's present plan."""

import pytest

from svdstory.jobs.cluster.sites import load_site
from svdstory.jobs.cluster.status import status
from svdstory.jobs.cluster.submit import submit_missing
from svdstory.jobs.queue.ledger import intend, submissions
from svdstory.jobs.queue.scheduler import SlurmError
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import Plan, make_plan, write_plan
from svdstory.jobs.study.store import MANIFEST, Attempt, Store
from tests.jobs.pretend import element, pretend

QUEUED = {"sbatch": "echo Submitted batch job 99", "scancel": "exit 0"}
ABSENT = dict.fromkeys(("srun", "scontrol", "sacct"), "exit 1")


def planned(run, seeds=(0, 1)) -> Plan:
    plan = make_plan("small", Experiment(sets=("red-fox",), methods=("sdxl",), model="tiny", seeds=seeds), run)
    write_plan(plan, run)
    return plan


def publish(run, *keys: str) -> None:
    for key in keys:
        Store(run).publish(key, {"0.png": b"x"}, {}, Attempt.here())


def in_queue(monkeypatch, run, tasks: list[list[str]], **facts):
    """A submission that runs: one array and its reduce job."""
    number = len(submissions(run)) + 1
    submission = intend(run, number, tasks, [len(tasks)], site=load_site("lab").model_dump(mode="json"), **facts)
    array, reduce = submission.arrays
    submission.record(array, job="17")
    submission.record(reduce, job="18")
    indices = range(len(tasks)) if len(tasks) > 1 else ["N/A"]
    lines = [element(array.name, "17", index) for index in indices]
    lines.append(element(reduce.name, "18", "N/A", "PENDING"))
    pretend(monkeypatch, run / "bin", squeue="\n".join(lines), **QUEUED, **ABSENT)


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
    Store(tmp_path).record_failure(failed, "bug", "a bug", Attempt("17", 0, "n1", 1))
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
