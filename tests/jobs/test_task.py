"""The reduce job on a file system that shows finished units late; turns of a task that bring nothing."""

import threading
import time
from types import SimpleNamespace

import pytest

from svdstory.jobs.cluster import reduce_job
from svdstory.jobs.cluster.reduce_job import wait_for_late_units
from svdstory.jobs.node import scoring
from svdstory.jobs.node.scoring import Scored
from svdstory.jobs.node.stop import Stop
from svdstory.jobs.node.task import Progress, is_barren
from svdstory.jobs.queue import attempts
from svdstory.jobs.queue.attempts import TaskAttempt
from svdstory.jobs.queue.ledger import intend
from svdstory.jobs.study.scores import shards_of
from svdstory.jobs.study.store import Attempt, Store

KEY = "a" * 24


def turn(number: int, **facts) -> TaskAttempt:
    return TaskAttempt(0, "17_0", number, "n1", started=1000.0 + number, ended=1010.0 + number, **facts)


def test_the_reduce_job_waits_for_units_that_a_task_says_it_finished(tmp_path):
    place, store = intend(tmp_path, 1, [[KEY]], [1]), Store(tmp_path)
    attempts.write(place.folder, turn(0, ending="finished", made=1))
    timer = threading.Timer(0.3, lambda: store.publish(KEY, {"0.png": b"x"}, {}, Attempt.here()))
    timer.start()
    wait_for_late_units(place, store, deadline_s=20)
    assert store.is_finished(KEY)


def test_the_reduce_job_does_not_wait_for_failed_units_nor_for_killed_tasks(tmp_path):
    place, store = intend(tmp_path, 1, [[KEY], ["b" * 24]], [2]), Store(tmp_path)
    attempts.write(place.folder, turn(0, ending="finished", failed=1))
    store.record_failure(KEY, "bug", "a bug", Attempt.here())
    began = time.monotonic()
    wait_for_late_units(place, store, deadline_s=20)
    assert time.monotonic() - began < 10


def test_a_task_is_given_up_after_three_turns_without_a_unit_and_not_before(tmp_path):
    place = intend(tmp_path, 1, [[KEY]], [1])
    barren = []
    for number in range(3):
        attempts.write(place.folder, turn(number, ending="stopped"))
        barren.append(is_barren(place, turn(number), limit_s=3600))
    assert barren == [False, False, True]


def test_a_turn_that_hung_while_the_task_ran_elsewhere_judges_by_its_own_time(tmp_path):
    place = intend(tmp_path, 1, [[KEY]], [1])
    attempts.write(place.folder, turn(0, ending="stopped"))
    elsewhere = TaskAttempt(0, "17_0", 1, "n2", started=1001.0)  # still running: no end yet
    attempts.write(place.folder, elsewhere)
    assert not is_barren(place, turn(0), limit_s=3600)


def test_most_of_the_time_limit_without_a_unit_is_enough_to_give_up(tmp_path):
    place = intend(tmp_path, 1, [[KEY]], [1])
    attempts.write(place.folder, turn(0, ending="stopped"))
    assert is_barren(place, turn(0), limit_s=15)


def test_a_garbled_line_of_an_attempt_is_passed_over(tmp_path):
    place = intend(tmp_path, 1, [[KEY]], [1])
    attempts.write(place.folder, turn(0, ending="finished", made=1))
    with open(place.folder / "task-0.jsonl", "a") as file:
        file.write('{"task": 0, "job": "17_{"task"\n')
    assert [found.made for found in attempts.read(place.folder)] == [1]


def test_the_unit_at_hand_is_the_next_that_nothing_was_told_of():
    progress = Progress()
    progress.report("a", "found", 0.0)
    progress.report("b", "not finite", 1.0)
    assert progress.at_hand(["a", "b", "c", "d"]) == "c" and progress.at_hand(["a", "b"]) == ""


def test_units_that_failed_before_elsewhere_do_not_blame_this_node():
    progress = Progress(known={"a", "b", "c"})
    for key in "abc":
        progress.report(key, "not finite", 0.1)
    assert not progress.node_is_bad
    for key in "def":
        progress.report(key, "bug", 0.1)
    assert progress.node_is_bad


def test_turns_that_were_killed_do_not_make_a_task_barren(tmp_path):
    place = intend(tmp_path, 1, [[KEY]], [1])
    for number in range(2):
        attempts.write(place.folder, TaskAttempt(0, "17_0", number, "n1", started=1000.0 + number))
    attempts.write(place.folder, turn(2, ending="stopped"))
    assert not is_barren(place, turn(2), limit_s=3600)


def test_a_turn_that_only_scored_is_not_barren(tmp_path):
    place = intend(tmp_path, 1, [[KEY]], [1])
    for number in range(3):
        attempts.write(place.folder, turn(number, ending="stopped", scored=5))
    assert not is_barren(place, turn(2), limit_s=15)


def test_scoring_is_told_from_sampling_in_the_record_of_a_turn():
    progress, attempt = Progress(), turn(0)
    progress.report("a", "done", 1.0)
    assert progress.at_end(attempt, "finished").scored == progress.at_end(attempt, "finished").score_s == 0
    progress.last = time.time() - 5
    progress.report_score("clipscore", "a", "scored", 2.0)
    progress.report_score("dreamsim", "a", "out of memory", 2.0)
    ended = progress.at_end(attempt, "finished")
    assert (ended.made, ended.scored) == (1, 1) and ended.score_s >= 5
    assert progress.unscored(["a", "b"], ["clipscore"]) == [("clipscore", "b")]


def test_a_task_knows_the_shards_of_its_own_earlier_turns_alone(tmp_path):
    assert shards_of(tmp_path, "17_3") == []
    (tmp_path / "scores" / "embeddings").mkdir(parents=True)
    mine = ["17_3-r0-n1-7-01234567-89abcd.00000000.jsonl", "17_3-r1-n2-8-01234567-89abcd.00000000.jsonl"]
    for name in (
        *mine,
        f".{mine[0]}",
        mine[0].replace("17_3", "17_30"),
        mine[0].replace("17_3", "17"),
        "17_3-r2-notes",
    ):
        (tmp_path / "scores" / name).touch()
    assert shards_of(tmp_path, "17_3") == mine


@pytest.mark.parametrize("stopped, expected", [("", "over"), ("asked to stop", "given back")])
def test_a_signal_during_the_last_batch_of_scores_costs_no_report(tmp_path, monkeypatch, stopped, expected):
    told = []

    class Asked(Stop):
        """A signal came."""

        def listen(self):
            self._asked.set()

        def give_back(self):
            told.append("given back")

        def over(self):
            told.append("over")

    monkeypatch.setattr(reduce_job, "Stop", Asked)
    monkeypatch.setattr(scoring, "score_run", lambda *_, **__: Scored(stopped=stopped))
    place = intend(tmp_path, 1, [[KEY]], [1], site={"signal_seconds": 30}, scorers=["clipscore"])
    reduce_job.score_all(place, SimpleNamespace(model=SimpleNamespace(note="")))
    assert told[0] == expected
