"""The memory formula against what was counted."""

import json
from pathlib import Path

import pytest

from svdstory.pipeline.memory import BESIDE, largest_micro_batch, peak_gib
from svdstory.pipeline.methods import Method, named

COUNTED = sorted((Path(__file__).parents[2] / "results" / "benchmarks").glob("memory-*.json"))


@pytest.mark.parametrize("path", COUNTED, ids=lambda p: p.stem)
def test_the_formula_is_within_a_tenth_of_every_counted_peak(path):
    for row in json.loads(path.read_text())["rows"]:
        method = named(row["method"])
        if row["anchors"]:
            method = Method.model_validate({**method.model_dump(), "n_anchors": row["anchors"]})
        micro_batch = None if row["micro-batch"] == "all" else row["micro-batch"]
        predicted = peak_gib(method, row["images"], (1024, 1024), micro_batch) - BESIDE
        assert predicted == pytest.approx(row["peak GiB"], rel=0.1), row


def test_memory_does_not_grow_with_images_at_a_fixed_micro_batch():
    consistory = named("consistory")
    assert peak_gib(consistory, 5, (1024, 1024), 1) == peak_gib(consistory, 500, (1024, 1024), 1) < 15


def test_the_micro_batch_is_chosen_for_the_card():
    consistory = named("consistory")
    small, large = (largest_micro_batch(consistory, 50, (1024, 1024), card) for card in (16, 32))
    assert 1 <= small < large <= 48
    assert largest_micro_batch(consistory, 5, (1024, 1024), 6) is None
