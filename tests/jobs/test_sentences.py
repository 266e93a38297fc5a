"""The page's first screen: what it chooses to show, and sentences that say no more than the numbers carry."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from svdstory.jobs.report.cells import Study
from svdstory.jobs.report.findings import Findings, find
from svdstory.jobs.report.measurements import Measured
from svdstory.jobs.report.opening import choose_opening, shown_methods
from svdstory.jobs.report.sentences import caveat, sentences
from svdstory.jobs.report.statistics import Measurement

METHODS = ("sdxl", "consistory", "svd-log", "mine")


def study(numbers: dict[str, dict[str, float]], sets: int = 12, weights: str = "sha256:abc", groups=("good",)) -> Study:
    """numbers: metric -> method -> its level, the same on every set but for a little noise."""
    names = [f"set{s}" for s in range(sets)]
    group = {name: groups[i % len(groups)] for i, name in enumerate(names)}
    cells = [
        Measurement(metric, method, name, group[name], 0, level + 0.01 * random.Random(f"{method}{name}").random())
        for metric, levels in numbers.items()
        for method, level in levels.items()
        for name in names
    ]
    places = tuple(
        SimpleNamespace(cell=SimpleNamespace(set=name, method=method, seed=0), hole="")
        for name in names
        for method in METHODS
    )
    plan = SimpleNamespace(methods=dict.fromkeys(METHODS), sets={n: SimpleNamespace(group=group[n]) for n in names})
    return Study(None, plan, places, Measured(cells, {metric: {"weights": weights} for metric in numbers}))


def told(run: Study) -> str:
    return "\n".join(f"{s.text} ({s.numbers})" for s in sentences(run, find(run)))


IDENTITY = {"identity_distance": {"sdxl": 0.9, "consistory": 0.29, "svd-log": 0.6, "mine": 0.33}}


def test_the_subject_is_told_first_in_plain_words_with_the_numbers_in_brackets():
    text = told(study(IDENTITY)).splitlines()
    assert text[0].startswith("ConsiStory draws nearly one and the same subject; plain SDXL draws a new one nearly")
    assert text[0].endswith("each time. (identity distance 0.29 against 0.90)")
    assert text[1].startswith("No other method keeps the subject more alike; mine comes nearest.")


def test_no_sentence_has_words_of_statistics_and_the_tooltip_has_them():
    found = sentences(study(IDENTITY), find(study(IDENTITY)))
    text = " ".join(f"{s.text} {s.numbers}" for s in found)
    assert not any(word in text for word in ("Holm", "p =", "Wilcoxon", "bootstrap", "interval"))
    assert found[0].detail.startswith("plain SDXL − ConsiStory: +0.6")
    assert "Holm-corrected p = 0.00" in found[0].detail and found[0].detail.endswith("n = 12")


def test_a_method_that_beats_the_baseline_is_named_and_a_doubtful_lead_is_said_to_be_one():
    better = {"identity_distance": {**IDENTITY["identity_distance"], "mine": 0.1}}
    assert "mine keeps the subject more alike than ConsiStory. (identity" in told(study(better))
    run = study(IDENTITY)
    level = {"consistory": lambda i: 0.2901, "mine": lambda i: 0.29 + 0.001 * (-1) ** i}
    cells = [replace(c, value=level[c.method](i)) if c.method in level else c for i, c in enumerate(run.measured.cells)]
    doubtful = _with(run, cells)
    assert "mine keeps the subject more alike than ConsiStory, but that may be chance." in [
        s.text for s in sentences(*doubtful)
    ]


def test_few_sets_are_said_to_be_too_few_and_enough_are_not():
    assert caveat(study(IDENTITY, sets=4)) == "4 prompt sets are too few to rule out chance: it takes 6 at least."
    assert caveat(study(IDENTITY, sets=6)) == ""


def test_what_a_method_costs_is_told_where_it_is_sure_and_not_otherwise():
    clip = {"sdxl": 0.72, "consistory": 0.72, "svd-log": 0.5, "mine": 0.72}
    text = told(study({**IDENTITY, "clipscore": clip}))
    assert "SVD log fits its prompts less well than ConsiStory. (CLIPScore 0.5" in text
    same = dict.fromkeys(METHODS, 0.72)
    assert "No method is shown to follow the prompts better or worse than ConsiStory." in told(
        study({**IDENTITY, "clipscore": same})
    )
    assert "than ConsiStory, 4 prompt sets cannot tell." in told(study({**IDENTITY, "clipscore": clip}, sets=4))


def test_groups_are_told_apart_only_where_each_has_enough_sets():
    assert "On the good sets: " in told(study(IDENTITY, groups=("good", "bad")))
    assert "On the" not in told(study(IDENTITY, sets=8, groups=("good", "bad")))


def test_of_random_weights_nothing_is_said_and_without_numbers_the_command_is():
    assert told(study(IDENTITY, weights="random (no weights staged)")).count("\n") == 0
    assert "mean nothing" in told(study(IDENTITY, weights="random (no weights staged)"))
    assert "svdstory score RUN" in sentences(study({}), Findings("consistory", (), ()))[0].text


def test_the_opening_is_the_set_where_the_methods_differ_most_and_says_by_which_metric():
    run = study(IDENTITY)
    cells = [replace(c, value=2.0) if (c.set, c.method) == ("set7", "sdxl") else c for c in run.measured.cells]
    chosen = choose_opening(*_with(run, cells))
    assert (chosen.set, chosen.metric, chosen.values["sdxl"]) == ("set7", "identity_distance", 2.0)
    places = list(run.places)
    places[7 * len(METHODS)].hole = "failed: out of memory"
    assert choose_opening(*_with(run, cells)).set != "set7"  # a whole set is shown before one with holes


def test_random_numbers_choose_nothing():
    run = study(IDENTITY, weights="random")
    assert (choose_opening(run, find(run)).set, choose_opening(run, find(run)).metric) == ("set0", "")


@pytest.mark.parametrize("count", [2, 6, 7, 43])
def test_the_opening_shows_six_methods_at_most_with_plain_sdxl_the_baseline_and_both_ends(count):
    methods = ["sdxl", "consistory", *(f"m{i}" for i in range(count - 2))]
    shown = shown_methods(methods, "consistory", {m: i / 10 for i, m in enumerate(methods)})
    assert len(shown) == min(count, 6) and {"sdxl", "consistory"} <= shown
    assert count < 3 or {"m0", f"m{count - 3}"} <= shown


def _with(run: Study, cells: list[Measurement]) -> tuple[Study, Findings]:
    changed = Study(None, run.plan, run.places, replace(run.measured, cells=cells))
    return changed, find(changed)
