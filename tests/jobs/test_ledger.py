"""Submissions on disk: numbers are taken once, and late or stale files of a network file system are waited for."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from svdstory.jobs.queue import holders, ledger, scheduler
from svdstory.jobs.queue.attempts import TaskAttempt
from svdstory.jobs.queue.ledger import Submission, intend, submissions
from svdstory.jobs.queue.slices import Slice, read_slice
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import make_plan
from svdstory.jobs.study.store import Store
from tests.jobs.cluster import until
from tests.jobs.pretend import attempt, element, pretend, process


def test_of_two_launchers_one_takes_the_number_and_the_other_leaves_nothing(tmp_path):
    mine = intend(tmp_path, 1, [["a"]], [1], site={}, plan="p", code="c")
    assert intend(tmp_path, 1, [["b"]], [1], site={}, plan="p", code="c") is None
    assert [s.folder for s in submissions(tmp_path)] == [mine.folder]
    assert [path.name for path in (tmp_path / "submissions").iterdir()] == ["0001"]


def test_tasks_and_slurms_elements_are_told_from_each_other(tmp_path):
    submission = intend(tmp_path, 1, [["a"], ["b"], ["c"]], [2, 1])
    submission.record(submission.arrays[0], job="17")
    submission.record(submission.arrays[1], job="19")
    assert [submission.element_of(task) for task in range(3)] == ["17_0", "17_1", "19"]


def queued(monkeypatch, tmp_path, submission, *elements):
    """What Slurm holds: elements of (array, job, index, state)."""
    lines = [element(submission.arrays[array].name, *rest) for array, *rest in elements]
    pretend(monkeypatch, tmp_path / "bin", squeue="\n".join(lines))
    return holders.live([submission])


def test_live_elements_are_known_by_name_and_each_answer_is_read_once(tmp_path, monkeypatch):
    submission, reads = intend(tmp_path, 1, [["a"], ["b"], ["c"]], [2, 1]), []
    queued(monkeypatch, tmp_path, submission, (0, "17", 0), (0, "17", 1), (1, "19", "N/A"), (2, "20", "N/A"))
    monkeypatch.setattr(Submission, "_array", lambda *args, of=Submission._array: reads.append(args) or of(*args))
    assert [holder.units for holder in holders.live([submission])] == [["a"], ["b"], ["c"], []]
    assert len(reads) == len(submission.intent["arrays"])


def test_what_slurm_says_may_hold_bytes_of_any_encoding(tmp_path, monkeypatch):
    pretend(monkeypatch, tmp_path / "bin", squeue="echo $'17|17|0|a|PENDING|r\\xe9serv\\xe9|n1|0:00'")
    [found] = scheduler.queue(["17"])
    assert found.live and found.task == "17_0"


def test_a_unit_that_failed_in_the_present_turn_of_its_task_is_not_to_come(tmp_path, monkeypatch):
    submission, store = intend(tmp_path, 1, [["now", "before", "next"]], [1]), Store(tmp_path)
    found = queued(monkeypatch, tmp_path, submission, (0, "17", "N/A"))
    turns = [TaskAttempt(0, "17", restart, "n1", started=1.0) for restart in (0, 1)]
    store.record_failure("before", "bug", "", attempt("17", 0, "n1"))
    store.record_failure("now", "bug", "", attempt("17", 1, "n1"))
    assert holders.to_come(found, store.failures(), turns) == {"before", "next"}
    waiting = queued(monkeypatch, tmp_path, submission, (0, "17", "N/A", "PENDING"))
    assert holders.to_come(waiting, store.failures(), turns) == {"now", "before", "next"}


def test_an_adoption_that_is_cut_short_is_done_again(tmp_path, monkeypatch):
    submission = intend(tmp_path, 1, [["a"]], [1])
    submission.intent["launcher"]["process"] = str(process())
    queued(monkeypatch, tmp_path, submission, (0, "17", "N/A"))

    def killed(array, job):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.settle(submission, killed)
    adopted = []
    ledger.settle(submission, lambda array, job: adopted.append((array.number, job)))
    assert adopted == [(0, "17")] and submission.arrays[0].job == "17"


def test_an_intent_that_a_node_sees_late_is_waited_for(tmp_path):
    folder = tmp_path / "submissions" / "0001"
    submission = intend(tmp_path, 1, [["a"]], [1])
    hidden = folder / "hidden"
    (folder / "intent.json").rename(hidden)
    timer = threading.Timer(0.3, lambda: hidden.rename(folder / "intent.json"))
    timer.start()
    assert Submission(folder).tasks == [["a"]] == submission.tasks
    timer.join()


def test_a_stale_file_handle_is_asked_again(tmp_path, monkeypatch):
    submission = intend(tmp_path, 1, [["a"]], [1])
    read, stale = Path.read_text, [OSError(errno.ESTALE, "Stale file handle")]

    def read_text(path, *args, **kwargs):
        if stale:
            raise stale.pop()
        return read(path, *args, **kwargs)

    monkeypatch.setattr(ledger.Path, "read_text", read_text)
    assert submission.tasks == [["a"]]


def test_a_launcher_that_ended_is_not_believed_to_live(tmp_path):
    submission = intend(tmp_path, 1, [["a"]], [1])
    submission.intent["launcher"]["process"] = str(process())
    assert not submission.launcher_lives()


def test_a_young_launcher_on_another_machine_is_left_alone(tmp_path):
    submission = intend(tmp_path, 1, [["a"]], [1])
    submission.intent["launcher"]["process"] = str(process("login2"))
    assert submission.launcher_lives()
    os.utime(submission.folder / "intent.json", (0, time.time() - ledger.FOREIGN_LAUNCHER_S))
    assert not submission.launcher_lives()


def test_a_launcher_in_another_container_of_this_host_is_not_judged_by_its_pid(tmp_path):
    submission = intend(tmp_path, 1, [["a"]], [1])
    submission.intent["launcher"]["process"] = str(process(place="0" * 8))
    assert submission.launcher_lives()


def test_a_launcher_that_works_for_long_on_another_machine_is_seen_to_live(tmp_path, monkeypatch):
    submission = intend(tmp_path, 1, [["a"]], [1])
    submission.intent["launcher"]["process"] = str(process("login2"))
    intent = submission.folder / "intent.json"
    os.utime(intent, (0, time.time() - ledger.FOREIGN_LAUNCHER_S))
    monkeypatch.setattr(ledger, "HEARTBEAT_S", 0.01)
    with submission.heartbeat():
        until("a beat", submission.launcher_lives, 10)


def test_a_full_quota_is_not_taken_for_another_launcher(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="quota"):
        intend(tmp_path, 1, [["a"]], [1])
    assert list((tmp_path / "submissions").iterdir()) == []


def test_a_task_reads_its_own_slice_of_the_plan_alone(tmp_path):
    experiment = Experiment(sets=("red-fox", "blue-bus"), methods=("sdxl", "unmasked"), model="tiny", seeds=(0, 1))
    plan = make_plan("small", experiment, tmp_path)
    tasks = [list(plan.units)[:3], list(plan.units)[3:]]
    parts = [Slice(plan.only(keys), True, ("clipscore:tiny",)) for keys in tasks]
    place = intend(tmp_path, 1, tasks, [2], parts)
    for number, keys in enumerate(tasks):
        part = read_slice(place.folder, number)
        assert list(part.plan.units) == keys and part == parts[number]
        assert {cell.set for cell in part.plan.cells} == set(part.plan.sets)
        assert all(part.plan.units[key] == plan.units[key] for key in keys)
    (tmp_path / "submissions" / "0001" / "slices.jsonl").write_bytes(
        (place.folder / "slices.jsonl").read_bytes().replace(b'"sample": true', b'"sample": brok', 1)
    )
    assert read_slice(place.folder, 1) == parts[1]  # what is wrong with another's does not concern it
