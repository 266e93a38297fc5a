"""The memory formula against what was counted."""

import json
from pathlib import Path

import pytest

from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.models.memory import DECODING, WEIGHTS, largest_micro_batch, peak_gib, sampling_gib

COUNTED = sorted((Path(__file__).parents[2] / "results" / "benchmarks").glob("memory-*.json"))
SIZE = (1024, 1024)


@pytest.mark.parametrize("path", COUNTED, ids=lambda p: p.stem)
def test_the_formula_is_within_a_tenth_of_every_counted_peak(path):
    *sampled, decoded = json.loads(path.read_text())["rows"]
    for row in sampled:
        method = named(row["method"])
        if row["anchors"]:
            method = Method.model_validate({**method.model_dump(), "n_anchors": row["anchors"]})
        micro_batch = None if row["micro-batch"] == "all" else row["micro-batch"]
        predicted = WEIGHTS + sampling_gib(method, row["images"], SIZE, micro_batch)
        assert predicted == pytest.approx(row["peak GiB"], rel=0.1), row
    assert decoded["method"] == "decode"
    assert decoded["weights GiB"] + DECODING == pytest.approx(decoded["peak GiB"], rel=0.1)


def test_memory_does_not_grow_with_images_at_a_fixed_micro_batch():
    consistory = named("consistory")
    assert peak_gib(consistory, 5, SIZE, 1) == peak_gib(consistory, 500, SIZE, 1) < 15


def test_a_single_image_peaks_at_its_decoding_which_grows_with_the_area():
    small, large = (peak_gib(named("sdxl"), 1, size, 1) for size in (SIZE, (2048, 1024)))
    assert large - small == pytest.approx(DECODING) and small > WEIGHTS + DECODING


def test_query_blending_counts_where_there_are_many_rows():
    blended, plain = (peak_gib(named(name), 20, SIZE, None) for name in ("consistory", "consistory-no-query-blending"))
    assert blended - plain > 2


def test_the_micro_batch_is_chosen_for_the_card():
    consistory = named("consistory")
    small, large = (largest_micro_batch(consistory, 50, SIZE, card) for card in (16, 32))
    assert 1 <= small < large <= 48
    assert largest_micro_batch(consistory, 5, SIZE, 6) is None


def test_random_reference_fits_whole_or_not_at_all():
    assert largest_micro_batch(named("random-reference"), 8, SIZE, 16) == 8
    assert largest_micro_batch(named("random-reference"), 50, SIZE, 16) is None
