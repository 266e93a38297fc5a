"""A node is left out for what goes well elsewhere, and never for a fault of the code."""

import time
from dataclasses import replace

import pytest

from svdstory.jobs.queue import attempts
from svdstory.jobs.queue.attempts import TaskAttempt
from svdstory.jobs.queue.ledger import intend
from svdstory.jobs.queue.nodes import RECENT_S, bad_nodes
from svdstory.jobs.study.store import Store
from tests.jobs.pretend import attempt

METHODS = {"a1": "sdxl", "a2": "sdxl", "b1": "broken", "b2": "broken"}


@pytest.fixture
def blamed(tmp_path):
    """Task 0 (a1, b1) ended badly on n1, task 1 (a2, b2) did well on n2. Gives the nodes that are left out."""

    def judge(failed=("a1",), made=("a2",), ending="bad node", code="now", ago=60.0, good_node="n2"):
        submission = intend(tmp_path, 1, [["a1", "b1"], ["a2", "b2"]], [2], code=code)
        began, store = time.time() - ago, Store(tmp_path)
        bad = TaskAttempt(0, "17_0", 0, "n1", began, began + 9, ending, failed=3)
        attempts.write(submission.folder, bad)
        if made:
            good = replace(bad, task=1, job="17_1", node=good_node, ending="finished", made=len(made), failed=0)
            attempts.write(submission.folder, good)
        for key in failed:
            store.record_failure(key, "bug", "", attempt("17_0", 0, "n1"))
        return bad_nodes([submission], "now", METHODS, set(made), store.failures())

    return judge


def test_a_node_where_units_fail_whose_method_does_well_elsewhere_is_left_out(blamed):
    assert blamed() == ["n1"]


def test_a_node_where_the_model_does_not_load_is_left_out(blamed):
    assert blamed(failed=(), ending="crashed") == ["n1"]


@pytest.mark.parametrize(
    "what",
    [
        {"made": ()},
        {"failed": ("b1",), "made": ("a2",)},
        {"code": "before the bug was mended"},
        {"ago": RECENT_S + 1},
        {"good_node": "n1"},
    ],
    ids=["nothing succeeded", "a method that fails everywhere", "other code", "long ago", "it did well itself"],
)
def test_a_fault_of_the_code_leaves_no_node_out(blamed, what):
    assert blamed(**what) == []
