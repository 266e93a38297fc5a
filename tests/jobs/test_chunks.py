"""Cutting units into tasks and tasks into arrays."""

import pytest

from svdstory.jobs.cluster.chunks import Cost, arrays, cut, guess, shares
from svdstory.jobs.cluster.sites import load_site
from svdstory.pipeline.config.strict import InputError

UNITS = [f"{i:024x}" for i in range(400)]
V100 = load_site("charisma")  # 12 hours, 8 at once


def test_every_unit_is_in_one_task_and_in_order():
    tasks = cut(UNITS, V100, Cost(150), room=None)
    assert [key for task in tasks for key in task] == UNITS


def test_tasks_fit_their_time_limit():
    tasks = cut(UNITS, V100, Cost(600, 300), room=None)
    assert max(map(len, tasks)) * 600 + 300 <= 60 * V100.minutes - V100.signal_seconds
    assert len(tasks) >= V100.parallel


def test_few_short_units_share_one_model_load():
    assert len(cut(UNITS[:12], V100, Cost(10, 120), room=None)) == 1


def test_a_submit_cap_makes_longer_tasks_and_keeps_room_for_the_reduce_job():
    assert len(cut(UNITS, V100, Cost(600), room=3)) == 2


def test_a_full_queue_is_an_error_that_says_so():
    with pytest.raises(InputError, match="1 more jobs may be queued, a task and its reduce job need 2"):
        cut(UNITS, V100, Cost(600), room=1)


def test_the_report_on_a_v100_is_guessed_in_minutes_a_unit():
    assert guess(50, (1024, 1024), 5) == Cost(150.0)


@pytest.mark.parametrize(
    "tasks, most, sizes", [(12, 5, [4, 4, 4]), (5, 5, [5]), (6, 5, [3, 3]), (7, None, [7]), (0, 5, [])]
)
def test_no_array_is_larger_than_may_be(tasks, most, sizes):
    assert arrays(tasks, most) == sizes


def test_arrays_run_together_no_more_than_one_would():
    assert shares(1, 8) == [8] and sum(shares(3, 8)) == 8 and shares(9, 8) == [1] * 9
