"""Statistics on cases that can be checked by hand, and against scipy."""

import numpy as np
import pytest
from scipy import stats

from svdstory.jobs.report.statistics import Measurement, bootstrap, compare, excess, holm, summarise, wilcoxon


def cells(method, values, metric="clipscore", group="good", first=0):
    """values: one list of seeds' numbers for each set."""
    return [
        Measurement(metric, method, f"set{first + s}", group, seed, value, "" if value is not None else "timeout")
        for s, seeds in enumerate(values)
        for seed, value in enumerate(seeds)
    ]


def only(items, **wanted):
    found = [item for item in items if all(getattr(item, key) == value for key, value in wanted.items())]
    assert len(found) == 1
    return found[0]


def test_seeds_are_averaged_within_a_set_before_sets_are_averaged():
    summary = only(summarise(cells("a", [[0.0, 1.0], [1.0, 1.0], [2.0, 2.0]])), group="all")
    assert summary.interval.mean == pytest.approx((0.5 + 1 + 2) / 3)
    assert (summary.sets, summary.cells, summary.cells_missing, summary.sets_left_out) == (3, 6, 0, 0)


def test_a_set_with_a_missing_cell_is_left_out_and_counted():
    summary = only(summarise(cells("a", [[0.0, 1.0], [100.0, None], [2.0, 2.0]])), group="all")
    assert summary.interval.mean == pytest.approx(1.25)
    assert (summary.sets, summary.sets_left_out, summary.cells, summary.cells_missing) == (2, 1, 4, 1)


def test_a_method_without_any_complete_set_has_no_mean_but_is_there():
    summary = only(summarise(cells("a", [[None], [None]])), group="all")
    assert summary.interval is None and summary.sets_left_out == 2


def test_good_and_bad_sets_are_summed_up_apart():
    both = cells("a", [[1.0], [1.0]]) + cells("a", [[3.0], [5.0]], group="bad", first=2)
    summaries = summarise(both)
    assert {s.group: s.interval.mean for s in summaries} == {"all": 2.5, "good": 1.0, "bad": 4.0}


def test_the_interval_is_scipys_bca_and_does_not_depend_on_what_else_is_asked_for():
    values, others = np.random.default_rng(0).normal(0.3, 0.05, (2, 20))
    interval = bootstrap([values])[0]
    again = bootstrap([others, values])[1]
    assert (interval.low, interval.high) == pytest.approx((again.low, again.high), rel=1e-12)
    expected = stats.bootstrap((values,), np.mean, random_state=np.random.default_rng(1)).confidence_interval
    assert (interval.low, interval.high) == pytest.approx(expected, abs=2e-3)
    assert interval.low < interval.mean < interval.high


def test_equal_values_have_an_interval_of_no_width_and_one_value_has_none():
    equal, one, none = bootstrap([np.full(5, 0.25), np.array([0.25]), np.array([])])
    assert equal.low == equal.high == 0.25
    assert one.mean == 0.25 and one.low is None
    assert none is None


def test_the_difference_is_paired_by_set_and_seed():
    base = cells("base", [[0.1, 0.9], [0.5, 0.5], [0.2, 0.4]])
    better = cells("new", [[0.2, 1.0], [0.6, 0.6], [0.3, 0.5]])  # 0.1 more everywhere
    found = only(compare(base + better, "base"), group="all")
    assert found.difference.mean == pytest.approx(0.1) and found.difference.low == pytest.approx(0.1)
    assert (found.sets, found.higher) == (3, 3)


def test_only_sets_complete_in_both_are_compared_and_the_others_counted():
    base = cells("base", [[1.0, 1.0], [1.0, None], [1.0, 1.0]])
    new = cells("new", [[2.0, 2.0], [50.0, 50.0], [None, 2.0]])
    found = only(compare(base + new, "base"), group="all")
    assert found.difference.mean == pytest.approx(1.0) and (found.sets, found.sets_left_out) == (1, 2)


def test_wilcoxon_of_six_gains_is_the_exact_one_in_thirty_two():
    assert wilcoxon(np.array([1.0, 2, 3, 4, 5, 6])) == pytest.approx(2 / 2**6)


def test_wilcoxon_of_no_differences_is_one_and_of_nothing_is_none():
    assert wilcoxon(np.zeros(5)) == 1.0
    assert wilcoxon(np.array([])) is None


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1, made monotone
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_p_is_corrected_for_the_methods_compared_within_one_metric_and_group():
    base = cells("base", [[v] for v in (1.0, 2, 3, 4, 5, 6)])
    gains = cells("gains", [[v * 1.1] for v in (1.0, 2, 3, 4, 5, 6)])
    mixed = cells("mixed", [[v] for v in (1.5, 1.6, 3.3, 3.8, 5.2, 5.9)])
    found = {c.method: c for c in compare(base + gains + mixed, "base") if c.group == "all"}
    assert found["gains"].compared == 2 and found["gains"].p_holm == pytest.approx(2 * found["gains"].p)
    alone = only(compare(base + gains, "base"), group="all")
    assert alone.compared == 1 and alone.p_holm == alone.p


def test_a_baseline_that_was_not_measured_is_an_error():
    with pytest.raises(ValueError, match="baseline 'sdxl' is not among"):
        compare(cells("a", [[1.0]]), "sdxl")


def test_leakage_is_the_excess_over_plain_samplings_same_set_and_seed():
    plain = cells("sdxl", [[0.5, 0.6]], metric="background")
    method = cells("svd", [[0.7, 0.6]], metric="background")
    found = [c.value for c in excess(plain + method, "background", "sdxl", "difference") if c.method == "svd"]
    assert found == pytest.approx([0.2, 0.0])


def test_layout_is_a_ratio_and_a_missing_reference_leaves_the_cell_missing_with_its_cause():
    plain = cells("sdxl", [[0.4, None]], metric="layout")
    method = cells("svd", [[0.2, 0.2]], metric="layout")
    first, second = [c for c in excess(plain + method, "layout", "sdxl", "ratio") if c.method == "svd"]
    assert first.metric == "layout relative to sdxl" and first.value == pytest.approx(0.5)
    assert second.value is None and second.cause == "sdxl: timeout"
