"""The report's claims asked of numbers whose answer is known."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from svdstory.jobs.report.claims import Claim, answer, claims
from svdstory.jobs.report.statistics import Measurement, compare
from svdstory.jobs.report.tables.table_files import answer_rows
from svdstory.jobs.study.experiment import find_experiment, read_experiment, read_methods

AXES = {"consistency": "identity_distance", "leakage": "scene_leakage excess over sdxl"}


def cells(metric, method, values, seeds=2):
    return [
        Measurement(metric, method, f"set{s}", "", seed, value + 0.001 * seed)
        for s, value in enumerate(values)
        for seed in range(seeds)
    ]


def asked(expected, axis="consistency"):
    return [Claim(claim="it is so", method="a", than="b", axis=axis, expected=expected)]


SETS = range(12)
NEAR = [0.30 + 0.001 * s for s in SETS]
FAR = [0.90 + 0.002 * s for s in SETS]


@pytest.mark.parametrize("expected, verdict", [("better", "yes"), ("worse", "no"), ("same", "no"), (None, "better")])
def test_a_lower_distance_beyond_chance_is_better_and_answers_what_was_expected(expected, verdict):
    (found,) = answer(
        cells("identity_distance", "a", NEAR) + cells("identity_distance", "b", FAR), AXES, asked(expected)
    )
    assert (found.found, found.verdict, found.sets) == ("better", verdict, 12)
    assert found.difference.low <= found.difference.mean <= found.difference.high < 0


@pytest.mark.parametrize(
    "expected, verdict", [("better", "not shown"), ("same", "not contradicted"), (None, "not shown")]
)
def test_what_chance_may_do_is_not_shown(expected, verdict):
    other = [value + (0.01 if s % 2 else -0.01) for s, value in enumerate(NEAR)]
    (found,) = answer(
        cells("identity_distance", "a", NEAR) + cells("identity_distance", "b", other), AXES, asked(expected)
    )
    assert (found.found, found.verdict) == ("same", verdict)


def test_the_contrast_is_the_comparison_to_a_baseline_where_that_is_the_other_method():
    measured = cells("identity_distance", "a", NEAR) + cells("identity_distance", "b", FAR)
    (found,) = answer(measured, AXES, asked("better"))
    known = next(c for c in compare(measured, "b") if c.group == "all")
    assert (found.difference, found.p_holm) == (known.difference, known.p)


def test_claims_whose_methods_or_axis_were_not_measured_are_left_out():
    measured = cells("identity_distance", "a", NEAR)
    assert answer(measured, AXES, asked("better")) == []
    assert answer(measured + cells("identity_distance", "b", FAR), AXES, asked("better", axis="leakage")) == []


def test_the_shipped_claims_are_about_methods_that_an_experiment_has():
    shipped = ("miniature-study", "report", "personalisation")
    study, report, pictures = (set(read_methods(read_experiment(find_experiment(n)))) for n in shipped)
    asked = {m: claim.group for claim in claims(("named", "open")) for m in (claim.method, claim.than)}
    assert set(asked) <= study | report | pictures
    assert {m for m, group in asked.items() if group} <= study


def test_named_and_open_sets_are_asked_apart_with_and_without_injection():
    leaks = [c for c in claims(("named", "open")) if c.claim.startswith("Masks stop")]
    assert [(c.method, c.than, c.group) for c in leaks] == [
        ("consistory", "unmasked", "open"),
        ("consistory", "unmasked", "named"),
        ("consistory-no-injection", "unmasked-no-injection", "open"),
        ("consistory-no-injection", "unmasked-no-injection", "named"),
    ]
    assert leaks[2].claim == "Masks stop the leakage, no injection (open sets)"
    assert [c.group for c in claims(("open",)) if c.claim.startswith("Masks stop")] == ["open", "open"]
    assert [c.group for c in claims(("good", "bad")) if c.claim.startswith("Masks stop")] == ["", ""]


def test_a_claim_about_a_group_is_answered_by_its_sets_alone():
    metric = "scene_leakage excess over sdxl"
    a, b = cells(metric, "unmasked", FAR, seeds=1), cells(metric, "sdxl", NEAR, seeds=1)
    named = [replace(m, set=m.set + "-named", group="named", value=0.3) for m in [*a, *b]]
    found = answer([replace(m, group="open") for m in [*a, *b]] + named, AXES)
    by_group = {x.claim.group: x for x in found if x.claim.claim.startswith("Extended attention without")}
    assert (by_group["open"].found, by_group["open"].sets, by_group["open"].verdict) == ("worse", 12, "yes")
    assert (by_group["named"].found, by_group["named"].verdict) == ("same", "not shown")


def study_of(weights):
    return SimpleNamespace(measured=SimpleNamespace(protocols={"identity_distance": {"weights": weights}}))


def test_a_row_names_both_methods_and_the_interval_and_random_weights_have_no_verdict():
    found = answer(cells("identity_distance", "a", NEAR) + cells("identity_distance", "b", FAR), AXES, asked("better"))
    row = answer_rows(found, study_of("sha256"))[0]
    assert row[1] == "Identity distance: a − b" and row[2].startswith("−0.6") and "[−0.6" in row[2] and row[-1] == "yes"
    assert answer_rows(found, study_of("random (no weights staged)"))[0][-1] == "random weights"


def test_of_five_sets_nothing_is_said():
    (found,) = answer(
        cells("identity_distance", "a", NEAR[:5]) + cells("identity_distance", "b", FAR[:5]), AXES, asked("better")
    )
    assert found.verdict == "too few sets"
