"""Switches that would silently do nothing are refused; what the ablations use is not. Methods and their twins."""

import pytest

from svdstory.pipeline.config.methods import Method, SpectralFilter
from svdstory.pipeline.config.named_methods import MethodEntry, expand, named, shipped_entries


def test_a_filter_that_would_act_at_step_0_alone_is_refused():
    for switches in (dict(steps=(0, 0)), dict(steps=(0, 4), every=5)):
        with pytest.raises(ValueError, match="would do nothing: at step 0"):
            SpectralFilter(keep_top=1, **switches)
    assert SpectralFilter(keep_top=1, steps=(0, 5), every=5).acts_at(5)


def test_query_blending_without_anything_to_blend_is_refused():
    with pytest.raises(ValueError, match="query_blending would do nothing"):
        Method(query_blending=True)
    assert named("consistory-no-attention").query_blending  # pulls back what injection changes


def test_the_reports_methods_are_consistory_with_another_extended_attention_and_nothing_else():
    baseline = named("consistory").switches()
    for name in ("unmasked", "svd-fraction-0.05", "svd-energy-0.95", "svd-log2", "svd-kv-0.01-0.1"):
        changed = {key for key, value in named(name).switches().items() if baseline.get(key) != value}
        assert changed <= {"extended_attention", "filter_k", "filter_v"}, name
        assert set(baseline) - set(named(name).switches()) == {"mask_dropout"}  # of masks that are not there


def test_every_method_that_injects_has_a_twin_that_differs_in_injection_alone():
    for name, method in [pair for entry in shipped_entries() for pair in expand(entry).items()]:
        if method.feature_injection and method.extended_attention != "off":
            assert named(f"{name}-no-injection") == method.model_copy(update={"feature_injection": False})


def test_a_sweep_a_base_and_a_method_of_ones_own_have_twins_too():
    assert list(expand("svd-energy-no-injection"))[0] == "svd-energy-0.9-no-injection"
    own = {
        "mine": MethodEntry(base="svd-log2-no-injection"),
        "other": MethodEntry(base="svd-log2"),
        **shipped_entries(),
    }
    assert expand("mine", own)["mine"] == expand("other-no-injection", own)["other-no-injection"]
