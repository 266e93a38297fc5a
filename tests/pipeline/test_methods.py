"""Switches that would silently do nothing are refused; what the ablations use is not."""

import pytest

from svdstory.pipeline.config.methods import Method, SpectralFilter, named


def test_a_filter_that_would_act_at_step_0_alone_is_refused():
    for switches in (dict(steps=(0, 0)), dict(steps=(0, 4), every=5)):
        with pytest.raises(ValueError, match="would do nothing: at step 0"):
            SpectralFilter(keep_top=1, **switches)
    assert SpectralFilter(keep_top=1, steps=(0, 5), every=5).acts_at(5)


def test_query_blending_without_anything_to_blend_is_refused():
    with pytest.raises(ValueError, match="query_blending would do nothing"):
        Method(query_blending=True)
    assert named("consistory-no-attention").query_blending  # pulls back what injection changes
