"""`svdstory bench scoring` takes every shipped scorer."""

import pytest

from svdstory.jobs.bench.scoring_time import time_scorer
from svdstory.pipeline.config.strict import InputError


@pytest.mark.parametrize("name", ["world", "clipscore:miniature", "layout:tiny", "clip-i:tiny"])
def test_a_scorer_is_timed_with_its_network_built_before(name):
    timing = time_scorer(name, 5, 64, "cpu")
    assert timing.images == 5 and timing.first_s > 0 and timing.peak_mib > 0 and timing.weights


def test_pictures_that_the_world_does_not_judge_are_refused_before_they_are_made():
    with pytest.raises(InputError, match="--size 64"):
        time_scorer("world", 5, 1024, "cpu")
